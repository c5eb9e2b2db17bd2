package auth

import (
	"net/netip"
	"strings"
	"testing"
)

func TestDecide(t *testing.T) {
	failed := func(p Policy) Verdict {
		return Verdict{Status: Status(p), Result: ResultFail, Domain: "bank.test", Policy: p}
	}
	faulty := Verdict{Status: StatusNoFrom, Result: ResultPermerror, Reason: string(FromRepeated), Fault: FromRepeated}
	overridden := Verdict{Status: StatusAccept, Result: ResultFail, Domain: "bank.test", Policy: PolicyReject,
		Sealer: "list.test"}
	trusting := Enforcement{
		Limit: PolicyReject, Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"),
			netip.MustParsePrefix("2001:db8::/32")}, Domains: []string{"Lists.Test", "(x)"},
	}
	unknown := func(p Policy) Verdict {
		return Verdict{Status: StatusTempError, Result: ResultTemperror, Domain: "bank.test", Policy: p}
	}
	named := func(v Verdict) Verdict { v.Named = true; return v }
	deferring := trusting
	deferring.Unknown = UnknownDefer
	tests := []struct {
		name   string
		e      Enforcement
		v      Verdict
		o      Origin
		action Action
		exempt string
	}{
		{"nothing is enforced", Enforcement{}, failed(PolicyReject), Origin{}, ActionAccept, ""},
		{"none is enforced", Enforcement{Limit: PolicyNone}, failed(PolicyReject), Origin{}, ActionAccept, ""},
		{"quarantine, none", Enforcement{Limit: PolicyQuarantine}, failed(PolicyNone), Origin{}, ActionAccept, ""},
		{"quarantine, quarantine", Enforcement{Limit: PolicyQuarantine}, failed(PolicyQuarantine), Origin{},
			ActionQuarantine, ""},
		{"quarantine, reject", Enforcement{Limit: PolicyQuarantine}, failed(PolicyReject), Origin{},
			ActionQuarantine, ""},
		{"reject, none", Enforcement{Limit: PolicyReject}, failed(PolicyNone), Origin{}, ActionAccept, ""},
		{"reject, quarantine", Enforcement{Limit: PolicyReject}, failed(PolicyQuarantine), Origin{},
			ActionQuarantine, ""},
		{"reject, reject", Enforcement{Limit: PolicyReject}, failed(PolicyReject), Origin{}, ActionReject, ""},
		{"passed", trusting, Verdict{Status: StatusAccept, Result: ResultPass, Policy: PolicyReject}, Origin{},
			ActionAccept, ""},
		{"no record", trusting, Verdict{Status: StatusNoRecord}, Origin{}, ActionAccept, ""},
		{"no answer", trusting, Verdict{Status: StatusTempError, Policy: PolicyReject}, Origin{}, ActionAccept, ""},
		{"off", trusting, Off("x"), Origin{}, ActionAccept, ""},

		{"sealer", Enforcement{Limit: PolicyReject}, overridden, Origin{}, ActionAccept, "sealer list.test"},
		{"sealer, nothing enforced", Enforcement{}, overridden, Origin{}, ActionAccept, ""},
		{"network", trusting, failed(PolicyReject), Origin{Client: netip.MustParseAddr("192.0.2.7")}, ActionAccept,
			"network"},
		{"network, mapped", trusting, failed(PolicyReject), Origin{Client: netip.MustParseAddr("::ffff:192.0.2.7")},
			ActionAccept, "network"},
		{"network, with a zone", trusting, failed(PolicyReject),
			Origin{Client: netip.MustParseAddr("2001:db8::1%eth0")},
			ActionAccept, "network"},
		{"another network", trusting, failed(PolicyReject), Origin{Client: netip.MustParseAddr("198.51.100.1")},
			ActionReject, ""},
		{"list, SPF", trusting, failed(PolicyReject), Origin{Identifiers: Identifiers{SPF: "bounces.lists.test"}},
			ActionAccept, "domain lists.test"},
		{"list, signature", trusting, failed(PolicyQuarantine),
			Origin{Identifiers: Identifiers{DKIM: []string{"a.test", "LISTS.test"}}}, ActionAccept,
			"domain lists.test"},
		{"not the list", trusting, failed(PolicyReject),
			Origin{Identifiers: Identifiers{SPF: "test", DKIM: []string{"evil-lists.test", "lists.test.evil", "(x)"}}},
			ActionReject, ""},
		{"the author is no exemption", trusting, Verdict{Status: StatusReject, Domain: "lists.test"}, Origin{},
			ActionReject, ""},

		{"put off", deferring, unknown(PolicyReject), Origin{}, ActionDefer, ""},
		{"put off, quarantine", Enforcement{Limit: PolicyQuarantine, Unknown: UnknownDefer}, unknown(PolicyQuarantine),
			Origin{}, ActionDefer, ""},
		{"put off, no policy known", Enforcement{Limit: PolicyQuarantine, Unknown: UnknownDefer}, unknown(""),
			Origin{}, ActionDefer, ""},
		{"not put off, nothing enforced", Enforcement{Unknown: UnknownDefer}, unknown(PolicyReject), Origin{},
			ActionAccept, ""},
		{"not put off, none enforced", Enforcement{Limit: PolicyNone, Unknown: UnknownDefer}, unknown(PolicyReject),
			Origin{}, ActionAccept, ""},
		{"not put off", Enforcement{Limit: PolicyReject, Unknown: UnknownAccept}, unknown(PolicyReject), Origin{},
			ActionAccept, ""},
		{"not put off for nothing", deferring, unknown(PolicyNone), Origin{}, ActionAccept, ""},
		{"not put off for a name", deferring, named(unknown(PolicyReject)), Origin{}, ActionAccept, ""},
		{"put off, network", deferring, unknown(PolicyReject), Origin{Client: netip.MustParseAddr("192.0.2.7")},
			ActionAccept, "network"},
		{"put off, list", deferring, unknown(""), Origin{Identifiers: Identifiers{SPF: "lists.test"}},
			ActionAccept, "domain lists.test"},
		{"put off, list not known", deferring, unknown(""),
			Origin{Identifiers: Identifiers{SPFUnknown: "lists.test", DKIMUnknown: []string{"lists.test"}}},
			ActionDefer, ""},
		{"failed while deferring", deferring, failed(PolicyReject), Origin{}, ActionReject, ""},
		{"faulty From while deferring", Enforcement{Limit: PolicyReject, FaultyFrom: true, Unknown: UnknownDefer},
			Verdict{Status: StatusTempError, Fault: FromRepeated, Reason: string(FromRepeated)}, Origin{}, ActionReject,
			""},
		{"sealer while deferring", deferring, overridden, Origin{}, ActionAccept, "sealer list.test"},

		{"faulty From", Enforcement{Limit: PolicyReject}, faulty, Origin{}, ActionAccept, ""},
		{"faulty From, refused", Enforcement{Limit: PolicyReject, FaultyFrom: true}, faulty, Origin{}, ActionReject,
			""},
		{"faulty From, set aside", Enforcement{Limit: PolicyQuarantine, FaultyFrom: true}, faulty, Origin{},
			ActionQuarantine, ""},
		{"no From", Enforcement{Limit: PolicyReject, FaultyFrom: true},
			Verdict{Status: StatusNoFrom, Fault: FromMissing}, Origin{}, ActionAccept, ""},
		{"nobody in From", Enforcement{Limit: PolicyReject, FaultyFrom: true},
			Verdict{Status: StatusNoFrom, Fault: FromNobody}, Origin{}, ActionAccept, ""},
		{"a host in From", Enforcement{Limit: PolicyReject, FaultyFrom: true},
			Verdict{Status: StatusNoFrom, Fault: FromLiteral}, Origin{}, ActionAccept, ""},
		{"a host in From, and a domain that asks for more", Enforcement{Limit: PolicyReject, FaultyFrom: true},
			Verdict{Status: StatusReject, Domain: "bank.test", Fault: FromLiteral}, Origin{}, ActionReject, ""},
		{"faulty From of a domain that asks for nothing", Enforcement{Limit: PolicyReject, FaultyFrom: true},
			Verdict{Status: StatusNone, Result: ResultFail, Fault: FromRepeated}, Origin{}, ActionReject, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d := test.e.Decide(test.v, test.o)
			if d.Action != test.action || d.Exempt != test.exempt {
				t.Errorf("got %s, %q", d.Action, d.Exempt)
			}
			if d.Action == ActionDefer {
				if d.Code != 451 || d.Enhanced != "4.7.0" || !strings.Contains(d.Text, "DMARC") ||
					!strings.Contains(d.Text, "bank.test") {
					t.Errorf("reply %d %s %q", d.Code, d.Enhanced, d.Text)
				}
				return
			}
			if rejected := d.Action == ActionReject; rejected != (d.Code == 550 && d.Enhanced == "5.7.26") ||
				rejected != strings.Contains(d.Text, "DMARC") || rejected != strings.Contains(d.Text,
				test.v.Domain+test.v.Reason) &&
				test.v.Domain+test.v.Reason != "" {
				t.Errorf("reply %d %s %q", d.Code, d.Enhanced, d.Text)
			}
		})
	}
}

// TestDecideText: the longest reply is no longer than a reply may be.
// https://www.rfc-editor.org/rfc/rfc5321#section-4.5.3.1.5
func TestDecideText(t *testing.T) {
	longest := strings.Repeat("a.", 125) + "com"
	d := Enforcement{Limit: PolicyReject}.Decide(Verdict{Status: StatusReject, Domain: longest}, Origin{})
	if n := len("550 5.7.26 ") + len(d.Text) + len("\r\n"); !strings.HasSuffix(d.Text, longest) || n > 512 {
		t.Errorf("%d octets: %s", n, d.Text)
	}
	d = Enforcement{Limit: PolicyReject, Unknown: UnknownDefer}.Decide(
		Verdict{Status: StatusTempError, Domain: longest}, Origin{})
	if n := len("451 4.7.0 ") + len(d.Text) + len("\r\n"); !strings.Contains(d.Text, longest) || n > 512 {
		t.Errorf("%d octets: %s", n, d.Text)
	}
}

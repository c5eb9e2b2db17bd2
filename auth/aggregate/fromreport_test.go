package aggregate

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"slipstream/auth"
	"slipstream/auth/arc"
)

func TestFromReport(t *testing.T) {
	policy := func(record string) func(*auth.Report) {
		return func(r *auth.Report) {
			parsed, _ := auth.ParseRecord(record)
			r.DMARC.Record, r.DMARC.Policy = &parsed, parsed.P
		}
	}
	passes := func(r *auth.Report) {
		r.DMARC.Status, r.DMARC.Result, r.DMARC.SPFAligned = auth.StatusAccept, auth.ResultPass, true
	}
	did := func(a auth.Action, exempt string) func(*auth.Report) {
		return func(r *auth.Report) { r.Decision = auth.Decision{Action: a, Exempt: exempt} }
	}
	tests := []struct {
		name        string
		change      []func(*auth.Report)
		disposition string
		reasons     string
	}{
		{"not enforced", nil, "none", "local_policy policies are not enforced"},
		{"rejected", []func(*auth.Report){did(auth.ActionReject, "")}, "reject", ""},
		{"quarantined at most", []func(*auth.Report){did(auth.ActionQuarantine, "")}, "quarantine",
			"local_policy quarantine is the most that is done"},
		{"network", []func(*auth.Report){did(auth.ActionAccept, "network")}, "none", "trusted_forwarder network"},
		{"passed, harsh policy", []func(*auth.Report){passes}, "pass", ""},
		{"passed, lenient policy", []func(*auth.Report){policy("v=DMARC1; p=none; rua=mailto:a@b.example"), passes},
			"none", ""},
		{"failed, lenient policy", []func(*auth.Report){policy("v=DMARC1; p=none; rua=mailto:a@b.example")}, "none", ""},
		{"passed, but for another author", []func(*auth.Report){passes, did(auth.ActionReject, "")}, "reject",
			"other the message has another fault: "},
		{"temporary error", []func(*auth.Report){func(r *auth.Report) {
			r.DMARC.Result, r.DMARC.Reason = auth.ResultTemperror, "no answer in time"
		}}, "none", "other temporary error: no answer in time"},
		{"test mode", []func(*auth.Report){policy("v=DMARC1; p=quarantine; t=y; rua=mailto:a@b.example"),
			func(r *auth.Report) { r.DMARC.Policy = auth.PolicyNone }}, "none", "policy_test_mode "},
		{"test mode of reject", []func(*auth.Report){policy("v=DMARC1; p=reject; t=y; rua=mailto:a@b.example"),
			func(r *auth.Report) { r.DMARC.Policy = auth.PolicyQuarantine }, did(auth.ActionQuarantine, "")}, "quarantine",
			"policy_test_mode "},
		{"test mode without a policy to test", []func(*auth.Report){
			policy("v=DMARC1; p=none; t=y; rua=mailto:a@b.example")}, "none", ""},
		{"test mode, passed", []func(*auth.Report){policy("v=DMARC1; p=quarantine; t=y; rua=mailto:a@b.example"), passes,
			func(r *auth.Report) { r.DMARC.Policy = auth.PolicyNone }}, "none", ""},
		{"sealer", []func(*auth.Report){did(auth.ActionAccept, "sealer list.example"), func(r *auth.Report) {
			r.DMARC.Sealer, r.DMARC.Status = "list.example", auth.StatusAccept
			r.ARC = arc.Result{Value: arc.Pass, Sets: []arc.SetInfo{{Instance: 1, Domain: "list.example", Selector: "s1"}}}
		}}, "none", "local_policy arc=pass as[1].d=list.example as[1].s=s1"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := judged(t, rejecting)
			for _, change := range test.change {
				change(r)
			}
			records := FromReport(r, auth.TreeWalk)
			if len(records) != 1 {
				t.Fatalf("%d records", len(records))
			}
			row := records[0].Row
			var reasons []string
			for _, why := range row.Reasons {
				reasons = append(reasons, why.Type+" "+why.Comment)
			}
			if row.Disposition != test.disposition || strings.Join(reasons, ", ") != test.reasons {
				t.Errorf("%s, reasons %q; want %s, %q", row.Disposition, reasons, test.disposition, test.reasons)
			}
			if p := records[0].Published; !row.valid() || !p.valid() {
				t.Errorf("%+v cannot stand in a report", records[0])
			}
		})
	}
}

func TestFromReportNone(t *testing.T) {
	tests := map[string]func(*auth.Report){
		"no record":  func(r *auth.Report) { r.DMARC.Record = nil },
		"no address": func(r *auth.Report) { r.DMARC.Record.RUA = nil },
		"no mail address": func(r *auth.Report) {
			*r.DMARC.Record, _ = auth.ParseRecord("v=DMARC1; p=none; rua=https://a.example/")
		},
		"no client":  func(r *auth.Report) { r.Envelope.Client = netip.Addr{} },
		"defective":  func(r *auth.Report) { r.DMARC.Record.Defective = true },
		"no domain":  func(r *auth.Report) { r.DMARC.Domain = "" },
		"not judged": func(r *auth.Report) { r.DMARC = auth.Off("trusted network") },
	}
	for name, change := range tests {
		r := judged(t, rejecting)
		change(r)
		if records := FromReport(r, auth.TreeWalk); len(records) != 0 {
			t.Errorf("%s: %+v", name, records)
		}
	}
}

func TestFromReportDetails(t *testing.T) {
	r := judged(t, "v=DMARC1; p=quarantine; sp=none; adkim=s; fo=1:d; psd=u;"+
		"rua=mailto:a@b.example!10m,https://c.example/,mailto:a@b.example,mailto:d@e.example; ruf=mailto:a@b.example")
	r.Envelope.Client = netip.MustParseAddr("::ffff:192.0.2.7")
	r.Envelope.MailFrom = ""
	r.SPF = auth.SPFResult{Value: auth.ResultPass, Domain: "mx.example.net", Scope: auth.ScopeHELO, Reason: "matched a"}
	r.DMARC.Domain, r.DMARC.DKIMDomain, r.DMARC.DKIMAligned = "a.example.com", "example.com", true
	r.DKIM = []auth.DKIMResult{
		{Value: auth.ResultFail, Domain: "a.example.com", Selector: "s1", Reason: "the body\r\n was changed"},
		{Value: auth.ResultPass, Domain: "example.net", Selector: "s2"},
		{Value: auth.ResultPass, Domain: "example.com", Selector: "s3._x"},
		{Value: auth.ResultPass, Domain: "a.example.com", Selector: "s4"},
		{Value: auth.ResultPermerror, Domain: "a.example.com", Reason: "no selector"},
		{Value: auth.ResultPolicy, Reason: "too many signatures"},
		{Value: "unheard of", Domain: "a.example.com", Selector: "s5"},
	}
	records := FromReport(r, auth.PSL)
	if len(records) != 1 {
		t.Fatal(records)
	}
	got := records[0]
	want := Record{
		Published: Published{
			Domain: "example.com", Method: "psl", P: "quarantine", SP: "none", NP: "none", FO: "1:d", ADKIM: "s", ASPF: "r",
			RUA: []string{"mailto:a@b.example", "mailto:d@e.example"},
		},
		Row: Row{
			IP: "192.0.2.7", Disposition: "none", DKIM: true, HeaderFrom: "a.example.com", MailFrom: "<>",
			Reasons: []Reason{{reasonLocalPolicy, "policies are not enforced"}},
			Signatures: []Signature{
				{"a.example.com", "s4", "pass", ""}, {"example.com", "s3._x", "pass", ""}, {"example.net", "s2", "pass", ""},
				{"a.example.com", "s1", "fail", "the body was changed"},
			},
			SPFDomain: "mx.example.net", SPFResult: "pass",
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if list := got.Published.addresses(); len(list) != 2 || list[0].Mailbox != "a@b.example" {
		t.Errorf("addresses read back: %+v", list)
	}
}

// TestFromReportEach: of several author domains each owner is told.
func TestFromReportEach(t *testing.T) {
	r := judged(t, rejecting)
	other := r.DMARC
	other.Domain, other.PolicyDomain, other.OrgDomain = "sub.example.edu", "example.edu", "example.edu"
	silent := r.DMARC
	silent.Record, silent.Domain = nil, "example.info"
	r.DMARC.Each = []auth.Verdict{r.DMARC, other, silent}
	r.Decision.Action = auth.ActionReject
	records := FromReport(r, "")
	if len(records) != 2 || records[0].Published.Domain != "example.com" || records[1].Published.Domain != "example.edu" ||
		records[1].Row.HeaderFrom != "sub.example.edu" || records[1].Row.Disposition != "reject" ||
		records[1].Published.Method != "treewalk" {
		t.Errorf("%+v", records)
	}
}

// TestHostileReport: whatever is in a message, its record has a bound.
func TestHostileReport(t *testing.T) {
	long := strings.Repeat("x", 60)
	domain := long + "." + long + "." + long + "." + long
	record := "v=DMARC1; p=none; rua="
	for i := range 6 {
		record += fmt.Sprintf("mailto:%d%s@%s,", i, strings.Repeat("%41", 85), domain)
	}
	record += "mailto:" + strings.Repeat("%41", 300) + "@" + domain + ","
	r := judged(t, record+"mailto:a@example.com")
	for range 500 {
		r.DKIM = append(r.DKIM, auth.DKIMResult{Value: auth.ResultFail, Domain: domain, Selector: domain,
			Reason: strings.Repeat("\x00é<&", 10000)})
	}
	r.Envelope.MailFrom, r.SPF.Domain, r.SPF.Reason = "a@"+domain, domain, strings.Repeat("y", 10000)
	r.DMARC.Reason = strings.Repeat("z", 10000)
	r.DMARC.Result = auth.ResultTemperror
	records := FromReport(r, auth.TreeWalk)
	if len(records) != 1 {
		t.Fatalf("%d records", len(records))
	}
	dir := written(t, DayOf(someTime), records...)
	reports, sum := made(t, dir, DayOf(someTime), testConfig())
	if len(reports) != 1 || sum.LeftOut != 0 || reports[0].Octets > 20<<10 || len(reports[0].Addresses) != 7 {
		t.Fatalf("%d reports, %+v", len(reports), sum)
	}
}

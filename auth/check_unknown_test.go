package auth

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/auth/arc"
)

// What cannot be looked up is no failure: honest mail is not refused while a name server is down. But nobody is helped
// by one that has nothing to do with the author.
func TestCheckUnknown(t *testing.T) {
	signed := checkSigned(t)
	const key, spf, strangers = "s1._domainkey.example.com", "example.com", "s1._domainkey.list.example.net"
	forwarded := checkEnvelope // SPF fails
	forwarded.Client = netip.MustParseAddr("192.0.2.99")
	foreign := forwarded
	foreign.MailFrom, foreign.Helo = "a@list.example", "list.example"
	null := forwarded
	null.MailFrom, null.Helo = "", "example.com"
	helo := foreign
	helo.Helo = "example.com"
	byList := dkimSigner{key: dkimEd25519(), domain: "list.example.net"}.sign(t, dkimPlain)
	for _, tt := range []struct {
		name     string
		envelope Envelope
		message  string
		down     string
		want     Status
	}{
		{"all is there", forwarded, signed, "", StatusAccept},
		{"the key", forwarded, signed, key, StatusTempError},
		{"the key of a changed message", forwarded, signed + "more\r\n", key, StatusTempError},
		{"the SPF record", forwarded, dkimPlain, spf, StatusTempError},
		{"the SPF record, for the null path", null, dkimPlain, spf, StatusTempError},
		{"the SPF record of HELO alone", helo, dkimPlain, spf, StatusReject},
		{"the SPF record, but the signature holds", forwarded, signed, spf, StatusAccept},
		{"the key, but SPF passes", checkEnvelope, signed, key, StatusAccept},
		{"somebody else's SPF record", foreign, dkimPlain, "list.example", StatusReject},
		{"somebody else's key", forwarded, byList, strangers, StatusReject},
	} {
		t.Run(tt.name, func(t *testing.T) {
			z := checkWorld()
			z.down = map[string][]string{tt.down: {"TXT"}}
			for _, unknown := range []Unknown{"", UnknownAccept, UnknownDefer} {
				for _, limit := range []Policy{PolicyNone, PolicyReject} {
					c := &Checker{ID: "mx.example.org", Resolver: z, Enforcement: Enforcement{Limit: limit, Unknown: unknown}}
					r, field := checked(t, c, tt.envelope, tt.message, 10)
					would := ActionAccept
					switch {
					case tt.want == StatusReject:
						would = ActionReject
					case tt.want == StatusTempError && unknown == UnknownDefer:
						would = ActionDefer
					}
					action := would
					if limit == PolicyNone {
						action = ActionAccept
					}
					if r.DMARC.Status != tt.want || r.Decision.Action != action || r.Would.Action != would {
						t.Errorf("%q, %q: %+v, %+v, would %+v", limit, unknown, r.DMARC, r.Decision, r.Would)
					}
					if temporary := strings.Contains(field, "dmarc=temperror reason=\"no answer from the DNS\" "+
						"policy.dmarc=reject\r\n\theader.from=example.com"); temporary != (tt.want == StatusTempError) {
						t.Errorf("%q", field)
					}
				}
			}
		})
	}
}

// A customer's address in the display name of a help desk is no reason to refuse its answers.
func TestCheckNamed(t *testing.T) {
	z := checkWorld()
	z.txt["_dmarc.reject.example"] = []string{"v=DMARC1; p=reject"}
	c := &Checker{ID: "mx.example.org", Resolver: z, Enforcement: Enforcement{Limit: PolicyReject, FaultyFrom: true}}
	for _, tt := range []struct {
		from   string
		action Action
		result string
	}{
		{"x@reject.example via Helpdesk <a@example.com>", ActionQuarantine,
			"dmarc=fail reason=\"in a display name alone: quarantine at most\"\r\n\t" +
				"policy.dmarc=reject header.from=reject.example\r\n"},
		{"x@example.com via Helpdesk <a@reject.example>", ActionReject, "header.from=reject.example\r\n"},
		{"x@reject.example via Helpdesk <a@reject.example>", ActionReject, "header.from=reject.example\r\n"},
		{"x@reject.example via Helpdesk <a@example.com> (x", ActionReject, ""},
		{"\"x@reject.example\" <a@example.com>", ActionAccept, "header.from=example.com\r\n"},
	} {
		r, field := checked(t, c, checkEnvelope, "From: "+tt.from+"\r\n\r\nx\r\n", 10)
		if r.Decision.Action != tt.action || !strings.Contains(field, tt.result) {
			t.Errorf("%s: %+v\n%q", tt.from, r.Decision, field)
		}
	}
}

// What would be done is known where nothing is, and mail that is exempt can be told apart by its field.
func TestCheckWould(t *testing.T) {
	elsewhere := checkEnvelope
	elsewhere.Client, elsewhere.MailFrom = netip.MustParseAddr("203.0.113.9"), "bounce@lists.example"
	z := checkWorld()
	z.txt["lists.example"] = []string{"v=spf1 ip4:203.0.113.9 -all"}
	networks := []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
	for _, tt := range []struct {
		name     string
		enforce  Enforcement
		envelope Envelope
		would    Action
		exempt   string
	}{
		{"nothing", Enforcement{}, elsewhere, ActionReject, ""},
		{"quarantine", Enforcement{Limit: PolicyQuarantine}, elsewhere, ActionReject, ""},
		{"reject", Enforcement{Limit: PolicyReject}, elsewhere, ActionReject, ""},
		{"network", Enforcement{Networks: networks}, elsewhere, ActionAccept, "network"},
		{"list", Enforcement{Limit: PolicyReject, Domains: []string{"lists.example"}}, elsewhere, ActionAccept,
			"domain lists.example"},
		{"nothing to be exempt from", Enforcement{Networks: networks}, checkEnvelope, ActionAccept, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &Checker{ID: "mx.example.org", Resolver: z, Enforcement: tt.enforce}
			r, field := checked(t, c, tt.envelope, dkimPlain, 10)
			if r.Would.Action != tt.would || r.Would.Exempt != tt.exempt {
				t.Errorf("%+v", r.Would)
			}
			if (r.Would.Action == ActionReject) != (r.Would.Code == 550) {
				t.Errorf("%+v", r.Would)
			}
			if tt.enforce.Limit != PolicyNone && tt.enforce.Limit != "" && r.Decision.Exempt != tt.exempt {
				t.Errorf("%+v", r.Decision)
			}
			comment := "(exempt: " + tt.exempt + ")"
			if told := strings.Contains(field, comment); told != (tt.exempt != "") ||
				strings.Contains(field, "exempt") != told {
				t.Errorf("%q", field)
			}
			parsed, err := ParseResults(r.Results.Payload())
			if i := slices.IndexFunc(parsed.List, func(r Result) bool { return r.Method == MethodDMARC }); err != nil ||
				i < 0 || strings.Contains(parsed.List[i].Comment, tt.exempt) != true {
				t.Errorf("%v, %+v", err, parsed)
			}
		})
	}
}

func TestCheckMessageID(t *testing.T) {
	long := "<" + strings.Repeat("x", maxMessageID-2) + ">"
	for fields, want := range map[string]string{
		"Message-ID: <a@example.com>\r\n":               "<a@example.com>",
		"message-id:\r\n\t<a@example.com>\t \r\n":       "<a@example.com>",
		"Message-ID: <a@b>\r\nMessage-ID: <c@d>\r\n":    "<a@b>",
		"Message-ID: some words\r\n":                    "some words",
		"Message-ID:\r\n":                               "",
		"Subject: x\r\n":                                "",
		"Message-ID: <a\r\n b@c>\r\n":                   "",
		"Message-ID: <a\x1b[31m@c>\r\n":                 "",
		"Message-ID: <\u00e4@c>\r\n":                    "",
		"Message-ID: <\xff@c>\r\n":                      "",
		"Message-ID: <a\x00@c>\r\n":                     "",
		"Message-ID: <\u00e4>\r\nMessage-ID: <c@d>\r\n": "",
		"Message-ID: " + long + "\r\n":                  long,
		"Message-ID: x" + long + "\r\n":                 "",
		"X: " + strings.Repeat("x", arc.MaxHeaderSize) + "\r\n" + "Message-ID: <a@b>\r\n": "",
	} {
		c := &Checker{ID: "mx.example.org", Resolver: checkWorld()}
		k := c.Begin(context.Background(), checkEnvelope)
		k.Header([]byte(fields + "From: a@example.com\r\n\r\n"))
		if r := k.Finish(context.Background()); r.MessageID != want {
			t.Errorf("%.60q: %q, want %q", fields, r.MessageID, want)
		}
	}
}

// A trusted sealer's word that cannot be checked just now leaves it open what becomes of a message; anybody else's does
// not, nor that of a trusted one below a seal of somebody else.
func TestCheckUnknownSeal(t *testing.T) {
	z := checkWorld()
	sealed := func(domain, results, message string) string {
		c := &Checker{ID: domain, Resolver: z, Sealer: &arc.Sealer{Domain: domain, Selector: "s1", Key: dkimEd25519()}}
		e := checkEnvelope
		if results != "pass" {
			e.Client = netip.MustParseAddr("192.0.2.99")
		}
		_, fields := checked(t, c, e, message, 100)
		return fields + message
	}
	e := checkEnvelope
	e.Client = netip.MustParseAddr("192.0.2.99")
	const key = "s1._domainkey.list.example.net"
	passed := sealed("list.example.net", "pass", dkimPlain)
	for name, tt := range map[string]struct {
		message string
		trusted []string
		down    string
		want    Status
	}{
		"the seal holds":   {passed, []string{"list.example.net"}, "", StatusAccept},
		"nobody can tell":  {passed, []string{"list.example.net"}, key, StatusTempError},
		"nobody trusts it": {passed, []string{"example.org"}, key, StatusReject},
		"it found a failure itself": {sealed("list.example.net", "fail", dkimPlain), []string{"list.example.net"}, key,
			StatusReject},
		"below another's": {sealed("sub.example.com", "fail", passed), []string{"list.example.net"},
			"s1._domainkey.sub.example.com", StatusReject},
	} {
		t.Run(name, func(t *testing.T) {
			world := checkWorld()
			world.down = map[string][]string{tt.down: {"TXT"}}
			c := &Checker{
				ID: "mx.example.org", Resolver: world, Enforcement: Enforcement{Limit: PolicyReject},
				DMARC: &DMARC{Resolver: world, TrustedSealers: tt.trusted},
			}
			r, field := checked(t, c, e, tt.message, 100)
			if r.DMARC.Status != tt.want || r.DMARC.Result != ResultFail {
				t.Errorf("%+v in %s", r.DMARC, field)
			}
		})
	}
}

// A forger cannot make a clear no a perhaps: not by taking his time over the body, nor by a chain of which one key is
// his.
func TestCheckUnknownForged(t *testing.T) {
	sum := sha256.Sum256([]byte("hi\r\n"))
	bh := base64.StdEncoding.EncodeToString(sum[:])
	const text = "From: ceo@example.com\r\n\r\nhi\r\n"
	set := func(sealer, message string) string {
		return "ARC-Seal: i=1; a=rsa-sha256; cv=none; d=" + sealer + "; s=nope; b=AAAA\r\n" +
			"ARC-Message-Signature: i=1; a=rsa-sha256; c=relaxed/relaxed; d=" + message + "; s=s1; h=from;\r\n bh=" + bh +
			"; b=AAAA\r\n" +
			"ARC-Authentication-Results: i=1; " + sealer + "; dmarc=pass header.from=example.com\r\n"
	}
	signature := "DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=example.com; s=nope; h=from; bh=" + bh +
		";\r\n b=AAAA\r\n"
	for name, message := range map[string]string{
		"a signature without a key":           signature + text,
		"a seal without a key":                set("list.example.net", "list.example.net") + text,
		"a seal over another's message":       set("list.example.net", "evil.example") + text,
		"another's seal over a known message": set("evil.example", "list.example.net") + text,
	} {
		for _, pause := range []time.Duration{0, time.Minute} {
			synctest.Test(t, func(t *testing.T) {
				z := checkWorld()
				z.down = map[string][]string{
					"s1._domainkey.evil.example": {"TXT"}, "nope._domainkey.evil.example": {"TXT"},
				}
				c := &Checker{
					ID: "mx.example.org", Resolver: z, Enforcement: Enforcement{Limit: PolicyReject},
					DMARC: &DMARC{Resolver: z, TrustedSealers: []string{"list.example.net"}},
				}
				e := checkEnvelope
				e.Client, e.MailFrom, e.Helo = netip.MustParseAddr("192.0.2.99"), "x@evil.example", "evil.example"
				k := c.Begin(t.Context(), e)
				header, body, _ := strings.Cut(message, "\r\n\r\n")
				k.Header([]byte(header + "\r\n\r\n"))
				time.Sleep(pause)
				k.Write([]byte(body))
				if r := k.Finish(t.Context()); r.Decision.Action != ActionReject {
					t.Errorf("%s, %v: %+v", name, pause, r)
				}
			})
		}
	}
}

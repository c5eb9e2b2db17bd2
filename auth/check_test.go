package auth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"slipstream/auth/arc"
)

// checkWorld is the DNS of example.com, whose mail comes from 192.0.2.1 and is signed, and of a list that seals.
func checkWorld() *zone {
	z := dkimZone(dkimEd25519(), "")
	z.txt["example.com"] = []string{"v=spf1 ip4:192.0.2.1 -all"}
	z.txt["_dmarc.example.com"] = []string{"v=DMARC1; p=reject; rua=mailto:r@example.com"}
	z.ptr = map[string][]string{"192.0.2.1": {"mail.example.com."}}
	z.addrs = map[string][]netip.Addr{"mail.example.com": {netip.MustParseAddr("192.0.2.1")}}
	return z
}

func checkSigned(t testing.TB) string { return dkimSigner{key: dkimEd25519()}.sign(t, dkimPlain) }

var checkEnvelope = Envelope{Client: netip.MustParseAddr("192.0.2.1"), Helo: "mail.example.com", MailFrom: "a@example.com"}

// checked is the whole way of a message through a Checker, its body in pieces.
func checked(t testing.TB, c *Checker, e Envelope, message string, piece int) (*Report, string) {
	t.Helper()
	header, body := message, ""
	if i := strings.Index(message, "\r\n\r\n"); i >= 0 {
		header, body = message[:i+4], message[i+4:]
	}
	k := c.Begin(context.Background(), e)
	k.Header([]byte(header))
	for chunk := range slices.Chunk([]byte(body), max(piece, 1)) {
		k.Write(chunk)
	}
	r := k.Finish(context.Background())
	k.Abort() // as a caller may that does so in any case
	kept, _ := StripOwn([]byte(header), []string{c.ID}, false)
	fields, err := r.Fields(kept)
	if err != nil && !errors.Is(err, arc.ErrSealInput) { // nobody can seal what is malformed
		t.Fatal(err)
	}
	return r, string(fields)
}

func TestCheckField(t *testing.T) {
	const (
		head     = "Authentication-Results: mx.example.org;\r\n\t"
		iprev    = "iprev=pass (mail.example.com) policy.iprev=192.0.2.1;\r\n\t"
		spf      = "spf=pass smtp.mailfrom=example.com;\r\n\tspf=none smtp.helo=mail.example.com;\r\n\t"
		arcNone  = "arc=none smtp.remote-ip=192.0.2.1;\r\n\t"
		dmarcEnd = " policy.dmarc=reject header.from=example.com\r\n"
	)
	signed := checkSigned(t)
	with := func(change func(*Envelope)) Envelope {
		e := checkEnvelope
		change(&e)
		return e
	}
	null := with(func(e *Envelope) { e.MailFrom, e.Helo = "", "example.com" })
	v6 := with(func(e *Envelope) { e.Client = netip.MustParseAddr("2001:db8::25") })
	for _, tt := range []struct {
		name     string
		envelope Envelope
		message  string
		want     string
	}{
		{"plain", checkEnvelope, dkimPlain, head + iprev + spf + "dkim=none;\r\n\t" + arcNone + "dmarc=pass" + dmarcEnd},
		{"changed on the way, from elsewhere", v6, signed + "more\r\n", head +
			"iprev=permerror reason=\"the address has no name\" policy.iprev=\"2001:db8::25\";\r\n\t" +
			"spf=fail smtp.mailfrom=example.com;\r\n\tspf=none smtp.helo=mail.example.com;\r\n\t" +
			"dkim=fail reason=\"the body is not what was signed\" header.d=example.com\r\n\t" +
			"header.i=@example.com header.s=s1 header.a=ed25519-sha256\r\n\theader.b=\"*\";\r\n\t" +
			"arc=none smtp.remote-ip=\"2001:db8::25\";\r\n\tdmarc=fail" + dmarcEnd},
		{"null path", null, dkimPlain, head + iprev + "spf=pass smtp.helo=example.com;\r\n\tdkim=none;\r\n\t" + arcNone +
			"dmarc=pass" + dmarcEnd},
		{"client unknown", with(func(e *Envelope) { e.Client = netip.Addr{} }), dkimPlain,
			head + "dkim=none;\r\n\tarc=none;\r\n\tdmarc=fail" + dmarcEnd},
		{"null path of no domain", with(func(e *Envelope) { e.MailFrom, e.Helo = "", "[192.0.2.1]" }), dkimPlain, head + iprev +
			"spf=none;\r\n\tdkim=none;\r\n\t" + arcNone + "dmarc=fail" + dmarcEnd},
		{"no author", checkEnvelope, "Subject: x\r\n\r\nx\r\n", head + iprev + spf + "dkim=none;\r\n\t" + arcNone +
			"dmarc=permerror reason=\"no From field\"\r\n"},
		{"no header", checkEnvelope, "", head + iprev + spf + "dkim=none;\r\n\t" + arcNone +
			"dmarc=permerror reason=\"no From field\"\r\n"},
		{"header without end", checkEnvelope, "From: a@example.com\r\n", head + iprev + spf + "dkim=none;\r\n\t" + arcNone +
			"dmarc=pass" + dmarcEnd},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &Checker{ID: "mx.example.org", Resolver: checkWorld()}
			for _, piece := range []int{1, 7, 1 << 20} {
				_, got := checked(t, c, tt.envelope, tt.message, piece)
				before, after, _ := strings.Cut(tt.want, "\"*\"")
				if !strings.HasPrefix(got, before) || !strings.HasSuffix(got, after) {
					t.Errorf("in pieces of %d:\n%q\nwant\n%q", piece, got, tt.want)
				}
			}
		})
	}
}

// What a signature proves counts where SPF does not.
func TestCheckSigned(t *testing.T) {
	c := &Checker{ID: "mx.example.org", Resolver: checkWorld()}
	e := checkEnvelope
	e.Client, e.MailFrom = netip.MustParseAddr("192.0.2.99"), "list@list.example"
	r, field := checked(t, c, e, checkSigned(t), 10)
	if r.DMARC.Status != StatusAccept || !r.DMARC.DKIMAligned || r.DMARC.SPFAligned || r.Late {
		t.Errorf("%+v in %q", r.DMARC, field)
	}
	if !slices.Equal(r.Identifiers.DKIM, []string{"example.com"}) || r.Identifiers.SPF != "" {
		t.Errorf("%+v", r.Identifiers)
	}
}

// What the history file says of a message is what the report does.
func TestCheckHistory(t *testing.T) {
	z := checkWorld()
	sealer := &Checker{
		ID: "list.example.net", Resolver: z,
		Sealer: &arc.Sealer{Domain: "list.example.net", Selector: "s1", Key: dkimEd25519()},
	}
	signed := checkSigned(t)
	_, fields := checked(t, sealer, checkEnvelope, signed, 100)
	e := checkEnvelope
	e.Client, e.MailFrom = netip.MustParseAddr("2001:db8::7"), "list@list.example"
	c := &Checker{ID: "mx.example.org", Resolver: z, Enforcement: Enforcement{Limit: PolicyReject}}
	r, _ := checked(t, c, e, fields+signed, 100)
	h := r.History("job1", "mx.example.org", time.Unix(1e9, 0))
	got, err := h.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	const want = "job job1\nreporter mx.example.org\nreceived 1000000000\nipaddr 2001:db8::7\nfrom example.com\n" +
		"mfrom list.example\nspf 6\ndkim example.com s1 0\npdomain example.com\npolicy 15\nrua mailto:r@example.com\n" +
		"pct 100\nadkim 114\naspf 114\np 114\nsp 0\nalign_dkim 4\nalign_spf 5\naction 2\narc 0\n" +
		"arc_policy 1 json:[{\"i\":1,\"d\":\"list.example.net\",\"s\":\"s1\",\"ip\":\"192.0.2.1\"}]\n"
	if string(got) != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// The end of the session ends a check, and so does Abort, at each step; nothing is left behind.
func TestCheckEnds(t *testing.T) {
	for step := range 4 {
		for _, how := range []string{"session", "abort"} {
			t.Run(fmt.Sprint(how, step), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					z := checkWorld()
					z.wait = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
					ctx, cancel := context.WithCancel(t.Context())
					c := &Checker{ID: "mx.example.org", Resolver: z, Deadline: time.Hour}
					start := time.Now()
					k := c.Begin(ctx, checkEnvelope)
					if step > 0 {
						k.Header([]byte(strings.SplitAfter(checkSigned(t), "\r\n\r\n")[0]))
					}
					if step > 1 {
						k.Write([]byte("x\r\n"))
					}
					if how == "session" {
						cancel()
						if step > 2 {
							k.Finish(ctx)
						}
					}
					k.Abort()
					synctest.Wait()
					cancel()
					if took := time.Since(start); took != 0 {
						t.Errorf("took %v", took)
					}
				})
			})
		}
	}
}

// Who waits for keys while the body arrives is held no longer than the deadline in all.
func TestCheckDeadline(t *testing.T) {
	for _, body := range []int{1, maxQueued / 2, 4 * maxQueued} {
		for _, pause := range []time.Duration{0, 3 * time.Second, time.Minute} {
			t.Run(fmt.Sprint(body, " octets, ", pause), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					z := checkWorld()
					z.wait = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
					c := &Checker{ID: "mx.example.org", Resolver: z}
					k := c.Begin(t.Context(), checkEnvelope)
					time.Sleep(time.Hour) // nothing is held up before there is a text
					k.Header([]byte(strings.SplitAfter(checkSigned(t), "\r\n\r\n")[0]))
					start := time.Now()
					k.Write(bytes.Repeat([]byte("x\r\n"), body/3+1))
					held := time.Since(start)
					time.Sleep(pause)
					start = time.Now()
					r := k.Finish(t.Context())
					if held += time.Since(start); held > DefaultDeadline {
						t.Errorf("held for %v", held)
					}
					if !r.Late || r.DMARC.Status != StatusTempError || r.SPF.Value != ResultTemperror || r.DKIM[0].Value != ResultTemperror {
						t.Errorf("%+v", r)
					}
				})
			})
		}
	}
}

// Keys that were found in time hold, however long the body takes after that.
func TestCheckSlowBody(t *testing.T) {
	z := checkWorld()
	sealer := &Checker{
		ID: "list.example.net", Resolver: z,
		Sealer: &arc.Sealer{Domain: "list.example.net", Selector: "s1", Key: dkimEd25519()},
	}
	for _, body := range []string{"one\r\n", strings.Repeat("one line of many\r\n", 4*maxQueued/18)} {
		signed := dkimSigner{key: dkimEd25519()}.sign(t, "From: a@example.com\r\nTo: b@example.net\r\nSubject: x\r\n\r\n"+body)
		_, fields := checked(t, sealer, checkEnvelope, signed, 1000)
		synctest.Test(t, func(t *testing.T) {
			slow := checkWorld()
			slow.wait = func(context.Context) error { time.Sleep(50 * time.Millisecond); return nil }
			k := (&Checker{ID: "mx.example.org", Resolver: slow}).Begin(t.Context(), checkEnvelope)
			header, body, _ := strings.Cut(fields+signed, "\r\n\r\n")
			k.Header([]byte(header + "\r\n\r\n"))
			for chunk := range slices.Chunk([]byte(body), len(body)/3+1) {
				time.Sleep(time.Minute)
				k.Write(chunk)
			}
			r := k.Finish(t.Context())
			if r.Late || r.DKIM[0].Value != ResultPass || r.ARC.Value != arc.Pass || r.DMARC.Status != StatusAccept {
				t.Errorf("%+v", r)
			}
		})
	}
}

// brokenResolver is one with a programming error.
type brokenResolver struct{ *zone }

func (brokenResolver) LookupAddr(context.Context, string) ([]string, error) { panic("out of order") }
func (brokenResolver) LookupMX(context.Context, string) ([]*net.MX, error)  { panic("out of order") }

// A method that breaks is a temporary error, and the others go on.
func TestCheckBroken(t *testing.T) {
	z := checkWorld()
	z.txt["example.com"] = []string{"v=spf1 mx -all"}
	var mu sync.Mutex
	var heard []any
	c := &Checker{ID: "mx.example.org", Resolver: brokenResolver{z}, Broke: func(err any) {
		mu.Lock()
		defer mu.Unlock()
		heard = append(heard, err)
	}}
	r, _ := checked(t, c, checkEnvelope, checkSigned(t), 10)
	if r.IPRev.Value != ResultTemperror || r.SPF.Value != ResultTemperror || r.DMARC.Status != StatusAccept {
		t.Errorf("%+v", r)
	}
	if len(heard) != 2 {
		t.Errorf("heard %v", heard)
	}
}

// FuzzCheck: whatever a message is, there is one field of ours on top of it that can be read, nothing of the message can
// become a part of it, and the way in which it came makes no difference.
func FuzzCheck(f *testing.F) {
	f.Add([]byte(checkSigned(f)), "mail.example.com", "a@example.com", 3)
	f.Add([]byte("From: a\r\n\tARC-Seal: i=1; cv=none\r\n\r\nx"), "[192.0.2.1]", "", 1)
	f.Add([]byte("ARC-Seal: i=1; a=rsa-sha256; cv=none; d=x.example; s=s; b=AAAA\r\nFrom: <a@b>, <c@d>\r\n"), "é", "\"a;b\"@c.example", 9)
	f.Add([]byte(" x\r\nAuthentication-Results: mx.example.org; x\r\n\r\n"), ";\r\n", "a\r\nb@c", 2)
	c := &Checker{
		ID: "mx.example.org", Resolver: checkWorld(), Now: func() time.Time { return time.Unix(1e9, 0) },
		Sealer:      &arc.Sealer{Domain: "example.org", Selector: "s", Key: dkimEd25519(), Now: func() time.Time { return time.Unix(1e9, 0) }},
		Enforcement: Enforcement{Limit: PolicyQuarantine},
	}
	others := sync.OnceValue(func() goleak.Option { return goleak.IgnoreCurrent() }) // those of the fuzzer
	f.Fuzz(func(t *testing.T, message []byte, helo, from string, piece int) {
		ignore := others()
		e := Envelope{Client: checkEnvelope.Client, Helo: helo, MailFrom: from, UTF8: piece%2 == 0}
		_, fields := checked(t, c, e, string(message), len(message)+1)
		if _, again := checked(t, c, e, string(message), piece); again != fields {
			t.Errorf("at once\n%q\nand in parts\n%q", fields, again)
		}
		headers, err := arc.SplitHeader([]byte(fields + "Subject: x\r\n"))
		if err != nil {
			t.Fatalf("%v in %q", err, fields)
		}
		n := 0
		for _, h := range headers {
			if h.Name == resultsName {
				n++
				if got, err := ParseResults(h.Value()); err != nil || got.ID != c.ID {
					t.Errorf("%v, %+v in %q", err, got, h.Raw)
				}
			}
		}
		if n != 1 {
			t.Errorf("%d fields in %q", n, fields)
		}
		if err := goleak.Find(ignore); err != nil {
			t.Error(err)
		}
	})
}

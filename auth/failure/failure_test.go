package failure

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipstream/auth"
	"slipstream/auth/arc"
)

func TestDue(t *testing.T) {
	const ruf = "v=DMARC1; p=reject; ruf=mailto:r@example.org"
	for _, tt := range []struct {
		name, policy string
		change       func(*auth.Report)
		want         []Kind
	}{
		{name: "default", policy: ruf, want: []Kind{KindDMARC}},
		{name: "nobody to tell", policy: "v=DMARC1; p=reject; rua=mailto:r@example.org; fo=1:d:s"},
		{name: "public suffix", policy: ruf + "; psd=y"},
		{name: "no policy", policy: "v=DMARC1; p=wrong; ruf=mailto:r@example.org"},
		{name: "no record", policy: ruf, change: func(r *auth.Report) { r.DMARC.Record = nil }},
		{name: "not known", policy: ruf, change: func(r *auth.Report) { r.DMARC.Result = auth.ResultTemperror }},
		{name: "not judged", policy: ruf, change: func(r *auth.Report) { r.DMARC = auth.Off("trusted") }},
		{name: "faulty From", policy: ruf, change: func(r *auth.Report) { r.Author.Fault = auth.FromRepeated }},
		{name: "0, one is right", policy: ruf + "; fo=0", change: aligned("spf")},
		{name: "1, none is right", policy: ruf + "; fo=1", want: []Kind{KindDMARC}},
		{name: "1, SPF is right", policy: ruf + "; fo=1", change: aligned("spf"), want: []Kind{KindDMARC}},
		{name: "1, DKIM is right", policy: ruf + "; fo=1", change: aligned("dkim"), want: []Kind{KindDMARC}},
		{name: "1, both are", policy: ruf + "; fo=1", change: aligned("spf dkim")},
		{name: "1, SPF is not known", policy: ruf + "; fo=1", change: func(r *auth.Report) {
			aligned("dkim")(r)
			r.SPF.Value = auth.ResultTemperror
		}},
		{name: "1, DKIM is not known", policy: ruf + "; fo=1", change: func(r *auth.Report) {
			aligned("spf")(r)
			r.DKIM[2].Value = auth.ResultTemperror
		}},
		{name: "d", policy: ruf + "; fo=d", want: []Kind{KindBodyHash}},
		{name: "d, all is right", policy: ruf + "; fo=d", change: aligned("dkim spf"), want: []Kind{KindBodyHash}},
		{name: "d, another's signature", policy: ruf + "; fo=d", want: []Kind{KindSignature},
			change: func(r *auth.Report) { r.DKIM = r.DKIM[:2] }},
		{name: "d, no signature failed", policy: ruf + "; fo=d", change: func(r *auth.Report) { r.DKIM = r.DKIM[:1] }},
		{name: "d, revoked", policy: ruf + "; fo=d", want: []Kind{KindRevoked},
			change: func(r *auth.Report) { r.DKIM[2].Reason = arc.ErrKeyRevoked.Error() }},
		{name: "d, temporarily", policy: ruf + "; fo=d", change: func(r *auth.Report) {
			r.DKIM = []auth.DKIMResult{{Value: auth.ResultTemperror, Domain: "example.org", Selector: "s"}}
		}},
		{name: "d, without a name", policy: ruf + "; fo=d", change: func(r *auth.Report) {
			r.DKIM = []auth.DKIMResult{{Value: auth.ResultNeutral}}
		}},
		{name: "s", policy: ruf + "; fo=s", want: []Kind{KindSPF}},
		{name: "s, softly", policy: ruf + "; fo=s", want: []Kind{KindSPF},
			change: func(r *auth.Report) { r.SPF.Value = auth.ResultSoftfail }},
		{name: "s, no record", policy: ruf + "; fo=s", change: func(r *auth.Report) { r.SPF.Value = auth.ResultNone }},
		{name: "s, passes", policy: ruf + "; fo=s", change: func(r *auth.Report) { r.SPF.Value = auth.ResultPass }},
		{name: "d:s", policy: ruf + "; fo=d:s", want: []Kind{KindBodyHash, KindSPF}},
		{name: "1:d:s", policy: ruf + "; fo=1:d:s", want: []Kind{KindDMARC}},
		{name: "s:1:d", policy: ruf + "; fo=s:1:d", want: []Kind{KindDMARC}},
		{name: "0:s, DMARC is right", policy: ruf + "; fo=0:s", change: aligned("dkim"), want: []Kind{KindSPF}},
		{name: "wrong options", policy: ruf + "; fo=0:1", want: []Kind{KindDMARC}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := failed(t, tt.policy)
			if tt.change != nil {
				tt.change(r)
			}
			if diff := cmp.Diff(tt.want, due(r)); diff != "" {
				t.Errorf("due (-want +got):\n%s", diff)
			}
		})
	}
}

// aligned makes a message pass by methods.
func aligned(methods string) func(*auth.Report) {
	return func(r *auth.Report) {
		r.DMARC.Result, r.DMARC.Status = auth.ResultPass, auth.StatusAccept
		r.DMARC.SPFAligned = strings.Contains(methods, "spf")
		r.DMARC.DKIMAligned = strings.Contains(methods, "dkim")
	}
}

func TestLoops(t *testing.T) {
	for _, tt := range []struct {
		name, mailFrom, header string
		want                   bool
	}{
		{name: "ordinary", mailFrom: "a@b.example", header: plainHeader},
		{name: "null path", header: plainHeader, want: true},
		{name: "from ourselves", mailFrom: strings.ToUpper(sender), header: plainHeader, want: true},
		{name: "claims to be ours", mailFrom: "a@b.example", header: "From: Reports\r\n <DMARC-noreply@receiver.example>\r\n",
			want: true},
		{name: "reply by a machine", mailFrom: "a@b.example", want: true,
			header: "Auto-Submitted: auto-replied (vacation)\r\n"},
		{name: "made by a machine", mailFrom: "a@b.example", header: "AUTO-SUBMITTED:\r\n\tAuto-Generated\r\n", want: true},
		{name: "nonsense", mailFrom: "a@b.example", header: "Auto-Submitted:\r\n", want: true},
		{name: "by a person", mailFrom: "a@b.example", header: "Auto-Submitted: No (really)\r\n"},
		{name: "twice", mailFrom: "a@b.example", want: true,
			header: "Auto-Submitted: no\r\nAuto-Submitted: auto-replied\r\n"},
		{name: "report", mailFrom: "a@b.example", want: true,
			header: "Content-Type: Multipart/Report;\r\n report-type=feedback-report\r\n"},
		{name: "feedback", mailFrom: "a@b.example", header: "content-type: message/feedback-report\r\n", want: true},
		{name: "other type", mailFrom: "a@b.example", header: "Content-Type: multipart/mixed; boundary=x\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := &auth.Report{Envelope: auth.Envelope{MailFrom: tt.mailFrom}}
			if got := loops(r, readable([]byte(tt.header)), sender); got != tt.want {
				t.Errorf("loops = %t, want %t", got, tt.want)
			}
		})
	}
}

func TestNew(t *testing.T) {
	good := Config{
		Mailer: &postbox{}, Destinations: auth.Destinations{Resolver: texts{}}, From: sender, Hostname: hostname,
	}
	for name, spoil := range map[string]func(*Config){
		"no mailer":         func(c *Config) { c.Mailer = nil },
		"no resolver":       func(c *Config) { c.Destinations.Resolver = nil },
		"no sender":         func(c *Config) { c.From = "" },
		"no mailbox":        func(c *Config) { c.From = "example.org" },
		"two senders":       func(c *Config) { c.From = "a@b.example, c@d.example" },
		"not in ASCII":      func(c *Config) { c.From = "ä@b.example" },
		"lines":             func(c *Config) { c.From = "a@b.example\r\nBcc: c@d.example" },
		"endless":           func(c *Config) { c.From = strings.Repeat("a", 600) + "@b.example" },
		"no host name":      func(c *Config) { c.Hostname = "" },
		"a strange one too": func(c *Config) { c.Hostname = "mx example" },
	} {
		c := good
		spoil(&c)
		if r, err := New(c); err == nil {
			t.Errorf("%s: taken", name)
			closeNow(t, r)
		}
	}
	good.From = "Jörg <" + sender + ">"
	r, err := New(good)
	if err != nil {
		t.Fatal(err)
	}
	closeNow(t, r)
}

// Who hears of a failure, and of what becomes.
func TestDestinations(t *testing.T) {
	const consents = "example.org._report._dmarc."
	dns := texts{
		consents + "reports.example": "v=DMARC1",
		consents + "moved.example":   "v=DMARC1; ruf=mailto:new@moved.example",
		consents + "astray.example":  "v=DMARC1; ruf=mailto:victim@victim.example",
		consents + "broken.example":  "!",
		consents + "silent.example":  "...",
	}
	synctest.Test(t, func(t *testing.T) {
		var box postbox
		var d diary
		r := start(t, Config{Mailer: &box, Destinations: auth.Destinations{Resolver: dns}, Observe: d.note})
		policy := "v=DMARC1; p=none; ruf=mailto:own@example.org,mailto:a@reports.example,mailto:victim@victim.example," +
			"https://example.org/report,mailto:old@moved.example,mailto:a@astray.example,mailto:a@broken.example," +
			"mailto:a@silent.example,mailto:own@EXAMPLE.org"
		if !r.Add(failed(t, policy), plainMessage()) {
			t.Fatal("nothing is due")
		}
		if err := r.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		want := []string{
			"sent own@example.org", "sent a@reports.example", "unwanted victim@victim.example",
			"unwanted https://example.org/report", "sent new@moved.example", "unwanted a@astray.example",
			"unverified a@broken.example", "unverified a@silent.example",
		}
		if diff := cmp.Diff(want, d.outcomes()); diff != "" {
			t.Errorf("outcomes (-want +got):\n%s", diff)
		}
		for _, l := range box.taken() {
			if l.from != "" {
				t.Errorf("the return path is %q", l.from)
			}
		}
		if r.Add(failed(t, policy), plainMessage()) {
			t.Error("a closed Reporter takes more")
		}
	})
}

func TestMailerErrors(t *testing.T) {
	for want, err := range map[Outcome]error{
		Refused: fmt.Errorf("mta: %w", &auth.Refusal{Code: 550, Text: "no"}),
		Failed:  errors.New("mta: connection refused"),
	} {
		var d diary
		r := start(t, Config{Mailer: &postbox{err: err}, Destinations: auth.Destinations{Resolver: texts{}}, Observe: d.note})
		r.Add(failed(t, "v=DMARC1; p=none; ruf=mailto:r@example.org"), plainMessage())
		if err := r.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(d.events) != 1 || d.events[0].Outcome != want || !errors.Is(d.events[0].Err, err) {
			t.Errorf("events %v, want %s", d.events, want)
		}
	}
}

// Failures that are alike are told once in a while, with their number.
func TestSimilar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var box postbox
		r := start(t, Config{Mailer: &box, Destinations: auth.Destinations{Resolver: texts{}}})
		found := failed(t, "v=DMARC1; p=none; ruf=mailto:r@example.org")
		add := func(want bool, sent int) {
			t.Helper()
			if got := r.Add(found, plainMessage()); got != want {
				t.Errorf("Add = %t, want %t", got, want)
			}
			synctest.Wait()
			if got := len(box.taken()); got != sent {
				t.Errorf("%d reports were sent, want %d", got, sent)
			}
		}
		add(true, 1)
		for range 4 {
			time.Sleep(10 * time.Minute)
			add(false, 1)
		}
		time.Sleep(20 * time.Minute)
		add(true, 2)
		if !strings.Contains(string(box.taken()[1].message), "\r\nIncidents: 5\r\n") {
			t.Errorf("five incidents are not told:\n%s", box.taken()[1].message)
		}
		if strings.Contains(string(box.taken()[0].message), "Incidents") {
			t.Error("the first report tells of several incidents")
		}
		found.Envelope.Client = netip.MustParseAddr("192.0.2.250") // a neighbour
		add(false, 2)
		found.Envelope.Client = netip.MustParseAddr("2001:db8::1")
		add(true, 3)
		found.SPF.Value = auth.ResultSoftfail
		add(true, 4)
	})
}

// The table of what is alike is bounded, and being full stops nothing.
func TestSimilarBound(t *testing.T) {
	s := similar{window: time.Hour}
	now := time.Unix(0, 0)
	for i := range maxSimilar + 100 {
		if _, first := s.count(alike{author: fmt.Sprint(i)}, now); !first {
			t.Fatalf("failure %d is not told", i)
		}
	}
	if len(s.seen) != maxSimilar {
		t.Errorf("%d are remembered, at most %d may be", len(s.seen), maxSimilar)
	}
	if _, first := s.count(alike{author: "new"}, now.Add(time.Hour)); !first || len(s.seen) != 1 {
		t.Errorf("after their time %d are remembered", len(s.seen))
	}
}

// flood adds a failure of another kind each time, for one destination.
func flood(t *testing.T, r *Reporter, n int, to func(i int) string) {
	for i := range n {
		found := failed(t, "v=DMARC1; p=none; ruf=mailto:"+to(i))
		found.SPF.Domain = fmt.Sprintf("s%d.example", i)
		found.DMARC.PolicyDomain = to(i)[strings.IndexByte(to(i), '@')+1:]
		r.Add(found, plainMessage())
	}
}

func TestRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var box postbox
		var d diary
		r := start(t, Config{Mailer: &box, Destinations: auth.Destinations{Resolver: texts{}}, Observe: d.note,
			Limits: Limits{Total: 120, PerDestination: 60, Queue: 1000}})
		sent := func(want int) {
			t.Helper()
			synctest.Wait()
			if got := len(box.taken()); got != want {
				t.Errorf("%d reports were sent, want %d", got, want)
			}
		}
		one := func(i int) string { return fmt.Sprintf("r%d@example.org", i) }
		flood(t, r, 100, one)
		sent(10) // a sixth of an hour's
		time.Sleep(time.Minute)
		flood(t, r, 100, one)
		sent(10) // all of them are known by now
		similar := r.config.Limits.Similar
		time.Sleep(similar)
		flood(t, r, 100, one)
		sent(20)
		// Everybody together.
		time.Sleep(similar)
		flood(t, r, 100, func(i int) string { return fmt.Sprintf("r@d%d.example", i) })
		sent(40)
		time.Sleep(time.Minute)
		found := failed(t, "v=DMARC1; p=none; ruf=mailto:r@example.org")
		r.Add(found, plainMessage())
		sent(41)
	})
}

// No number of domains makes a Reporter forget whom it told much.
func TestRatesBound(t *testing.T) {
	now := time.Unix(0, 0)
	r := rates{perDestination: 6, total: bucket{perHour: 1e6}}
	for i := range 2 * maxDestinations {
		if got, want := r.take(fmt.Sprint(i), now), i < maxDestinations; got != want {
			t.Fatalf("domain %d is told: %t", i, got)
		}
	}
	if r.take("0", now) {
		t.Error("a domain is told more than it may be")
	}
	if !r.take("new", now.Add(time.Hour)) || len(r.destinations) != 1 {
		t.Errorf("after an hour %d are remembered", len(r.destinations))
	}
}

func TestQueueBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d diary
		r := start(t, Config{Mailer: &postbox{hold: true}, Destinations: auth.Destinations{Resolver: texts{}},
			Observe: d.note, Limits: Limits{Queue: 3}})
		flood(t, r, 1, func(int) string { return "r@example.org" })
		synctest.Wait() // it is being sent
		taken := 0
		for i := range 10 {
			found := failed(t, "v=DMARC1; p=none; ruf=mailto:r@example.org")
			found.SPF.Domain = fmt.Sprintf("other%d.example", i)
			if r.Add(found, plainMessage()) {
				taken++
			}
		}
		if taken != 3 {
			t.Errorf("%d wait, want 3", taken)
		}
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := r.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close: %v", err)
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("Close took %v", took)
		}
		want := append(slices.Repeat([]string{"dropped"}, 7), "failed r@example.org")
		want = append(want, slices.Repeat([]string{"dropped r@example.org"}, 3)...)
		if diff := cmp.Diff(want, d.outcomes()); diff != "" {
			t.Errorf("outcomes (-want +got):\n%s", diff)
		}
		closeNow(t, r) // again
	})
}

// A message on its whole way: judged by a Checker, and reported.
func TestFromChecker(t *testing.T) {
	dns := texts{
		"_dmarc.example.org":                         "v=DMARC1; p=reject; ruf=mailto:ruf@reports.example; fo=1",
		"sender.example":                             "v=spf1 ip4:198.51.100.1 -all",
		"example.org._report._dmarc.reports.example": "v=DMARC1",
	}
	c := &auth.Checker{ID: hostname, Resolver: dns, Enforcement: auth.Enforcement{Limit: auth.PolicyReject}}
	check := c.Begin(t.Context(), auth.Envelope{
		Client: netip.MustParseAddr("192.0.2.7"), Helo: "mail.sender.example", MailFrom: "bounce@sender.example",
	})
	check.Header([]byte(plainHeader))
	found := check.Finish(t.Context())
	var box postbox
	r := start(t, Config{Mailer: &box, Destinations: auth.Destinations{Resolver: dns}})
	if !r.Add(found, plainMessage()) {
		t.Fatalf("nothing is due: %+v", found.DMARC)
	}
	if err := r.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	mail := box.taken()
	if len(mail) != 1 || mail[0].to != "ruf@reports.example" {
		t.Fatalf("sent: %q", mail)
	}
	got := read(t, mail[0].message)[0]
	if len(got.Faults) > 0 {
		t.Errorf("faults: %q", got.Faults)
	}
	for name, want := range map[string]string{
		"Identity-Alignment": "dkim, spf", "Delivery-Result": "reject", "Reported-Domain": "example.org",
		"SPF-DNS": `txt : sender.example : "v=spf1 ip4:198.51.100.1 -all"`,
	} {
		if values := got.field(name); strings.Join(values, "|") != want {
			t.Errorf("%s: %q, want %q", name, values, want)
		}
	}
	// What came of it may fail where it arrives: that is the end of it.
	if !loops(&auth.Report{Envelope: auth.Envelope{MailFrom: "a@b.example"}}, readable(mail[0].message), "c@d.example") {
		t.Error("a report on the report would be written")
	}
	if r.Add(nil, plainMessage()) {
		t.Error("nothing found, and it is told")
	}
}

// Doors go on adding while a Reporter ends.
func TestConcurrent(t *testing.T) {
	var box postbox
	r := start(t, Config{Mailer: &box, Destinations: auth.Destinations{Resolver: texts{}}})
	var doors sync.WaitGroup
	for i := range 8 {
		doors.Go(func() {
			flood(t, r, 50, func(j int) string { return fmt.Sprintf("r@d%d-%d.example", i, j) })
		})
	}
	if err := r.Close(t.Context()); err != nil {
		t.Error(err)
	}
	doors.Wait()
}

package failure

import (
	"bytes"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipstream/auth"
	"slipstream/auth/arc"
)

const withRUF = "v=DMARC1; p=reject; ruf=mailto:r@example.org; fo=1"

// make writes the report on a message, of which kind is told.
func (r *Reporter) make(found *auth.Report, m Message, kind Kind, spf string) []byte {
	in := newIncident(found, m, kind, readable(m.Header), r.config.Limits.Header)
	in.count = 1
	return r.write(in, "r@example.org", spf, time.Date(2026, 7, 1, 12, 31, 0, 0, time.UTC))
}

func idle(t testing.TB) *Reporter {
	return start(t, Config{
		Mailer: &postbox{}, Destinations: auth.Destinations{Resolver: texts{}}, UserAgent: "Slipstream/1.0",
	})
}

func TestReport(t *testing.T) {
	r := idle(t)
	got := read(t, r.make(failed(t, withRUF), plainMessage(), KindDMARC, `v=spf1 ip4:198.51.100.0/24 exp="x\ -all`))[0]
	if len(got.Faults) > 0 {
		t.Errorf("faults: %q", got.Faults)
	}
	if got.To != "r@example.org" || got.From != sender && got.From != "<"+sender+">" ||
		got.Subject != "Failure report: dmarc example.org" {
		t.Errorf("To %q, From %q, Subject %q", got.To, got.From, got.Subject)
	}
	for _, want := range [][2]string{
		{"Feedback-Type", "auth-failure"},
		{"Version", "1"},
		{"User-Agent", "Slipstream/1.0"},
		{"Auth-Failure", "dmarc"},
		{"Identity-Alignment", "dkim, spf"},
		{"Delivery-Result", "delivered"},
		{"Original-Envelope-Id", "7f3a9c.1"},
		{"Original-Mail-From", "<bounce@sender.example>"},
		{"Source-IP", "192.0.2.7"},
		{"Source-Port", "40025"},
		{"Reported-Domain", "example.org"},
		{"Arrival-Date", "Wed, 01 Jul 2026 12:30:00 +0000"},
		{"Reporting-MTA", "dns; mx.receiver.example"},
		{"DKIM-Domain", "example.org"},
		{"DKIM-Identity", "news@example.org"},
		{"DKIM-Selector", "k1"},
		{"SPF-DNS", `txt : sender.example : "v=spf1 ip4:198.51.100.0/24 exp=\"x\\ -all"`},
	} {
		if values := got.field(want[0]); len(values) != 1 || values[0] != want[1] {
			t.Errorf("%s: %q, want %q", want[0], values, want[1])
		}
	}
	results, err := auth.ParseResults([]byte(strings.Join(got.field("Authentication-Results"), "")))
	if err != nil || results.ID != hostname || len(results.List) != 5 {
		t.Errorf("Authentication-Results: %+v, %v", results, err)
	}
	header, _, _ := strings.Cut(plainHeader, "Bcc:")
	if want := header + "Subject: hello\r\n"; string(got.Header) != want {
		t.Errorf("the header is %q, want %q", got.Header, want)
	}
	for _, want := range []string{"example.org", "192.0.2.7", "1 Jul 2026 12:30:00"} {
		if !strings.Contains(got.Text, want) {
			t.Errorf("the text for people does not say %q:\n%s", want, got.Text)
		}
	}
}

// What the fields say depends on what failed.
func TestReportKinds(t *testing.T) {
	r := idle(t)
	for _, tt := range []struct {
		name   string
		kind   Kind
		change func(*auth.Report, *Message)
		want   map[string]string // "": the field is not there
	}{
		{name: "SPF alone", kind: KindSPF, change: func(r *auth.Report, _ *Message) { aligned("dkim")(r) },
			want: map[string]string{"Auth-Failure": "spf", "Identity-Alignment": "spf", "DKIM-Domain": "", "DKIM-Selector": "",
				"SPF-DNS": `txt : sender.example : "v=spf1 -all"`}},
		{name: "DKIM alone", kind: KindBodyHash, change: func(r *auth.Report, _ *Message) { aligned("spf dkim")(r) },
			want: map[string]string{"Auth-Failure": "bodyhash", "Identity-Alignment": "none", "SPF-DNS": "",
				"DKIM-Domain": "example.org"}},
		{name: "no signature failed", kind: KindDMARC, change: func(r *auth.Report, _ *Message) { r.DKIM = nil },
			want: map[string]string{"DKIM-Domain": "", "DKIM-Identity": "", "DKIM-Selector": ""}},
		{name: "i= that cannot be written", kind: KindDMARC,
			change: func(r *auth.Report, _ *Message) { r.DKIM[2].Identity = "jörg@example.org" },
			want:   map[string]string{"DKIM-Identity": "@example.org"}},
		{name: "rejected", kind: KindDMARC, want: map[string]string{"Delivery-Result": "reject"},
			change: func(r *auth.Report, m *Message) { r.Decision.Action, m.Taken = auth.ActionReject, false }},
		{name: "quarantined", kind: KindDMARC, want: map[string]string{"Delivery-Result": "policy"},
			change: func(r *auth.Report, _ *Message) { r.Decision.Action = auth.ActionQuarantine }},
		{name: "not taken", kind: KindDMARC, want: map[string]string{"Delivery-Result": "other"},
			change: func(_ *auth.Report, m *Message) { m.Taken = false }},
		{name: "no port, no id", kind: KindDMARC, want: map[string]string{"Source-Port": "", "Original-Envelope-Id": ""},
			change: func(_ *auth.Report, m *Message) { m.Port, m.ID = 0, "" }},
		{name: "IPv6", kind: KindDMARC, want: map[string]string{"Source-IP": "2001:db8::1"},
			change: func(r *auth.Report, _ *Message) { r.Envelope.Client = netip.MustParseAddr("2001:db8::1%eth0") }},
		{name: "mapped", kind: KindDMARC, want: map[string]string{"Source-IP": "192.0.2.7"},
			change: func(r *auth.Report, _ *Message) { r.Envelope.Client = netip.MustParseAddr("::ffff:192.0.2.7") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			found, m := failed(t, withRUF), plainMessage()
			if tt.change != nil {
				tt.change(found, &m)
			}
			got := read(t, r.make(found, m, tt.kind, spfIf(tt.kind)))[0]
			if len(got.Faults) > 0 {
				t.Errorf("faults: %q", got.Faults)
			}
			for name, want := range tt.want {
				if values := got.field(name); strings.Join(values, "|") != want {
					t.Errorf("%s: %q, want %q", name, values, want)
				}
			}
		})
	}
}

// spfIf is the record where there is one to tell.
func spfIf(k Kind) string {
	if k == KindSPF || k == KindDMARC {
		return "v=spf1 -all"
	}
	return ""
}

// hostile are headers that somebody wrote to break a report, or what reads it.
func hostile() map[string]string {
	return map[string]string{
		"empty":              "",
		"empty line only":    "\r\n",
		"no line end":        "From: a@example.org",
		"injected parts":     "From: a@example.org\r\nX: --boundary\r\n --boundary--\r\n",
		"UTF-8":              "From: Jörg <jörg@example.org>\r\nSubject: ✉\r\n",
		"Latin 1":            "Subject: caf\xe9\r\n",
		"NUL":                "Subject: a\x00b\r\n",
		"bare CR":            "Subject: a\rTo: b\r\n",
		"bare LF":            "Subject: a\n\nbody\nX: b\r\n",
		"escape":             "Subject: \x1b[2J\x1b]0;x\x07\x7f\r\n",
		"long line":          "Subject: " + strings.Repeat("x", 5000) + "\r\nTo: b@c.example\r\n",
		"longest line":       "S: " + strings.Repeat("x", maxLine-3) + "\r\n",
		"one octet more":     "S: " + strings.Repeat("x", maxLine-2) + "\r\n",
		"endless":            "Subject: " + strings.Repeat("x", 100_000) + "\r\n",
		"many":               strings.Repeat("X: y\r\n", 1900),
		"too many":           strings.Repeat("X: y\r\n", 3000),
		"blank continuation": "Subject: a\r\n \r\n\t\r\n b\r\n",
		"blank first":        " a\r\nSubject: b\r\n",
		"trailing blanks":    "Subject: a   \r\nTo: \t\r\n",
		"dots":               "X: y\r\n .\r\n ..\r\n",
		"from line":          "From nobody Mon Jan  1 00:00:00 2024\r\nFrom: a@example.org\r\n",
		"equals signs":       "Subject: =?utf-8?q?=0d=0aX:_y?= =0D=0A =\r\n",
		"percent signs":      "Subject: %s%d%n %!(EXTRA)\r\n",
		"no colon":           "Subject: a\r\nthis is the body\r\nsecret: yes\r\n",
		"a body":             "Subject: a\r\n\r\nsecret: this is the body\r\n",
	}
}

func TestReportHostileHeaders(t *testing.T) {
	r := idle(t)
	var names []string
	var reports [][]byte
	for name, header := range hostile() {
		m := plainMessage()
		m.Header = []byte(header)
		names, reports = append(names, name), append(reports, r.make(failed(t, withRUF), m, KindDMARC, ""))
	}
	for i, got := range read(t, reports...) {
		if len(got.Faults) > 0 {
			t.Errorf("%s: faults %q", names[i], got.Faults)
		}
		if bytes.Contains(got.Header, []byte("secret")) {
			t.Errorf("%s: the body is told", names[i])
		}
		want := newExcerpt(readable([]byte(hostile()[names[i]])), defaultHeader).text
		if !bytes.Equal(got.Header, want) {
			t.Errorf("%s: the header is %.200q, want %.200q", names[i], got.Header, want)
		}
	}
}

// Whatever is said in the envelope, by the DNS and by what was found, it stays in its field.
func TestReportHostileValues(t *testing.T) {
	r := idle(t)
	evil := "x\r\nFeedback-Type: abuse\r\n\r\n--y \"\\ <a> ä\x00" + strings.Repeat("z", 2000)
	var reports [][]byte
	for _, change := range []func(*auth.Report, *Message){
		func(r *auth.Report, _ *Message) { r.Envelope.MailFrom = evil + "@x.example" },
		func(r *auth.Report, _ *Message) { r.Envelope.MailFrom = "a b@x.example" },
		func(r *auth.Report, _ *Message) { r.Envelope.MailFrom = "jörg@x.example" },
		func(r *auth.Report, _ *Message) { r.Envelope.MailFrom = strings.Repeat("a", 600) + "@x.example" },
		func(r *auth.Report, m *Message) { m.ID = evil },
		func(r *auth.Report, _ *Message) { r.DKIM[2].Identity = evil + "@x.example" },
		func(r *auth.Report, _ *Message) { r.Results.List[0].Reason = evil },
		func(r *auth.Report, _ *Message) { r.Results.ID = evil },
		func(r *auth.Report, _ *Message) { r.Envelope.Client = netip.Addr{} },
		func(_ *auth.Report, m *Message) { m.Received = time.Time{} },
	} {
		found, m := failed(t, withRUF), plainMessage()
		change(found, &m)
		reports = append(reports, r.make(found, m, KindDMARC, evil+strings.Repeat(" ", 3000)+evil))
	}
	for i, got := range read(t, reports...) {
		faults := slices.DeleteFunc(got.Faults, func(f string) bool {
			return f == "no original-mail-from" || f == "no source-ip" // there is none that can be told
		})
		if len(faults) > 0 {
			t.Errorf("%d: faults %q\n%s", i, faults, reports[i])
		}
	}
}

func TestExcerpt(t *testing.T) {
	header := "A: " + strings.Repeat("a", 50) + "\r\nB: b\r\nBcc: c\r\nRESENT-BCC: c\r\nD: d\r\n"
	for _, tt := range []struct {
		most int
		want string
		cut  bool
	}{
		{most: 1000, want: "A: " + strings.Repeat("a", 50) + "\r\nB: b\r\nD: d\r\n"},
		{most: 61, want: "A: " + strings.Repeat("a", 50) + "\r\nB: b\r\n", cut: true},
		{most: 60, want: "A: " + strings.Repeat("a", 50) + "\r\n", cut: true},
		{most: 10, want: "A: aaaaaaa\r\n", cut: true},
	} {
		got := newExcerpt(parse(t, header), tt.most)
		if string(got.text) != tt.want || got.cut != tt.cut {
			t.Errorf("%d octets: %q %t, want %q %t", tt.most, got.text, got.cut, tt.want, tt.cut)
		}
	}
}

// The sender's own header may be used again as soon as Add has returned.
func TestAddCopies(t *testing.T) {
	var box postbox
	r := start(t, Config{Mailer: &box, Destinations: auth.Destinations{Resolver: texts{"sender.example": "!"}}})
	m := plainMessage()
	if !r.Add(failed(t, withRUF), m) {
		t.Fatal("nothing is due")
	}
	clear(m.Header)
	if err := r.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if mail := box.taken(); len(mail) != 1 || !bytes.Contains(mail[0].message, []byte("Subject: hello")) {
		t.Errorf("sent: %q", mail)
	}
}

// The record of SPF is looked up where it is needed.
func TestSPFRecord(t *testing.T) {
	for text, want := range map[string]string{
		"":                                   "",
		"!":                                  "",
		"v=spf1 -all":                        "v=spf1 -all",
		"hello\nV=SPF1 a -all\nv=spf10 -all": "V=SPF1 a -all",
		"v=spf1 -all\nv=spf1 +all":           "",
		"v=spf1":                             "v=spf1",
	} {
		var box postbox
		r := start(t, Config{Mailer: &box, Destinations: auth.Destinations{Resolver: texts{"sender.example": text}}})
		r.Add(failed(t, withRUF), plainMessage())
		if err := r.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		line := "\r\nSPF-DNS: txt : sender.example : \"" + want + "\"\r\n"
		if got := bytes.Contains(box.taken()[0].message, []byte(line)); got != (want != "") ||
			!got && bytes.Contains(box.taken()[0].message, []byte("SPF-DNS")) {
			t.Errorf("%q: the report does not say %q:\n%s", text, line, box.taken()[0].message)
		}
	}
}

// FuzzReport writes reports on whatever header there may be, and takes them apart.
func FuzzReport(f *testing.F) {
	for _, header := range hostile() {
		f.Add([]byte(header), "a@b.example", "v=spf1 -all", "id", "@example.org", 400)
	}
	r := idle(f)
	found := failed(f, withRUF)
	f.Fuzz(func(t *testing.T, header []byte, mailFrom, spf, id, identity string, most int) {
		found.Envelope.MailFrom, found.DKIM[2].Identity = mailFrom, identity
		fields := readable(header)
		loops(found, fields, sender)
		in := newIncident(found, Message{Header: header, ID: id}, KindDMARC, fields, max(most, 1)%(1<<16))
		in.count = 2
		if len(in.header.text) > max(most, 1)%(1<<16)+2 && len(fields) > 0 {
			t.Errorf("%d octets are told, at most %d may be", len(in.header.text), most)
		}
		raw := r.write(in, "r@example.org", spf, time.Unix(0, 0).UTC())
		checkLines(t, raw)
		if got := lastPart(t, raw); !bytes.Equal(got, in.header.text) {
			t.Errorf("the header is %q, want %q", got, in.header.text)
		}
	})
}

func checkLines(t *testing.T, raw []byte) {
	t.Helper()
	for line := range bytes.SplitSeq(raw, []byte("\r\n")) {
		if len(line) > maxLine {
			t.Errorf("a line of %d octets", len(line))
		}
		if bytes.ContainsFunc(line, func(c rune) bool { return unprintable(c) && c != '\t' }) {
			t.Errorf("not ASCII: %q", line)
		}
	}
}

// lastPart checks the frame and the fields of a report, and returns the header in it.
func lastPart(t *testing.T, raw []byte) []byte {
	t.Helper()
	message, err := mail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	mediaType, params, err := mime.ParseMediaType(message.Header.Get("Content-Type"))
	if err != nil || mediaType != "multipart/report" || params["report-type"] != "feedback-report" ||
		len(message.Header) != 8 {
		t.Fatalf("%v: header %v", err, message.Header)
	}
	parts := multipart.NewReader(message.Body, params["boundary"])
	var types []string
	var last []byte
	for {
		p, err := parts.NextRawPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		types = append(types, p.Header.Get("Content-Type"))
		if p.Header.Get("Content-Transfer-Encoding") == "quoted-printable" {
			if body, err = io.ReadAll(quotedprintable.NewReader(bytes.NewReader(body))); err != nil {
				t.Fatal(err)
			}
		}
		if len(types) == 2 {
			checkFeedback(t, body)
		}
		last = body
	}
	want := []string{"text/plain; charset=us-ascii", "message/feedback-report", "text/rfc822-headers"}
	if diff := cmp.Diff(want, types); diff != "" {
		t.Fatalf("parts (-want +got):\n%s", diff)
	}
	return last
}

// checkFeedback checks that each field is there no more than once, and nothing else.
func checkFeedback(t *testing.T, body []byte) {
	t.Helper()
	fields, err := arc.SplitHeader(body)
	if err != nil {
		t.Fatalf("%v: %q", err, body)
	}
	const known = " Feedback-Type Version User-Agent Auth-Failure Authentication-Results Identity-Alignment " +
		"Delivery-Result Original-Envelope-Id Original-Mail-From Source-IP Reported-Domain Arrival-Date Reporting-MTA " +
		"Incidents DKIM-Domain DKIM-Identity DKIM-Selector SPF-DNS "
	seen := make(map[string]bool)
	octets := 0
	for _, field := range fields {
		octets += len(field.Raw)
		if seen[field.Name] || !strings.Contains(known, " "+field.Name+" ") || len(bytes.TrimSpace(field.Value())) == 0 {
			t.Errorf("field %q", field.Raw)
		}
		seen[field.Name] = true
	}
	if octets != len(body) {
		t.Errorf("%d octets are no fields: %q", len(body)-octets, body)
	}
}

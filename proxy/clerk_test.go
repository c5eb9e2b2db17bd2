package proxy

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/auth/aggregate"
	"slipstream/bench/refpeer"
)

// reportAt is an MTA that takes reports from us to anywhere.
const reportAt = "203.0.113.9:587"

// Mail that was delivered, rejected or put off is filed or not, as it should be: in the history file, in the reports of
// the day, and in a report on the failure.
func TestClerkFiles(t *testing.T) {
	dir := t.TempDir()
	history := filepath.Join(dir, "history")
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		hop := w.serve(backendAddr, &refpeer.Server{
			Keywords: refpeer.Modern(), RcptReplies: map[string]string{"later@example.net": "450 not now"},
		})
		mta := w.serve(reportAt, &refpeer.Server{Keywords: refpeer.Modern()})
		names := w.judged(func(in *InboundConfig) {
			a := &in.Auth
			a.Enforce, a.DMARCHistoryFile, a.AggregateReports, a.FailureReports = "reject", history, true, true
			a.DMARCForensicSender = "forensic@proxy.example"
		})
		names.txt["_dmarc."+bankDomain] = []string{"v=DMARC1; p=reject; rua=mailto:agg@bank.example; ruf=mailto:ruf@bank.example; fo=1"}
		w.cfg.Reports.Relay = Endpoint{Host: "203.0.113.9", Port: 587}
		w.cfg.Reports.Dir = filepath.Join(dir, "reports")
		w.cfg.Reports.OrgName = "Example Org"
		w.start()
		c := w.client(inboundAt)
		c.ask("EHLO client.example", "250")
		transports["DATA"](c, honestMail, honestText)
		c.want("250 ")
		transports["one flight"](c, forgedMail, forgedText)
		c.want("550 5.7.26 ")
		c.talk("MAIL FROM:<a@bank.example>\r\nRCPT TO:<later@example.net>", "250 | 450 ")
		c.talk("QUIT", "221 ")
		if n := len(hop.Messages()); n != 1 {
			t.Fatalf("the backend has %d messages", n)
		}
		ctx := t.Context()

		got, err := mta.WaitMessages(ctx, 1)
		if err != nil {
			t.Fatal(err)
		}
		arf := string(got[0].Body)
		for _, want := range []string{"report-type=feedback-report", "From: <forensic@proxy.example>", "To: ruf@bank.example",
			"Reported-Domain: bank.example", "Source-IP: " + clientHost, "Subject: x"} {
			if !strings.Contains(arf, want) {
				t.Errorf("the report on the failure lacks %q: %s", want, arf)
			}
		}

		if err := w.proxy.office.journal.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		time.Sleep(25 * time.Hour) // the day is over, and the hour in which reports leave
		if got, err = mta.WaitMessages(ctx, 2); err != nil {
			t.Fatal(err)
		}
		report := string(got[1].Body)
		for _, want := range []string{"Report Domain: bank.example", "Submitter: proxy.example", "To: <agg@bank.example>"} {
			if !strings.Contains(report, want) {
				t.Errorf("the report of the day lacks %q: %.600s", want, report)
			}
		}
		if n := w.counterOf("slipstream_reports_total", "kind", reportFailure); n != 1 {
			t.Errorf("%v failure reports were counted", n)
		}
		w.stop()
	})
	text, err := os.ReadFile(history)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(text); strings.Count(got, "job ") != 2 || !strings.Contains(got, "\npdomain bank.example\n") ||
		!strings.Contains(got, "\naction 0\n") || !strings.Contains(got, "\npdomain author.example\n") {
		t.Errorf("the history is %s", got)
	}
}

// What cannot be had is done without, and mail goes on; later it may be had.
func TestClerkDoesWithout(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	history := filepath.Join(dir, "no", "history")
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		hop := w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
		w.judged(func(in *InboundConfig) { in.Auth.DMARCHistoryFile, in.Auth.AggregateReports = history, true })
		w.cfg.Reports.Dir = filepath.Join(file, "reports")
		w.start()
		send := func() {
			c := w.client(inboundAt)
			c.ask("EHLO client.example", "250")
			transports["DATA"](c, honestMail, honestText)
			c.want("250 ")
			c.talk("QUIT", "221 ")
		}
		send()
		if err := os.Mkdir(filepath.Dir(history), 0o700); err != nil {
			t.Fatal(err)
		}
		time.Sleep(hireWait + time.Minute)
		send()
		if n := len(hop.Messages()); n != 2 {
			t.Errorf("the backend has %d messages", n)
		}
		if n := w.counterOf("slipstream_reports_total", "what", "missing"); n != 3 { // the journal once more
			t.Errorf("%v failures were counted", n)
		}
		w.stop()
	})
	if text, err := os.ReadFile(history); err != nil || strings.Count(string(text), "job ") != 1 {
		t.Errorf("the history is %q, %v", text, err)
	}
}

// A reload changes who reports, and keeps what is to be reported.
func TestClerkReload(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
		mta := w.serve(reportAt, &refpeer.Server{Keywords: refpeer.Modern()})
		w.judged(func(in *InboundConfig) { in.Auth.AggregateReports, in.Auth.FailureReports = true, true })
		w.cfg.Reports.Relay = Endpoint{Host: "203.0.113.9", Port: 587}
		w.cfg.Reports.Dir = filepath.Join(dir, "reports")
		w.start()
		c := w.client(inboundAt)
		c.ask("EHLO client.example", "250")
		transports["DATA"](c, forgedMail, forgedText)
		c.want("250 ")
		again := *w.cfg
		again.Reports.Email = "dmarc@proxy.example"
		if err := w.proxy.Reload(t.Context(), &again); err != nil {
			t.Fatal(err)
		}
		transports["DATA"](c, forgedMail, forgedText) // by the door that the client came in by
		c.want("250 ")
		c.talk("QUIT", "221 ")
		journal := w.proxy.office.journal
		if err := journal.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := journal.Stats().Written; n != 2 {
			t.Errorf("%d records", n)
		}
		day := aggregate.DayOf(time.Now())
		var seen int64
		_, err := aggregate.Reports(t.Context(), w.cfg.ReportsDir(), day, again.AggregateConfig(""), nil, func(r *aggregate.Report) error {
			seen += r.Messages
			return nil
		})
		if err != nil || seen != 2 {
			t.Errorf("%d messages, %v", seen, err)
		}
		time.Sleep(25 * time.Hour)
		got, err := mta.WaitMessages(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		if from := got[0].From; !strings.HasPrefix(from, "MAIL FROM:<dmarc@proxy.example>") {
			t.Errorf("the report is from %q", from)
		}
		w.stop()
	})
}

// Who knows nobody here fills no files, and a text that was rejected before its recipient was refused breaks nothing.
func TestClerkFilesNobodysMail(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve(backendAddr, &refpeer.Server{
			Keywords: refpeer.Modern(), RcptReplies: map[string]string{"nobody@example.net": "550 no such user"},
		})
		mta := w.serve(reportAt, &refpeer.Server{Keywords: refpeer.Modern()})
		names := w.judged(func(in *InboundConfig) {
			a := &in.Auth
			a.Enforce, a.AggregateReports, a.FailureReports = "reject", true, true
		})
		names.txt["_dmarc."+bankDomain] = []string{"v=DMARC1; p=reject; rua=mailto:agg@bank.example; ruf=mailto:ruf@bank.example; fo=1"}
		w.cfg.Reports.Relay = Endpoint{Host: "203.0.113.9", Port: 587}
		w.cfg.Reports.Dir = filepath.Join(dir, "reports")
		w.start()
		for _, end := range []string{"RSET", "QUIT", ""} {
			c := w.client(inboundAt)
			c.ask("EHLO client.example", "250")
			c.raw(fmt.Sprintf("MAIL FROM:<a@bank.example>\r\nRCPT TO:<nobody@example.net>\r\nBDAT %d LAST\r\n%s", len(forgedText), forgedText))
			c.want("250 ")
			c.want("550 ")
			c.want("554 ")
			if end != "" {
				c.talk(end, "2")
			}
			_ = c.conn.Close()
		}
		time.Sleep(time.Hour)
		if n := w.counter("slipstream_panics_total", "inbound"); n != 0 {
			t.Errorf("%v sessions broke", n)
		}
		if err := w.proxy.office.journal.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := w.proxy.office.journal.Stats().Written; n != 0 {
			t.Errorf("%d records", n)
		}
		if n := len(mta.Messages()); n != 0 {
			t.Errorf("%d reports", n)
		}
		w.stop()
	})
}

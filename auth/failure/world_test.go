package failure

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"slipstream/auth"
	"slipstream/auth/arc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// texts are the TXT records there are, by name, several one a line. "!" is a failure, "..." no answer.
type texts map[string]string

func (t texts) LookupTXT(ctx context.Context, name string) ([]string, error) {
	switch text := t[name]; text {
	case "":
		return nil, t.none(name)
	case "!":
		return nil, &net.DNSError{Err: "server failure", Name: name, IsTemporary: true}
	case "...":
		<-ctx.Done()
		return nil, &net.DNSError{Err: "stopped", Name: name, IsTimeout: true}
	default:
		return strings.Split(text, "\n"), nil
	}
}

func (t texts) none(name string) error {
	return &net.DNSError{Err: "no such record", Name: name, IsNotFound: true}
}

func (t texts) LookupMX(_ context.Context, name string) ([]*net.MX, error) { return nil, t.none(name) }
func (t texts) LookupIPAddr(_ context.Context, name string) ([]net.IPAddr, error) {
	return nil, t.none(name)
}
func (t texts) LookupAddr(_ context.Context, name string) ([]string, error) { return nil, t.none(name) }

// A postbox is a Mailer that keeps what it is given.
type postbox struct {
	err  error // what it says instead
	hold bool  // until its context ends

	mu   sync.Mutex
	mail []letter
}

type letter struct {
	from, to string
	message  []byte
}

func (p *postbox) Send(ctx context.Context, from, to string, message []byte) error {
	if p.hold {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	if p.err != nil {
		return p.err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mail = append(p.mail, letter{from, to, slices.Clone(message)})
	return nil
}

// taken returns what was given so far.
func (p *postbox) taken() []letter {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.mail)
}

// A diary keeps events.
type diary struct {
	mu     sync.Mutex
	events []Event
}

func (d *diary) note(e Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.events = append(d.events, e)
}

// outcomes are "sent to@domain" and so on.
func (d *diary) outcomes() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var list []string
	for _, e := range d.events {
		list = append(list, strings.TrimSpace(fmt.Sprintf("%s %s", e.Outcome, e.To)))
	}
	return list
}

const (
	hostname = "mx.receiver.example"
	sender   = "dmarc-noreply@receiver.example"
)

// start makes a Reporter, which is closed with the test.
func start(t testing.TB, c Config) *Reporter {
	t.Helper()
	c.From, c.Hostname = sender, hostname
	r, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeNow(t, r) })
	return r
}

func closeNow(t testing.TB, r *Reporter) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.Close(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// record parses a policy record.
func record(t testing.TB, text string) *auth.DMARCRecord {
	t.Helper()
	r, ok := auth.ParseRecord(text)
	if !ok {
		t.Fatalf("%q is no record", text)
	}
	return &r
}

// failed is what is found of a message of example.org with nothing right about it.
func failed(t testing.TB, policy string) *auth.Report {
	t.Helper()
	r := &auth.Report{
		Envelope: auth.Envelope{
			Client: netip.MustParseAddr("192.0.2.7"), Helo: "mail.sender.example", MailFrom: "bounce@sender.example",
		},
		SPF: auth.SPFResult{Value: auth.ResultFail, Domain: "sender.example", Scope: auth.ScopeMailFrom},
		DKIM: []auth.DKIMResult{
			{Value: auth.ResultPass, Domain: "list.example", Selector: "l", Identity: "@list.example", Algorithm: "rsa-sha256"},
			{Value: auth.ResultFail, Reason: arc.ErrMismatch.Error(), Domain: "other.example", Selector: "o",
				Identity: "@other.example"},
			{Value: auth.ResultFail, Reason: arc.ErrBodyHash.Error(), Domain: "example.org", Selector: "k1",
				Identity: "news@example.org", Algorithm: "rsa-sha256", B: "abcdEF12"},
		},
		Author: auth.ParseFrom(parse(t, "From: news@example.org\r\n")),
		DMARC: auth.Verdict{
			Status: auth.StatusReject, Result: auth.ResultFail, Domain: "example.org", PolicyDomain: "example.org",
			OrgDomain: "example.org", Record: record(t, policy), Policy: auth.PolicyReject,
		},
		Decision: auth.Decision{Action: auth.ActionAccept},
		Results:  auth.Results{ID: hostname},
	}
	r.Results.List = append(r.Results.List, r.SPF.AuthResult())
	for _, d := range r.DKIM {
		r.Results.List = append(r.Results.List, d.AuthResult())
	}
	result, _ := r.DMARC.AuthResult()
	r.Results.List = append(r.Results.List, result)
	return r
}

func parse(t testing.TB, header string) []arc.Header {
	t.Helper()
	fields, err := arc.SplitHeader([]byte(header))
	if err != nil {
		t.Fatal(err)
	}
	return fields
}

const plainHeader = "Received: from mail.sender.example by mx\r\n\t(somehow)\r\nFrom: News <news@example.org>\r\n" +
	"To: someone@receiver.example\r\nBcc: secret@receiver.example\r\nSubject: hello\r\n\r\n"

func plainMessage() Message {
	return Message{
		Header: []byte(plainHeader), Received: time.Date(2026, 7, 1, 12, 30, 0, 0, time.UTC), ID: "7f3a9c.1", Port: 40025,
		Taken: true,
	}
}

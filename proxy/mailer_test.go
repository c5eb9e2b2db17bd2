package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/auth"
	"slipstream/bench/refpeer"
	"slipstream/proxy/route"
)

const mailerText = "From: reports@proxy.example\r\nSubject: report\r\n\r\n.\r\n..dots\r\n.\r\nQUIT\r\n"

// mailer makes a Mailer that hands mail to the backend.
func (w *world) mailer(change ...func(*MailerOptions)) *Mailer {
	w.t.Helper()
	o := MailerOptions{
		To: Endpoint{Host: "203.0.113.1", Port: 25}, Hostname: "proxy.example", Resolver: w.dns,
		Dial: w.net.Dialer(proxyHost), Timeouts: &w.cfg.Timeouts,
	}
	for _, f := range change {
		f(&o)
	}
	m, err := NewMailer(o)
	if err != nil {
		w.t.Fatal(err)
	}
	return m
}

func TestMailer(t *testing.T) {
	cert := newTestCert(t, "mta.example")
	verified := func(o *MailerOptions) { o.TLS, o.TLSName, o.CAFile = "verify", "mta.example", cert.certFile }
	for _, tt := range []struct {
		name   string
		server *refpeer.Server
		change func(*MailerOptions)
		from   string
		tls    bool
		proxy  int // version of the PROXY header
	}{
		{name: "plain", server: &refpeer.Server{}, from: "reports@proxy.example"},
		{name: "null path", server: &refpeer.Server{}},
		{name: "everything offered", server: &refpeer.Server{Keywords: refpeer.Keywords{Pipelining: true, Chunking: true,
			Size: 100_000, EightBitMIME: true}}},
		{name: "HELO alone", server: &refpeer.Server{Old: true}},
		{name: "LMTP", server: &refpeer.Server{LMTP: true}, change: func(o *MailerOptions) { o.To.LMTP = true }},
		{name: "STARTTLS", server: &refpeer.Server{TLS: cert.server()}, change: verified, tls: true},
		{name: "TLS as it comes", server: &refpeer.Server{TLS: cert.server()}, tls: true,
			change: func(o *MailerOptions) { o.TLS = "may" }},
		{name: "no TLS wanted", server: &refpeer.Server{TLS: cert.server()}},
		{name: "implicit TLS", server: &refpeer.Server{TLS: cert.server(), Implicit: true}, tls: true,
			change: func(o *MailerOptions) { verified(o); o.To.TLS = true }},
		{name: "XCLIENT", server: &refpeer.Server{Keywords: refpeer.Keywords{Xclient: "ADDR NAME HELO PROTO"}},
			change: func(o *MailerOptions) { o.ClientAddress = "xclient" }},
		{name: "XFORWARD", server: &refpeer.Server{}, change: func(o *MailerOptions) { o.ClientAddress = "xforward" }},
		{name: "where clients come by themselves", server: &refpeer.Server{},
			change: func(o *MailerOptions) { o.ClientAddress = "spoof" }},
		{name: "PROXY 1", server: &refpeer.Server{ProxyHeader: true}, proxy: 1,
			change: func(o *MailerOptions) { o.ClientAddress = "proxy-v1" }},
		{name: "PROXY 2", server: &refpeer.Server{ProxyHeader: true}, proxy: 2,
			change: func(o *MailerOptions) { o.ClientAddress = "proxy-v2" }},
		{name: "PROXY 2, implicit TLS", proxy: 2, tls: true,
			server: &refpeer.Server{ProxyHeader: true, TLS: cert.server(), Implicit: true},
			change: func(o *MailerOptions) { verified(o); o.To.TLS, o.ClientAddress = true, "proxy-v2" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				server := w.serve(backendAddr, tt.server)
				var changes []func(*MailerOptions)
				if tt.change != nil {
					changes = append(changes, tt.change)
				}
				err := w.mailer(changes...).Send(t.Context(), tt.from, "ruf@example.org", []byte(mailerText))
				if err != nil {
					t.Fatal(err)
				}
				messages := server.Messages()
				if len(messages) != 1 {
					t.Fatalf("%d messages arrived", len(messages))
				}
				m := messages[0]
				to := []string{"ruf@example.org"}
				if string(m.Body) != mailerText || m.Sender() != tt.from || !slices.Equal(m.Recipients(), to) {
					t.Errorf("%q to %q: %q", m.Sender(), m.Recipients(), m.Body)
				}
				if (m.TLS != 0) != tt.tls || len(m.Xclient) != 0 || m.Proxy.Version != tt.proxy ||
					tt.proxy != 0 && m.Proxy.Source.Addr().String() != proxyHost {
					t.Errorf("TLS %x, XCLIENT %q, PROXY %+v", m.TLS, m.Xclient, m.Proxy)
				}
				if v := server.Violations(); len(v) != 0 {
					t.Errorf("violations: %v", v)
				}
				synctest.Wait()
				conns := server.Connections()
				if last := conns[0].Commands[len(conns[0].Commands)-1]; len(conns) != 1 || last != "QUIT" {
					t.Errorf("%d connections, the last command is %q", len(conns), last)
				}
			})
		})
	}
}

// What an MTA refuses for good is told from what may be tried again.
func TestMailerRefusals(t *testing.T) {
	say := func(at, reply string) *refpeer.Server {
		return &refpeer.Server{Behave: func(ev refpeer.Event) refpeer.Action {
			if string(ev.Kind) == at || ev.Kind == refpeer.Command && ev.Verb == at {
				return refpeer.Say(reply)
			}
			return refpeer.Action{}
		}}
	}
	final := func(reply string) *refpeer.Server {
		return &refpeer.Server{FinalReplies: map[string]string{"ruf@example.org": reply}}
	}
	for _, tt := range []struct {
		name   string
		server *refpeer.Server
		code   int // of the Refusal; 0: it is none
		text   string
	}{
		{name: "MAIL", server: say("MAIL", "550 5.7.1 not you"), code: 550, text: "5.7.1 not you"},
		{name: "MAIL, later", server: say("MAIL", "451 4.7.1 later"), text: "later"},
		{name: "RCPT", server: say("RCPT", "554 5.7.1 relay access denied"), code: 554, text: "5.7.1 relay access denied"},
		{name: "RCPT, later", server: say("RCPT", "450 4.2.0 greylisted"), text: "greylisted"},
		{name: "DATA", server: say("DATA", "554 no valid recipients"), code: 554, text: "no valid recipients"},
		{name: "DATA, nonsense", server: say("DATA", "250 ok"), text: "instead of 354"},
		{name: "too large", server: &refpeer.Server{Keywords: refpeer.Keywords{Size: 10}}, code: 552},
		{name: "the message", server: final("552 5.3.4 too big"), code: 552, text: "5.3.4 too big"},
		{name: "the message, later", server: final("452 4.3.1 full"), text: "full"},
		{name: "no service", server: say("connect", "554 go away"), text: "go away"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.serve(backendAddr, tt.server)
				err := w.mailer().Send(t.Context(), "", "ruf@example.org", []byte(mailerText))
				var refusal *auth.Refusal
				if errors.As(err, &refusal) != (tt.code != 0) || err == nil || !strings.Contains(err.Error(), tt.text) {
					t.Fatalf("Send: %v", err)
				}
				if refusal != nil && (refusal.Code != tt.code || tt.text != "" && refusal.Text != tt.text) {
					t.Errorf("the refusal is %d %q, want %d %q", refusal.Code, refusal.Text, tt.code, tt.text)
				}
				if !strings.Contains(err.Error(), "203.0.113.1") {
					t.Errorf("the error does not say whose it is: %v", err)
				}
			})
		})
	}
}

// An MTA that is not there, or falls silent, holds nobody for ever.
func TestMailerDeadlines(t *testing.T) {
	silent := func(kind string) *refpeer.Server {
		return &refpeer.Server{Idle: 24 * time.Hour, Behave: func(ev refpeer.Event) refpeer.Action {
			if ev.Kind == refpeer.Command && ev.Verb == kind {
				return refpeer.Action{Delay: time.Hour}
			}
			return refpeer.Action{}
		}}
	}
	for _, kind := range []string{"EHLO", "MAIL", "RCPT", "DATA"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.serve(backendAddr, silent(kind))
			start := time.Now()
			err := w.mailer().Send(t.Context(), "", "ruf@example.org", []byte(mailerText))
			if took := time.Since(start); err == nil || took > mailerTime {
				t.Errorf("%s: Send took %v: %v", kind, took, err)
			}
			start = time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			err = w.mailer().Send(ctx, "", "ruf@example.org", []byte(mailerText))
			if took := time.Since(start); err == nil || took > 2*time.Second {
				t.Errorf("%s: Send took %v of one second: %v", kind, took, err)
			}
			start = time.Now()
			ctx, cancel = context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			err = w.mailer().Send(ctx, "", "ruf@example.org", []byte(mailerText))
			if took := time.Since(start); err == nil || took > 2*time.Second {
				t.Errorf("%s: cancelled Send took %v: %v", kind, took, err)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		err := w.mailer().Send(t.Context(), "", "ruf@example.org", []byte(mailerText))
		var refusal *auth.Refusal
		if err == nil || errors.As(err, &refusal) {
			t.Errorf("nobody is there: %v", err)
		}
	})
}

// TLS that is demanded and cannot be had is no reason to go without (P3).
func TestMailerDemandsTLS(t *testing.T) {
	cert := newTestCert(t, "other.example")
	for _, server := range []*refpeer.Server{{}, {TLS: cert.server()}} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			s := w.serve(backendAddr, server)
			m := w.mailer(func(o *MailerOptions) { o.TLS, o.TLSName, o.CAFile = "verify", "mta.example", cert.certFile })
			err := m.Send(t.Context(), "", "ruf@example.org", []byte(mailerText))
			var policy *policyError
			if !errors.As(err, &policy) || len(s.Messages()) != 0 {
				t.Errorf("Send: %v", err)
			}
		})
	}
}

// Whatever is not a mailbox or a message never reaches an MTA.
func TestMailerInput(t *testing.T) {
	m, err := NewMailer(MailerOptions{
		To: Endpoint{Host: "203.0.113.1", Port: 25}, Hostname: "proxy.example",
		Dial: func(context.Context, string, netip.Addr, string) (net.Conn, error) {
			t.Error("the MTA is called")
			return nil, errors.New("no")
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	const to = "ruf@example.org"
	for _, tt := range []struct{ from, to, text string }{
		{"", "", mailerText},
		{"", "no mailbox", mailerText},
		{"", "a@b.example> NOTIFY=NEVER", mailerText},
		{"", "a@b.example>\r\nRCPT TO:<c@d.example", mailerText},
		{"a@b.example> SIZE=1", to, mailerText},
		{"<a@b.example>", to, mailerText},
		{"", "jörg@example.org", mailerText},
		{"", "<" + to + ">", mailerText},
		{"", to, ""},
		{"", to, "Subject: a\r\n\r\nno end"},
		{"", to, "Subject: a\nb\r\n"},
		{"", to, "Subject: a\rb\r\n"},
		{"", to, "Subject: a\x00b\r\n"},
		{"", to, "Subject: ä\r\n"},
		{"", to, "Subject: " + strings.Repeat("x", 1000) + "\r\n"},
	} {
		err := m.Send(t.Context(), tt.from, tt.to, []byte(tt.text))
		var refusal *auth.Refusal
		if !errors.As(err, &refusal) || refusal.Code != 0 || refusal.Text == "" {
			t.Errorf("%q to %q, %.40q: %v", tt.from, tt.to, tt.text, err)
		}
	}
}

func TestNewMailer(t *testing.T) {
	to := Endpoint{Host: "203.0.113.1", Port: 25}
	for _, o := range []MailerOptions{
		{},
		{To: to, TLS: "perhaps"},
		{To: to, ClientAddress: "proxy-v3"},
		{To: to, CAFile: "/nowhere/ca.pem"},
	} {
		if _, err := NewMailer(o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}

// A name is looked up each time, and all its addresses are tried.
func TestMailerNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		server := w.serve("203.0.113.9:25", &refpeer.Server{})
		w.dns.addrs["mta.example"] = []netip.Addr{netip.MustParseAddr("203.0.113.8"), netip.MustParseAddr("203.0.113.9")}
		m := w.mailer(func(o *MailerOptions) { o.To.Host = "mta.example" })
		for i := range 3 {
			if err := m.Send(t.Context(), "", fmt.Sprintf("r%d@example.org", i), []byte(mailerText)); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(server.Messages()); n != 3 {
			t.Errorf("%d messages arrived", n)
		}
		delete(w.dns.addrs, "mta.example")
		err := m.Send(t.Context(), "", "r@example.org", []byte(mailerText))
		var noRoute *route.Error
		if !errors.As(err, &noRoute) {
			t.Errorf("without an address: %v", err)
		}
	})
}

// Mail to one of our own doors would come back to us.
func TestMailerOwnDoor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		server := w.serve(backendAddr, &refpeer.Server{})
		m := w.mailer(func(o *MailerOptions) { o.IsOwn = func(netip.AddrPort) bool { return true } })
		if err := m.Send(t.Context(), "", "r@example.org", []byte(mailerText)); !errors.Is(err, errOwnDoor) {
			t.Errorf("Send: %v", err)
		}
		if n := len(server.Messages()); n != 0 {
			t.Errorf("%d messages arrived", n)
		}
	})
}

package proxy_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"go.uber.org/zap"

	"slipstream/bench/mta"
	"slipstream/bench/mta/mtatest"
	"slipstream/proxy"
)

// everyoneHere are the clients that most servers relay for: with us in front of
// them, that would be everybody.
func everyoneHere() []string { return []string{"127.0.0.0/8"} }

// comingFrom makes the sending half of a server use an address of its own.
func comingFrom(kind mta.Kind, addr string) []string {
	if kind == mta.Exim {
		return []string{"interface = " + addr}
	}
	return []string{"smtp_bind_address = " + addr}
}

// An announcement is a way of telling a backend who the client is, with what the
// backend needs to believe it.
type announcement struct {
	client string // client_address
	kind   mta.Kind
	config mta.Config
}

func announcements() []announcement {
	return []announcement{
		{"xclient", mta.Postfix, mta.Config{XCLIENT: []string{"127.0.0.1"}}},
		{"proxy-v1", mta.Postfix, mta.Config{Proxy: []string{"127.0.0.1"}}},
		{"proxy-v2", mta.Postfix, mta.Config{Proxy: []string{"127.0.0.1"}}},
		{"proxy-v1", mta.Exim, mta.Config{Proxy: []string{"127.0.0.1"}}},
		{"proxy-v2", mta.Exim, mta.Config{Proxy: []string{"127.0.0.1"}}},
	}
}

// The backend's log shows the client, not us, and the backend judges by it: what
// trusts this machine does not relay for who is elsewhere.
func TestRealClientAddress(t *testing.T) {
	const client = "127.77.0.7"
	for _, test := range announcements() {
		for _, secured := range []bool{false, true} {
			from := mta.Exim
			if secured {
				from = mta.Postfix
			}
			w := realWay{from: from, door: doorInbound, to: test.kind, secured: secured, receives: test.config}
			t.Run(w.String()+", "+test.client, func(t *testing.T) {
				t.Parallel()
				w.receives.Hostname, w.receives.Local = "mx.b.test", []string{"b.test"}
				w.receives.RelayFrom = []string{"127.0.0.1"}
				w.inbound = func(in *proxy.InboundConfig) { in.ClientAddress = test.client }
				w.sends.ExtraClient = comingFrom(from, client)
				c := w.open(t)
				realSubmit(t, c.sender, realMessage("identity", 0), "you@b.test")
				got := string(c.arrive(t, 1)[0].Raw)
				trace := strings.Split(got, "Received: ")[1]
				if !strings.Contains(trace, "["+client+"]") {
					t.Errorf("the backend's Received field does not name %s:\n%s", client, trace)
				}
				if !strings.Contains(trace, "mx.a.test") || strings.Contains(trace, realProxyName) {
					t.Errorf("the backend did not hear what the client called itself:\n%s", trace)
				}
				if err := c.receiver.WaitLog(mtatest.Context(t), client); err != nil {
					t.Error(err)
				}
				realSubmit(t, c.sender, realMessage("stranger", 0), "someone@elsewhere.test")
				awaitReal(t, "a refusal to relay", func() bool {
					return len(realLogged(c.sender, "someone@elsewhere.test", "5.7.1")) > 0
				})
			})
		}
	}
}

// A backend that does not like what the client calls itself has the last word.
func TestRealHeloRefused(t *testing.T) {
	t.Parallel()
	receiver := mtatest.Start(t, mta.Exim, mta.Config{Local: []string{"b.test"}, Proxy: []string{"127.0.0.1"}})
	cfg := realConfig(t)
	addInbound(cfg, doorInbound, receiver.Addr(), func(in *proxy.InboundConfig) { in.ClientAddress = "proxy-v2" })
	px := startReal(t, cfg, serveDomains(t, nil))
	d := realDial(t, px.at(doorInbound))
	realHear(t, d, 250, "EHLO not_a_host_name") // to Exim, that is bad syntax
	if a := realHear(t, d, 501, "MAIL FROM:<%s>", realSender); !strings.Contains(a.String(), "yntactically invalid") {
		t.Errorf("the client hears %s", a)
	}
	realHear(t, d, 250, "EHLO a-host-name.test")
	realHear(t, d, 250, "MAIL FROM:<%s>", realSender)
	realHear(t, d, 250, "RCPT TO:<you@b.test>")
}

// A client behind a proxy of its own: HAProxy says who it is, and the backend
// hears it from us.
func TestRealProxiedClient(t *testing.T) {
	t.Parallel()
	receiver := mtatest.Start(t, mta.Postfix, mta.Config{
		Hostname: "mx.b.test", Local: []string{"b.test"}, RelayFrom: []string{"127.0.0.1"}, XCLIENT: []string{"127.0.0.1"},
	})
	cfg := realConfig(t)
	addInbound(cfg, doorInbound, receiver.Addr(), func(in *proxy.InboundConfig) {
		in.ClientAddress = "xclient"
		in.ProxyProtocolFrom = proxy.Prefixes{netip.MustParsePrefix("127.0.0.1/32")}
	})
	px := startReal(t, cfg, serveDomains(t, nil))
	haproxy, err := mta.HAProxy{Backend: px.at(doorInbound), Options: "send-proxy-v2"}.Start(mtatest.Context(t))
	mtatest.Check(t, err)
	t.Cleanup(func() { _ = haproxy.Stop() })
	sender := sendThrough(t, mta.Exim, haproxy.Addr(), doorInbound, mta.Config{ExtraClient: comingFrom(mta.Exim, "127.77.0.8")})
	realSubmit(t, sender, realMessage("proxied", 0), "you@b.test")
	got, err := receiver.WaitDelivered(mtatest.Context(t), 1)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(got[0].Raw), "[127.77.0.8]") {
		t.Errorf("the backend does not know the client:\n%s", got[0].Raw)
	}
}

// guardedStart starts a proxy before a backend, and tells how that went.
func guardedStart(t *testing.T, backend string, change func(*proxy.InboundConfig)) error {
	t.Helper()
	cfg := realConfig(t)
	addInbound(cfg, doorInbound, backend, change)
	px, err := startRealErr(t, cfg, serveDomains(t, nil), zap.NewNop())
	if err != nil {
		return err
	}
	return px.Ready()
}

// A backend that relays for this machine keeps the door shut, and the message
// names the line to change.
func TestRealRelayGuard(t *testing.T) {
	remedy := map[mta.Kind]string{
		mta.Postfix: `"-o smtpd_authorized_xclient_hosts=127.0.0.1"`, mta.Exim: `"hosts_proxy = 127.0.0.1"`,
	}
	for _, kind := range mta.Kinds() {
		t.Run(string(kind)+" that trusts us", func(t *testing.T) {
			t.Parallel()
			in := mtatest.Start(t, kind, mta.Config{RelayFrom: everyoneHere()})
			err := guardedStart(t, in.Addr(), nil)
			var relays *proxy.RelayError
			if !errors.As(err, &relays) {
				t.Fatalf("start: %v, want a RelayError", err)
			}
			if text := err.Error(); !strings.Contains(text, remedy[kind]) {
				t.Errorf("it says\n%s\nwhich lacks\n%s", text, remedy[kind])
			}
			if err := guardedStart(t, in.Addr(), func(c *proxy.InboundConfig) { c.BackendTrustsUs = true }); err != nil {
				t.Errorf("where it is meant so: %v", err)
			}
		})
		t.Run(string(kind)+" that trusts nobody", func(t *testing.T) {
			t.Parallel()
			in := mtatest.Start(t, kind, mta.Config{})
			if err := guardedStart(t, in.Addr(), nil); err != nil {
				t.Error(err)
			}
		})
		t.Run(string(kind)+" that comes later and trusts us", func(t *testing.T) {
			t.Parallel()
			at := realNeighbours(t, 1)[0]
			cfg := realConfig(t)
			addInbound(cfg, doorInbound, at, nil)
			px := startReal(t, cfg, serveDomains(t, nil))
			before := realDialCode(t, px.at(doorInbound), 421)
			mtatest.Start(t, kind, mta.Config{Listen: at, RelayFrom: everyoneHere()})
			awaitReal(t, "the door's opinion", func() bool { return strings.Contains(fmt.Sprint(px.Ready()), "open relay") })
			if after := realDialCode(t, px.at(doorInbound), 421); after != before {
				t.Errorf("a stranger hears %q, and then %q", before, after)
			}
		})
	}
}

// A backend that relays for this machine and is told who the client is opens the
// door, unless it relays for the whole world.
func TestRealRelayGuardTold(t *testing.T) {
	for _, test := range announcements() {
		t.Run(string(test.kind)+", "+test.client, func(t *testing.T) {
			t.Parallel()
			c := test.config
			c.RelayFrom = everyoneHere()
			told := func(in *proxy.InboundConfig) { in.ClientAddress = test.client }
			if err := guardedStart(t, mtatest.Start(t, test.kind, c).Addr(), told); err != nil {
				t.Error(err)
			}
			c.RelayFrom = []string{"0.0.0.0/0"}
			err := guardedStart(t, mtatest.Start(t, test.kind, c).Addr(), told)
			var relays *proxy.RelayError
			if !errors.As(err, &relays) || !strings.Contains(err.Error(), "relays all the same") {
				t.Errorf("an open relay that knows the client: %v, want a RelayError", err)
			}
		})
	}
}

// realDialCode connects, wants a code for a greeting, and returns its words.
func realDialCode(t *testing.T, addr string, code int) string {
	t.Helper()
	d, greeting, err := mta.Dial(mtatest.Context(t), addr, "", nil)
	if err == nil {
		_ = d.Close()
	}
	if greeting.Code != code && !strings.Contains(fmt.Sprint(err), fmt.Sprint(code)) {
		t.Fatalf("greeted with %v, %v; want %d", greeting, err, code)
	}
	return greeting.String()
}

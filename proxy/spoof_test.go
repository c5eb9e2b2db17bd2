package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/refpeer"
	"slipstream/proxy/route"
)

// comers are the addresses that a backend's connections came from, those of the questions before the door opened among
// them.
func comers(s *refpeer.Server) (hosts []string) {
	for _, c := range s.Connections() {
		hosts = append(hosts, addrPort(c.Remote).Addr().String())
	}
	return hosts
}

func spoofing(in *InboundConfig) { in.ClientAddress, in.PoolIdle = announceSpoof, 5*time.Minute }

// Connections come from the clients' addresses, are used again by the same client's session, and never by another.
func TestSpoof(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		backend := w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern(), StrictLockstep: true})
		w.inbound(spoofing)
		w.start()
		for _, from := range []string{clientHost, "198.51.100.8", clientHost} {
			c := w.clientFrom(from)
			c.ask("EHLO client.example", "250")
			c.deliver("one")
			c.deliver("two")
			c.ask("QUIT", "221 ")
			time.Sleep(5 * time.Second)
		}
		want := []string{"192.0.2.1", clientHost, "198.51.100.8", clientHost}
		if got := comers(backend); !slices.Equal(got, want) {
			t.Errorf("connections came from %q, want %q", got, want)
		}
		for i, m := range backend.Messages() {
			if m.Conn != 1+i/2 || m.Hello != "EHLO client.example" {
				t.Errorf("message %d: on connection %d, greeted with %q", i, m.Conn, m.Hello)
			}
		}
	})
}

// A backend is reached at an address of the client's family; without one the client is put off.
func TestSpoofFamilies(t *testing.T) {
	const (
		backend6     = "[2001:db8:25::1]:25"
		notAvailable = "451 4.3.2 Slipstream: mail system not available"
	)
	for _, tt := range []struct {
		name, client, reply string
		backends            []string
		strangers           []string
	}{
		{"IPv6 to both", "2001:db8::7", "250 ", []string{backendAddr, backend6}, []string{"192.0.2.1", "2001:db8::1"}},
		{"IPv4 to both", clientHost, "250 ", []string{backendAddr, backend6}, []string{"192.0.2.1", "2001:db8::1"}},
		{"IPv6 to IPv4", "2001:db8::7", notAvailable, []string{backendAddr}, []string{"192.0.2.1"}},
		{"IPv4 to IPv6", clientHost, notAvailable, []string{backend6}, []string{"2001:db8::1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				var servers []*refpeer.Server
				for _, at := range tt.backends {
					servers = append(servers, w.serve(at, &refpeer.Server{Keywords: refpeer.Modern()}))
					addr := netip.MustParseAddrPort(at).Addr()
					w.dns.addrs["backend.example"] = append(w.dns.addrs["backend.example"], addr)
				}
				w.cfg.DNS.Servers = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")} // the world's DNS, not the system's
				w.inbound(spoofing, func(in *InboundConfig) { in.Backend = Endpoint{Host: "backend.example", Port: 25} })
				logs := w.observe()
				c := w.clientFrom(tt.client)
				c.ask("EHLO client.example", "250")
				c.ask("MAIL FROM:<a@client.example>", tt.reply)
				c.ask("QUIT", "221 ")
				synctest.Wait()
				var came []string
				for _, s := range servers {
					came = append(came, comers(s)...)
				}
				want := slices.Clone(tt.strangers)
				if strings.HasPrefix(tt.reply, "250") {
					want = append(want, tt.client)
				} else if !mentions(logs, "has no such address to go to from there") {
					t.Error("the log does not say why")
				}
				slices.Sort(came)
				slices.Sort(want)
				if !slices.Equal(came, want) {
					t.Errorf("the backend saw %q, want %q", came, want)
				}
			})
		})
	}
}

// Each family's trust is asked about: a backend that relays for one of them keeps the door shut.
func TestSpoofGuardAsksBoth(t *testing.T) {
	for _, bad := range []int{0, 1} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			for i, at := range []string{backendAddr, "[2001:db8:25::1]:25"} {
				s := &refpeer.Server{Keywords: refpeer.Modern()}
				if i != bad {
					s.Behave = hopsAt("RCPT", refpeer.Say("554 5.7.1 Relay access denied"))
				}
				w.serve(at, s)
				w.dns.addrs["backend.example"] = append(w.dns.addrs["backend.example"], netip.MustParseAddrPort(at).Addr())
			}
			w.cfg.DNS.Servers = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}
			w.inbound(spoofing, func(in *InboundConfig) {
				in.Backend, in.BackendTrustsUs = Endpoint{Host: "backend.example", Port: 25}, false
			})
			err := w.build().Start(t.Context())
			w.stop()
			var relays *RelayError
			if !errors.As(err, &relays) || !strings.Contains(err.Error(), "masquerade") {
				t.Errorf("relays by address %d: %v", bad, err)
			}
		})
	}
}

// From what is no client's address the kernel would come from our own: nothing is sent.
func TestSpoofable(t *testing.T) {
	for addr, want := range map[string]bool{
		"198.51.100.7": true, "10.0.0.1": true, "127.0.0.1": true, "169.254.1.1": true,
		"2001:db8::7": true, "::1": true, "fd00::1": true, "64:ff9b::c000:201": true,
		"0.0.0.0": false, "0.1.2.3": false, "224.0.0.1": false, "239.1.2.3": false, "240.0.0.1": false,
		"255.255.255.255": false,
		"::":              false, "ff02::1": false, "fe80::1": false, "fe80::1%eth0": false,
	} {
		if err := spoofable(netip.MustParseAddr(addr)); (err == nil) != want {
			t.Errorf("%s: %v, want %v", addr, err, want)
		}
	}
	if spoofable(netip.Addr{}) == nil {
		t.Error("no address is one")
	}
}

// A client behind a proxy that says it comes from such an address, or from the backend's own, is put off.
func TestSpoofOddClients(t *testing.T) {
	for client, why := range map[string]string{
		"0.0.0.0": "is no address that a client can have", "255.255.255.255": "is no address that a client can have",
		"203.0.113.1": "the client is the backend itself",
	} {
		t.Run(client, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				backend := w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
				w.inbound(spoofing, func(in *InboundConfig) {
					in.ProxyProtocolFrom = Prefixes{netip.MustParsePrefix(clientHost + "/32")}
				})
				logs := w.observe()
				c := w.connect(inboundAt)
				c.raw("PROXY TCP4 " + client + " 192.0.2.1 12345 25\r\n")
				c.want("220 ")
				c.ask("EHLO client.example", "250")
				c.ask("MAIL FROM:<a@client.example>", "451 4.3.2 ")
				if !mentions(logs, why) {
					c.ask("QUIT", "221 ")
					if synctest.Wait(); !mentions(logs, why) {
						t.Errorf("the log does not say %q", why)
					}
				}
				if got := comers(backend); len(got) != 1 {
					t.Errorf("connections from %q", got)
				}
			})
		})
	}
}

// Each way for a connection to fail has its own advice.
func TestSpoofError(t *testing.T) {
	c := &caller{announce: announceSpoof}
	client := netip.MustParseAddr(clientHost)
	const rules = "slipstream intercept print"
	for _, tt := range []struct {
		err  error
		says string
		not  string
	}{
		{&waitError{what: "a connection", limit: time.Second}, rules, ""},
		{syscall.ETIMEDOUT, rules, ""},
		{context.DeadlineExceeded, rules, ""},
		{syscall.EADDRNOTAVAIL, rules, ""},
		{syscall.EPERM, "firewall", rawCapability},
		{fmt.Errorf("%w: %w; %s", errPrivilege, syscall.EPERM, rawRemedy), "AmbientCapabilities=" + rawCapability, "firewall"},
		{syscall.EINVAL, "no way from there", ""},
		{syscall.ENETUNREACH, "no way from there", ""},
		{syscall.ECONNREFUSED, "refused", rules},
		{errNotFrom, "another address", rules},
	} {
		err := c.spoofError(client, &peerError{hop: "[203.0.113.1]:25", during: duringConnect, err: tt.err})
		text := err.Error()
		if !errors.Is(err, tt.err) || !strings.Contains(text, "the client's address "+clientHost) ||
			!strings.Contains(text, tt.says) || tt.not != "" && strings.Contains(text, tt.not) {
			t.Errorf("%v: %q, want %q in it and not %q", tt.err, text, tt.says, tt.not)
		}
	}
	if err := (&caller{announce: announceNone}).spoofError(client, syscall.ETIMEDOUT); err != syscall.ETIMEDOUT {
		t.Errorf("without spoofing: %v", err)
	}
	if c.spoofError(client, nil) != nil {
		t.Error("an error out of nothing")
	}
	var none []netip.AddrPort
	if got, err := (&caller{}).reachable(route.Host{Addrs: none}, identity{}); err != nil || len(got) > 0 {
		t.Errorf("without spoofing: %v, %v", got, err)
	}
}

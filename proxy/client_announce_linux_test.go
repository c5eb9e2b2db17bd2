package proxy_test

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"slipstream/bench/mta"
	"slipstream/bench/mta/mtatest"
	"slipstream/proxy"
)

// What is said about the client on a connection reaches the backend's log as the world's address, of either family,
// whatever the family of the connection, and what it relays for us it does not relay for them.
func TestClientAnnounced(t *testing.T) {
	if !inOwnNetwork(t) {
		return
	}
	w := newClientWorld(t)
	us := []string{"127.0.0.1"}
	for _, tt := range []struct {
		kind     mta.Kind
		announce string
		c        mta.Config
	}{
		{mta.Postfix, "xclient", mta.Config{XCLIENT: us}},
		{mta.Postfix, "proxy-v1", mta.Config{Proxy: us}},
		{mta.Postfix, "proxy-v2", mta.Config{Proxy: us}},
		{mta.Exim, "proxy-v1", mta.Config{Proxy: us}},
		{mta.Exim, "proxy-v2", mta.Config{Proxy: us}},
		{mta.OpenSMTPD, "proxy-v2", mta.Config{Proxy: us, Via: "127.0.0.1:9"}},
	} {
		t.Run(string(tt.kind)+" "+tt.announce, func(t *testing.T) {
			tt.c.Hostname, tt.c.Local, tt.c.RelayFrom = "mx.b.test", []string{"b.test"}, []string{loopback4}
			in := mtatest.Start(t, tt.kind, tt.c)
			if _, err := clientDoor(t, in.Addr(), func(c *proxy.InboundConfig) { c.ClientAddress = tt.announce }); err != nil {
				t.Fatal(err)
			}
			for client, door := range map[string]string{worldClient4: public4, worldClient6: public6} {
				w.say(t, net.JoinHostPort(door, "2525"), "announced")
				if err := in.WaitLog(mtatest.Context(t), client); err != nil {
					t.Error(err)
				}
			}
			if strings.Count(in.Log(), "192.0.2.1") == 0 {
				t.Error("the question whether it relays did not come from a stranger")
			}
		})
	}
}

// Every backend that trusts this machine, and is told nothing of clients, keeps the door shut.
func TestClientCareless(t *testing.T) {
	for _, b := range clientBackends() {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			at := realNeighbours(t, 1)[0]
			b.start(t, at, []string{loopback4})
			for _, announce := range []string{"none", "xforward"} {
				err := guardedStart(t, at, func(in *proxy.InboundConfig) { in.ClientAddress = announce })
				var relays *proxy.RelayError
				if !errors.As(err, &relays) {
					t.Errorf("%s: %v, want a RelayError", announce, err)
				}
			}
		})
	}
}

// Postfix's log names the clients, though all of them come on one connection of ours.
func TestClientForwarded(t *testing.T) {
	if !inOwnNetwork(t) {
		return
	}
	w := newClientWorld(t)
	in := mtatest.Start(t, mta.Postfix, mta.Config{Hostname: "mx.b.test", Local: []string{"b.test"}, Extra: []string{
		"smtpd_authorized_xforward_hosts = 127.0.0.1", "smtpd_forbid_unauth_pipelining = yes",
	}})
	px, err := clientDoor(t, in.Addr(), func(c *proxy.InboundConfig) {
		c.ClientAddress, c.PoolIdle = "xforward", time.Minute
	})
	if err != nil {
		t.Fatal(err)
	}
	connects := func() int { return len(realLogged(in, "smtpd", ": connect from")) }
	// Who waited for it, and who asked whether it relays; its log comes a moment later.
	awaitReal(t, "the first two to leave", func() bool { return len(realLogged(in, "disconnect from")) >= 2 })
	before := connects()
	clients := []struct{ addr, door string }{{worldClient4, public4}, {worldClient6, public6}, {worldClient4, public4}}
	for i, c := range clients {
		w.say(t, net.JoinHostPort(c.door, "2525"), "forwarded")
		id := px.records(t, i+1)[i].ID
		awaitReal(t, "the client in the log", func() bool {
			return len(realLogged(in, "client=unknown[127.0.0.1], orig_queue_id="+id+", orig_client=", "["+c.addr+"]")) == 1
		})
	}
	if n := connects() - before; n != 1 {
		t.Errorf("%d connections for %d clients, want one", n, len(clients))
	}
	for _, bad := range []string{"pipelining after", "Bad ", "501 ", "503 "} {
		if lines := realLogged(in, bad); len(lines) > 0 {
			t.Errorf("the backend complains: %q", lines)
		}
	}
}

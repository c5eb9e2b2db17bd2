package proxy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/netsim"
	"slipstream/bench/refpeer"
	"slipstream/tlsstore"
)

// Fast Open without anybody to speak to: what we thought we knew is forgotten
// between connecting and speaking, or the host is gone.
func TestGuessFast(t *testing.T) {
	key := tlsstore.PeerKey{Addr: netip.MustParseAddrPort(mxAddr), Hello: "proxy.example"}
	for _, mode := range []string{"commands", "message"} {
		for _, style := range []refpeer.Style{refpeer.LockStep, refpeer.Pipelining, refpeer.Chunking} {
			t.Run(fmt.Sprintf("forgotten/%s/%v", mode, style), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					hop := &refpeer.Server{Keywords: early()}
					w := newWorld(t)
					w.remember(tlsstore.Memory())
					w.net.SetLink(proxyHost, mxHost, netsim.Link{Delay: guessRTT / 2})
					w.net.SetFastOpen(mxAddr, true)
					dial := w.net.FastDialer(proxyHost)
					forget := false
					w.dialFast = func(ctx context.Context, network string, local netip.Addr, remote string) (net.Conn, error) {
						if forget {
							w.store.Forget(key)
						}
						return dial(ctx, network, local, remote)
					}
					w.serve(mxAddr, hop)
					w.outbound(func(o *OutboundConfig) { o.TLS, o.FastOpen = "none", mode })
					w.start()
					w.guessPositive(style)
					w.guessPositive(style) // is given a cookie
					forget = true
					start := time.Now()
					w.guessPositive(style)
					if took := time.Since(start); took > time.Second {
						t.Errorf("it took %v", took)
					}
					if n := len(hop.Messages()); n != 3 {
						t.Errorf("the hop has %d messages", n)
					}
				})
			})
			t.Run(fmt.Sprintf("gone/%s/%v", mode, style), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					w.remember(tlsstore.Memory())
					w.net.SetLink(proxyHost, mxHost, netsim.Link{Delay: guessRTT / 2})
					w.net.SetFastOpen(mxAddr, true)
					w.dialFast = w.net.FastDialer(proxyHost)
					first := w.serve(mxAddr, &refpeer.Server{Keywords: early()})
					second := w.serve("203.0.113.3:25", &refpeer.Server{Keywords: early()})
					w.dns.mx["example.org"] = append(w.dns.mx["example.org"], &net.MX{Host: "mx2.example.org", Pref: 20})
					w.dns.addrs["mx2.example.org"] = []netip.Addr{netip.MustParseAddr("203.0.113.3")}
					w.outbound(func(o *OutboundConfig) { o.TLS, o.FastOpen = "none", mode })
					w.start()
					w.guessPositive(style)
					w.guessPositive(style)
					first.Close()
					w.guessPositive(style)
					if n := len(second.Messages()); n != 1 || len(first.Messages()) != 2 {
						t.Errorf("the second host has %d messages", n)
					}
				})
			})
		}
	}
}

// A hop that is there and says no to who speaks early has misled us, whether or
// not that was in the SYN: what was known of it is forgotten, and the second time
// in a day it is not spoken to early any more.
func TestGuessFastMisled(t *testing.T) {
	says := func(line string) refpeer.Action {
		return refpeer.Action{Reply: line, Close: true, Delay: 5 * time.Millisecond} // behind the SYN-ACK
	}
	for name, tt := range map[string]struct {
		does  refpeer.Action
		style refpeer.Style
		busy  bool // it would do so to everybody: nobody is to blame
	}{
		"554":          {says("554 5.5.0 synchronization error\r\n"), refpeer.Chunking, false},
		"554 at once":  {answerAndClose("554 5.5.0 synchronization error"), refpeer.Chunking, false},
		"220- and 521": {says("220-mx.example ESMTP\r\n521 5.5.1 protocol error\r\n"), refpeer.Chunking, false}, // postscreen
		"421":          {says("421 4.7.0 too many connections\r\n"), refpeer.Chunking, true},
		// With a text under way nobody could know what became of it.
		"no reply": {says("go ahead\r\n"), refpeer.LockStep, false},
		"closes":   {says(""), refpeer.LockStep, false},
		"resets":   {refpeer.Action{Reset: true, Delay: 5 * time.Millisecond}, refpeer.LockStep, false},
	} {
		for _, mode := range []string{"off", "commands", "message"} {
			t.Run(name+"/"+mode, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					hop := &refpeer.Server{Keywords: early(), Behave: func(ev refpeer.Event) refpeer.Action {
						if ev.Kind == refpeer.Connect && (ev.Conn == 1 || ev.Conn == 3) { // those that begin early
							return tt.does
						}
						return refpeer.Action{}
					}}
					w := fastWorld(t, mode, hop)
					for i, step := range []struct {
						conns, guesses int
						early, blamed  bool
					}{
						{1, 0, false, false},
						{2, 1, false, !tt.busy},
						{2, 2, false, !tt.busy},
						{1, 2, tt.busy, !tt.busy},
					} {
						before := hop.Accepted()
						took := trips(t, w, &refpeer.Client{Style: tt.style}, outboundAt, guessRTT)
						sum := w.last()
						if n := hop.Accepted() - before; n != step.conns {
							t.Errorf("message %d: %d connections, want %d", i, n, step.conns)
						}
						if n := w.counter("slipstream_guesses_wrong_total", "outbound"); n != float64(step.guesses) {
							t.Errorf("message %d: %v wrong guesses were counted, want %d", i, n, step.guesses)
						}
						if got := sum.Saved.early > 0; got != step.early || tt.does.Delay > 0 && sum.Trips != int(took) {
							t.Errorf("message %d: the record says %q, and it took %v trips", i, costs(sum), took)
						}
						hopAt := netip.MustParseAddrPort(mxAddr)
						if got := w.store.Quirk(hopAt, quirkMisled); got != step.blamed {
							t.Errorf("message %d: blamed %v, want %v", i, got, step.blamed)
						}
						if got := w.store.Quirk(hopAt, tlsstore.QuirkNoEarly); got != (step.blamed && i > 1) {
							t.Errorf("message %d: distrusted %v", i, got)
						}
						time.Sleep(time.Second)
					}
				})
			})
		}
	}
}

// A hop that says no to everybody is asked in lock step from the second time on,
// which costs it no second connection.
func TestGuessFastForgets(t *testing.T) {
	for _, mode := range []string{"off", "commands", "message"} {
		t.Run(mode, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hop := &refpeer.Server{Keywords: early(), Behave: func(ev refpeer.Event) refpeer.Action {
					if ev.Kind == refpeer.Connect && ev.Conn > 0 {
						return answerAndClose("554 5.7.1 no")
					}
					return refpeer.Action{}
				}}
				w := fastWorld(t, mode, hop)
				for i, conns := range []int{1, 2, 1, 1} {
					before := hop.Accepted()
					said, err := w.guessSend(refpeer.Chunking, refpeer.Mail{}, guessed{})
					if err != nil || positive(said) != (i == 0) {
						t.Errorf("message %d: the client heard %q, %v", i, said, err)
					}
					if n := hop.Accepted() - before; n != conns {
						t.Errorf("message %d: %d connections, want %d", i, n, conns)
					}
					time.Sleep(time.Second)
				}
			})
		})
	}
}

// fastWorld has a door that opens fast to a hop, in one of the modes.
func fastWorld(t *testing.T, mode string, hop *refpeer.Server) *world {
	t.Helper()
	w := newWorld(t)
	w.remember(tlsstore.Memory())
	w.net.SetLink(proxyHost, mxHost, netsim.Link{Delay: guessRTT / 2})
	w.net.SetFastOpen(mxAddr, true)
	w.dialFast = w.net.FastDialer(proxyHost)
	w.serve(mxAddr, hop)
	w.outbound(func(o *OutboundConfig) { o.TLS, o.FastOpen = "none", mode })
	w.start()
	return w
}

package proxy

import (
	"crypto/tls"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/netsim"
	"slipstream/bench/refpeer"
)

// Where a door must refuse, the first word says so and is not final, TLS or not.
func TestEarlyTalkTurnedAway(t *testing.T) {
	away := map[string]struct {
		change func(*world, *InboundConfig)
		then   func(*world)
		want   string
	}{
		"not allowed": {func(_ *world, in *InboundConfig) {
			in.Allow = Prefixes{netip.MustParsePrefix("10.0.0.0/8")}
		}, nil, "421 4.7.0 proxy.example does not serve " + clientHost},
		"shut": {func(_ *world, in *InboundConfig) { in.Backend.Port, in.BackendTrustsUs = 26, false }, nil, "421 4.3.2 "},
		"stopping": {nil, func(w *world) {
			w.proxy.mu.Lock() // as it is from the moment of the order until the doors are closed
			defer w.proxy.mu.Unlock()
			w.proxy.stopping = true
		}, "421 4.3.2 "},
	}
	for name, tt := range away {
		for _, e := range earlyTalks()[1:] {
			if name == "stopping" && e.implicit() {
				continue // they are let go before TLS
			}
			t.Run(name+"/"+e.name, func(t *testing.T) {
				cert := newTestCert(t, "proxy.example")
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					resets := 0
					w.net.Trace = func(s netsim.Segment) {
						if s.RST && s.From.String() == inboundAt {
							resets++
						}
					}
					w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
					w.inbound(func(in *InboundConfig) {
						in.TLSCert, in.TLSKey = cert.certFile, cert.keyFile
						if e.implicit() {
							in.Listen, in.ListenTLS = nil, in.Listen
						}
						if tt.change != nil {
							tt.change(w, in)
						}
					})
					w.start()
					if tt.then != nil {
						tt.then(w)
					}
					begun := time.Now()
					c := w.connect(inboundAt)
					if e.implicit() {
						conn := tls.Client(c.conn, &tls.Config{InsecureSkipVerify: true})
						c = newDialog(t, conn)
					}
					c.raw(e.flights[0].octets)
					c.want(tt.want)
					c.wantClosed()
					if took := time.Since(begun); took != 0 {
						t.Errorf("the end came after %v", took)
					}
					_ = c.conn.Close()
					synctest.Wait()
					if resets != 0 {
						t.Error("a reset ate the reply")
					}
				})
			})
		}
	}
	t.Run("at an outbound door", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.outbound(func(o *OutboundConfig) { o.Allow = loopbackNetworks() })
			w.start()
			c := w.connect(outboundAt)
			c.raw(earlyHello)
			c.want("554 5.7.1 proxy.example does not serve " + clientHost)
			c.wantClosed()
		})
	})
}

// The service stops while a client negotiates TLS: its first word is 421 too.
func TestEarlyTalkDraining(t *testing.T) {
	cert := newTestCert(t, "proxy.example")
	synctest.Test(t, func(t *testing.T) {
		e := earlyTalks()[3]
		w := e.open(t, cert, &refpeer.Server{Keywords: refpeer.Modern()})
		w.start()
		raw := w.connect(inboundAt).conn
		c := &earlyConn{Conn: raw}
		conn := c.secure(t)
		d := newDialog(t, conn)
		d.raw(e.flights[0].octets)
		done := w.lifecycleStop(time.Minute)
		if err := c.release(); err != nil {
			t.Fatal(err)
		}
		d.want("421 4.3.2 ")
		d.wantClosed()
		_ = conn.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

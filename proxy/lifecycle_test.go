package proxy

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/refpeer"
)

// Starting, changing and stopping while people are inside.

// lifecycleStop begins a shutdown that cuts after a while, and returns where its
// result comes.
func (w *world) lifecycleStop(limit time.Duration) <-chan error {
	result := make(chan error, 1)
	go func() { // ends with Shutdown
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		result <- w.proxy.Shutdown(ctx)
	}()
	synctest.Wait()
	return result
}

// refused makes sure that nobody listens at an address.
func (w *world) refused(addr string) {
	w.t.Helper()
	if conn, err := w.net.Dial(w.t.Context(), clientHost, addr); !errors.Is(err, syscall.ECONNREFUSED) {
		w.t.Errorf("connecting to %s: %v, %v; want a refusal", addr, conn, err)
	}
}

// bye reads 421 for the shutdown, which must come at once, and leaves.
func (d *dialog) bye() {
	d.t.Helper()
	if late := took(func() { d.want("421 4.3.2 proxy.example is shutting down") }); late != 0 {
		d.t.Errorf("421 came after %v", late)
	}
	d.wantClosed()
	_ = d.conn.Close()
}

func TestShutdownIdleSessions(t *testing.T) {
	cert := newTestCert(t, "proxy.example")
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		backend := w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
		w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern()})
		w.inbound(func(in *InboundConfig) { in.TLSCert, in.TLSKey = cert.certFile, cert.keyFile })
		w.outbound()
		w.start()
		var all []*dialog
		all = append(all, w.client(inboundAt)) // has said nothing yet
		greeted := w.client(inboundAt)
		greeted.ask("EHLO client.example", "250")
		secured := w.client(inboundAt)
		secured.ask("EHLO client.example", "250")
		secured.startTLS()
		between := w.client(inboundAt) // with a connection kept
		between.ask("EHLO client.example", "250")
		between.deliver("m")
		reset := w.client(outboundAt)
		reset.ask("EHLO client.example", "250")
		reset.ask("MAIL FROM:<a@client.example>", "250 ")
		reset.ask("RCPT TO:<one@example.org>", "250 ")
		reset.ask("RSET", "250 ")
		half := w.client(inboundAt) // in the middle of a line
		half.ask("EHLO client.example", "250")
		half.raw("MAIL FR")
		all = append(all, greeted, secured, between, reset, half)
		synctest.Wait()
		done := w.lifecycleStop(time.Minute)
		for _, c := range all {
			c.bye()
		}
		if late := took(func() {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}); late > 2*time.Second {
			t.Errorf("the shutdown took %v", late)
		}
		w.refused(inboundAt)
		w.refused(outboundAt)
		synctest.Wait()
		for _, conn := range backend.Connections() {
			if last := conn.Commands[len(conn.Commands)-1]; last != "QUIT" {
				t.Errorf("the backend was left after %q", last)
			}
		}
		if err := w.proxy.Reload(t.Context(), w.cfg); err == nil {
			t.Error("a reload after the shutdown succeeded")
		}
		if err := w.proxy.Ready(); err == nil {
			t.Error("ready after the shutdown")
		}
	})
}

// What is under way finishes, and then hears 421.
func TestShutdownFinishesTransactions(t *testing.T) {
	for _, at := range []string{inboundAt, outboundAt} {
		for stage, before := range map[string]func(*dialog){
			"after MAIL": func(c *dialog) {},
			"after RCPT": func(c *dialog) { c.ask("RCPT TO:<one@example.org>", "250 ") },
			"in the text": func(c *dialog) {
				c.ask("RCPT TO:<one@example.org>", "250 ")
				c.ask("DATA", "354 ")
				c.raw("Subject: x\r\n\r\nte")
			},
			"after RSET": nil,
		} {
			t.Run(at+"/"+stage, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					backend := w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
					mx := w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern()})
					w.inbound()
					w.outbound()
					w.start()
					c := w.client(at)
					c.ask("EHLO client.example", "250")
					c.ask("MAIL FROM:<a@client.example>", "250 ")
					if before != nil {
						before(c)
					}
					done := w.lifecycleStop(5 * time.Minute)
					w.refused(at)
					time.Sleep(time.Minute)
					switch stage {
					case "after RSET":
						c.ask("RSET", "250 ")
						c.bye()
					case "after MAIL":
						c.ask("RCPT TO:<one@example.org>", "250 ")
						fallthrough
					case "after RCPT":
						c.ask("DATA", "354 ")
						c.raw("Subject: x\r\n\r\nte")
						fallthrough
					default:
						c.raw("xt\r\n.\r\n")
						c.want("250 ")
						c.bye()
						if n := len(backend.Messages()) + len(mx.Messages()); n != 1 {
							t.Errorf("%d messages were delivered", n)
						}
					}
					if err := <-done; err != nil {
						t.Error(err)
					}
				})
			})
		}
	}
}

// What is not over by the deadline is cut: its sender hears 4xx or nothing, and
// never a yes.
func TestShutdownCuts(t *testing.T) {
	stall := func(verb string) func(refpeer.Event) refpeer.Action {
		return hopsAt(verb, refpeer.Action{Stall: true})
	}
	const mail, rcpt = "MAIL FROM:<a@client.example>", "RCPT TO:<one@example.org>"
	for _, at := range []string{inboundAt, outboundAt} {
		for name, tt := range map[string]struct {
			hop   func(refpeer.Event) refpeer.Action
			lines []string
			raw   string
		}{
			"between RCPT and DATA":      {lines: []string{mail, rcpt}},
			"in the text":                {lines: []string{mail, rcpt, "DATA"}, raw: "Subject: x\r\n\r\nte"},
			"in a chunk":                 {lines: []string{mail, rcpt}, raw: "BDAT 100 LAST\r\nSubject"},
			"the hop hangs at RCPT":      {lines: []string{mail}, raw: rcpt + "\r\n", hop: stall("RCPT")},
			"the hop hangs at the end":   {lines: []string{mail, rcpt, "DATA"}, raw: "Subject: x\r\n\r\ntext\r\n.\r\n", hop: stall("end of data")},
			"the hop hangs at the start": {lines: []string{mail, rcpt, "DATA"}, raw: "Subject: x\r\n\r\ntext\r\n.\r\n", hop: stall("data start")},
		} {
			t.Run(at+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					hop := &refpeer.Server{Keywords: refpeer.Modern()}
					var broken atomic.Bool
					hop.Behave = func(ev refpeer.Event) refpeer.Action {
						if tt.hop == nil || !broken.Load() {
							return refpeer.Action{}
						}
						return tt.hop(ev)
					}
					if at == inboundAt {
						w.serve(backendAddr, hop)
					} else {
						w.serve(mxAddr, hop)
					}
					w.inbound()
					w.outbound(func(out *OutboundConfig) { out.Offer = []string{"CHUNKING"} })
					w.start()
					broken.Store(true)
					c := w.client(at)
					c.ask("EHLO client.example", "250")
					for _, line := range tt.lines {
						c.ask(line, map[bool]string{true: "354 ", false: "250 "}[line == "DATA"])
					}
					c.raw(tt.raw)
					synctest.Wait()
					done := w.lifecycleStop(10 * time.Second)
					begun := time.Now()
					_ = c.conn.SetReadDeadline(begun.Add(time.Hour))
					heard := ""
					for {
						line, err := c.r.ReadString('\n')
						if heard += line; err != nil {
							break
						}
					}
					_ = c.conn.Close()
					if d := time.Since(begun); d < 10*time.Second || d > 12*time.Second {
						t.Errorf("the session ended after %v", d)
					}
					for line := range strings.Lines(heard) {
						if line[0] != '4' {
							t.Errorf("the client heard %q", heard)
						}
					}
					if err := <-done; !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) > 13*time.Second {
						t.Errorf("the shutdown took %v and said %v", time.Since(begun), err)
					}
					hop.Close()
					if tt.hop == nil && len(hop.Messages()) > 0 {
						t.Error("the hop has a message that the client never finished")
					}
				})
			})
		}
	}
}

// People who have not come in yet do not hold up the end.
func TestShutdownAtTheDoor(t *testing.T) {
	cert := newTestCert(t, "proxy.example")
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve(backendAddr, &refpeer.Server{})
		w.inbound(func(in *InboundConfig) {
			in.TLSCert, in.TLSKey, in.ListenTLS = cert.certFile, cert.keyFile, []string{proxyHost + ":465"}
		})
		w.inbound(func(in *InboundConfig) {
			in.Name, in.Listen = "behind", []string{proxyHost + ":2525"}
			in.ProxyProtocolFrom = Prefixes{netip.MustParsePrefix("198.51.100.0/24")}
		})
		w.start()
		for _, at := range []string{proxyHost + ":465", proxyHost + ":2525"} {
			w.connect(at)
		}
		handshake := w.client(inboundAt)
		handshake.ask("EHLO client.example", "250")
		handshake.ask("STARTTLS", "220 ")
		synctest.Wait()
		begun := time.Now()
		if err := <-w.lifecycleStop(5 * time.Second); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if d := time.Since(begun); d > 7*time.Second {
			t.Errorf("the shutdown took %v", d)
		}
	})
}

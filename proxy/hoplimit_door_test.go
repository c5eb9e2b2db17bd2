package proxy

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/netsim"
	"slipstream/bench/refpeer"
)

// narrow is a world with an LMTP door, and places for n connections to hops.
func narrow(t *testing.T, n int, change ...func(*OutboundConfig)) *world {
	w := newWorld(t)
	w.cfg.Limits.MaxHopConnections = n
	w.outbound(append([]func(*OutboundConfig){func(o *OutboundConfig) { o.Protocol = "lmtp" }}, change...)...)
	return w
}

// domains adds as many domains, each with a host of its own.
func (w *world) domains(n int, s func(i int) *refpeer.Server) []*refpeer.Server {
	w.t.Helper()
	var list []*refpeer.Server
	for i := range n {
		list = append(list, w.lmtpDomain(fmt.Sprintf("d%d.example", i), fmt.Sprintf("203.0.113.%d", 100+i), s(i)))
	}
	return list
}

func modernServer(int) *refpeer.Server { return &refpeer.Server{Keywords: refpeer.Modern()} }

// Fifty destinations in one transaction, and ten places: where the text is there
// before the hops are asked they have it one after the other; where they are asked
// first, some recipients are told to come again, and the others have it. Either
// way nothing waits for ever.
func TestHopConnectionsManyLegs(t *testing.T) {
	for _, late := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			w := narrow(t, 10, func(o *OutboundConfig) { o.LateVerdict = late })
			w.net.SetLink(proxyHost, mxHost, netsim.Link{Delay: 10 * time.Millisecond})
			hops := w.domains(maxLegs, modernServer)
			w.start()
			began := time.Now()
			c := w.lmtpClient()
			flight := []string{"MAIL FROM:<a@client.example>"}
			for i := range hops {
				flight = append(flight, fmt.Sprintf("RCPT TO:<u@d%d.example>", i))
			}
			c.say(append(flight, "DATA")...)
			c.want("250 ")
			accepted := 0
			for range hops {
				if got := c.want(""); got[0] == '2' {
					accepted++
				} else {
					heardOf(t, got, "451 4.4.5 Slipstream: ", "(limits.max_hop_connections)")
				}
			}
			c.want("354 ")
			c.say("Subject: x", "", "text", ".")
			taken := 0
			for range accepted {
				if got := c.want(""); got[0] == '2' {
					taken++
				}
			}
			if taken != accepted || late && taken != maxLegs || !late && taken < 5 {
				t.Errorf("late %t: %d of %d were accepted, %d taken", late, accepted, maxLegs, taken)
			}
			if took := time.Since(began); took > time.Minute {
				t.Errorf("late %t: it took %v", late, took)
			}
			c.ask("QUIT", "221 ")
			synctest.Wait()
			time.Sleep(time.Minute)
			idlePlaces(t, w.proxy.pool.places)
		})
	}
}

// A connection that is kept makes room for one that is wanted.
func TestHopConnectionsIdleMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := narrow(t, 3, func(o *OutboundConfig) { o.PoolIdle = time.Hour })
		hops := w.domains(6, modernServer)
		w.start()
		for round := range 2 {
			for i := range hops {
				c := w.lmtpClient()
				c.ask("MAIL FROM:<a@client.example>", "250 ")
				c.ask(fmt.Sprintf("RCPT TO:<u@d%d.example>", i), "250 ")
				c.ask("DATA", "354 ")
				c.say("Subject: x", "", "text", ".")
				c.want("250 ")
				c.ask("QUIT", "221 ")
				if n := w.proxy.pool.places.open; n > 3 {
					t.Errorf("round %d: %d connections", round, n)
				}
			}
		}
		if n := w.proxy.pool.places.open; n != 3 {
			t.Errorf("%d connections are kept", n)
		}
	})
}

// A connection that could not be made ahead for want of a place is made when it is
// asked for.
func TestHopConnectionsNoneAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := narrow(t, 1)
		w.domains(2, modernServer)
		w.start()
		first := w.lmtpClient()
		first.ask("MAIL FROM:<a@client.example>", "250 ")
		first.ask("RCPT TO:<u@d0.example>", "250 ")
		second := w.lmtpClient()
		second.say("MAIL FROM:<a@client.example>", "RCPT TO:<u@d1.example>", "DATA")
		second.want("250 ")
		second.want("250 ")
		second.want("354 ")
		synctest.Wait() // by now it was tried
		second.say("Subject: x", "", "text", ".")
		time.Sleep(time.Minute)
		first.ask("RSET", "250 ")
		second.want("250 ")
	})
}

// Who waits for just the connection that comes free gets it.
func TestHopConnectionsHandOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := narrow(t, 1, func(o *OutboundConfig) { o.PoolIdle = time.Hour })
		hop := w.domains(1, modernServer)[0]
		w.start()
		first := w.lmtpClient()
		first.ask("MAIL FROM:<a@client.example>", "250 ")
		first.ask("RCPT TO:<u@d0.example>", "250 ")
		var others []*dialog
		for range 5 {
			c := w.lmtpClient()
			c.ask("MAIL FROM:<a@client.example>", "250 ")
			c.say("RCPT TO:<u@d0.example>")
			synctest.Wait()
			others = append(others, c)
		}
		finish := func(c *dialog) {
			c.ask("DATA", "354 ")
			c.say("Subject: x", "", "text", ".")
			c.want("250 ")
		}
		time.Sleep(time.Second)
		finish(first)
		for _, c := range others {
			c.want("250 ")
			finish(c)
		}
		if n := len(hop.Connections()); n != 1 || len(hop.Messages()) != 6 {
			t.Errorf("%d connections for %d messages", n, len(hop.Messages()))
		}
	})
}

// Nobody waits for longer than for the next hop as a whole, and then the client
// hears whose limit it was. The destination is not to blame.
func TestHopConnectionsPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := narrow(t, 1)
		w.domains(2, modernServer)
		w.start()
		first := w.lmtpClient()
		first.ask("MAIL FROM:<a@client.example>", "250 ")
		first.ask("RCPT TO:<u@d0.example>", "250 ")
		for range 5 {
			began := time.Now()
			c := w.lmtpClient()
			c.ask("MAIL FROM:<a@client.example>", "250 ")
			heardOf(t, c.ask("RCPT TO:<u@d1.example>", "451 "), "451 4.4.5 Slipstream: ",
				"all 1 connections to next hops that there may be (limits.max_hop_connections) are in use")
			if took := time.Since(began); took != w.cfg.Timeouts.Setup {
				t.Errorf("told after %v", took)
			}
			c.ask("QUIT", "221 ")
			first.ask("NOOP", "250 ")
		}
		first.ask("RSET", "250 ")
		synctest.Wait()
		c := w.lmtpClient()
		c.ask("MAIL FROM:<a@client.example>", "250 ")
		c.ask("RCPT TO:<u@d1.example>", "250 ")
	})
}

// Three thousand clients at a time, and forty destinations: nobody answers at
// eight of them, though some take the connection. The mail for the others is not
// delayed, with plenty of places or with few.
func TestHopConnectionsBlackHoles(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: three thousand clients take a while")
	}
	const clients, all, dead = 3000, 40, 8
	for name, tt := range map[string]struct {
		places int
		health int
	}{
		"plenty":                {5000, 3},
		"few":                   {600, 3},
		"few, nobody let alone": {600, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := narrow(t, tt.places, func(o *OutboundConfig) { o.DestinationFailures = tt.health })
				w.net.Default.Delay = 10 * time.Millisecond
				w.domains(all, func(i int) *refpeer.Server {
					switch {
					case i < dead/2:
						return nil
					case i < dead:
						return &refpeer.Server{Keywords: refpeer.Modern(), Record: -1, Behave: func(ev refpeer.Event) refpeer.Action {
							return refpeer.Action{Stall: ev.Kind == refpeer.Connect}
						}}
					}
					return &refpeer.Server{Keywords: refpeer.Modern(), Record: -1}
				})
				for i := range dead / 2 {
					w.net.Blackhole(fmt.Sprintf("203.0.113.%d:25", 100+i))
				}
				w.start()
				var mu sync.Mutex
				var worst, worstDead time.Duration
				lost := 0
				var wg sync.WaitGroup
				for n := range clients {
					wg.Go(func() {
						time.Sleep(time.Duration(n) * 3 * time.Millisecond) // all within nine seconds
						began := time.Now()
						reply := blackHoleMail(w, n%all)
						took := time.Since(began)
						mu.Lock()
						defer mu.Unlock()
						switch {
						case n%all < dead:
							worstDead = max(worstDead, took)
							if !strings.HasPrefix(reply, "451 4.4.") {
								t.Errorf("the dead said %q", reply)
							}
						case !strings.HasPrefix(reply, "250 "):
							lost++
							t.Errorf("mail for the living: %q", reply)
						default:
							worst = max(worst, took)
						}
					})
				}
				wg.Wait()
				t.Logf("%d clients, %d places: the living took %v at most, the dead %v", clients, tt.places, worst, worstDead)
				if worst > 500*time.Millisecond || lost > 0 {
					t.Errorf("mail for the living took up to %v, and %d were put off", worst, lost)
				}
			})
		})
	}
}

// blackHoleMail sends one message in lock step, as the slowest of clients does, and
// returns the reply that it ended with.
func blackHoleMail(w *world, to int) string {
	conn, err := w.net.Dial(w.t.Context(), netip.AddrFrom4([4]byte{198, 51, 100, byte(1 + to)}).String(), outboundAt)
	if err != nil {
		return err.Error()
	}
	defer func(c net.Conn) { _ = c.Close() }(conn)
	buf := make([]byte, 4096)
	hear := func() string {
		n, err := conn.Read(buf)
		if err != nil {
			return err.Error()
		}
		return string(buf[:n])
	}
	said := hear()
	for _, line := range []string{"LHLO c.example", "MAIL FROM:<a@client.example>",
		fmt.Sprintf("RCPT TO:<u@d%d.example>", to), "DATA", "Subject: x\r\n\r\ntext\r\n."} {
		if said[0] != '2' && said[0] != '3' {
			return said
		}
		if _, err := conn.Write([]byte(line + "\r\n")); err != nil {
			return err.Error()
		}
		said = hear()
	}
	return said
}

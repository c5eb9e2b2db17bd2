package proxy

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"slipstream/bench/refpeer"
)

// shiftSpam is the verdict that a surplus reply must not take the place of.
const shiftSpam = "554 5.7.1 spam"

// A reply that nobody asked for, left lying between the envelope and the text,
// would be read as the answer to DATA or to the text and shift all later ones:
// the client would hear 250 for a message that was refused (P1).
func TestSurplusBeforeTextIsNoVerdict(t *testing.T) {
	for name, offers := range map[string]refpeer.Keywords{
		"BDAT":          refpeer.Modern(),
		"DATA":          {Pipelining: true},
		"in lock steps": {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				ln, err := w.net.Listen(mxAddr)
				if err != nil {
					t.Fatal(err)
				}
				conns := make(chan net.Conn, 10)
				hop := &refpeer.Server{Keywords: offers, Behave: hopsAt(string(refpeer.EndOfData), refpeer.Say(shiftSpam))}
				hop.Start(hostileListener{ln, conns})
				t.Cleanup(hop.Close)
				w.outbound(func(out *OutboundConfig) { out.Route, out.Relay = "", Endpoint{Host: mxHost, Port: 25} })
				w.start()
				<-conns // the question what the hop offers
				c := w.client(outboundAt)
				c.ask("EHLO client.example", "250")
				c.ask("MAIL FROM:<a@client.example>", "250 ")
				c.ask("RCPT TO:<b@example.org>", "250 ")
				if _, err := (<-conns).Write([]byte("250 2.1.5 ok, twice\r\n")); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				c.talk("DATA", "354 ", hostileText+".", shiftSpam, "QUIT", "221 ")
				if n := hop.Accepted(); n != 3 {
					t.Errorf("the hop saw %d connections, want 3: the question, the one with the surplus, and another", n)
				}
			})
		})
	}
}

// A shiftHop is a hop behind TLS that answers the first text twice, with the
// second reply in a record of its own but in the same segment. TLS reads both,
// and hands out the first alone: below TLS nothing is left to be seen. Every
// later text it refuses, on whatever connection it comes.
type shiftHop struct {
	conf   *tls.Config
	offers string

	mu    sync.Mutex
	conns int
	texts []int // the number of the connection that each came over
}

// A shiftConn holds back what is written while it is told to.
type shiftConn struct {
	net.Conn
	holding bool
	held    []byte
}

func (c *shiftConn) Write(p []byte) (int, error) {
	if c.holding {
		c.held = append(c.held, p...)
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// glue writes records in one segment.
func (c *shiftConn) glue(conn *tls.Conn, records ...string) {
	c.holding = true
	for _, r := range records {
		_, _ = io.WriteString(conn, r) // into memory
	}
	c.holding = false
	_, _ = c.Conn.Write(c.held) // who has left hears nothing
	c.held = nil
}

// serve takes connections until the listener is closed.
func (h *shiftHop) serve(ln net.Listener) {
	for {
		raw, err := ln.Accept()
		if err != nil {
			return
		}
		h.mu.Lock()
		n := h.conns
		h.conns++
		h.mu.Unlock()
		go h.talk(&shiftConn{Conn: raw}, n) // ends with the connection
	}
}

func (h *shiftHop) talk(below *shiftConn, n int) {
	defer below.Close()
	conn := tls.Server(below, h.conf)
	r := bufio.NewReader(conn)
	answer := "220 relay.example\r\n"
	for {
		if _, err := io.WriteString(conn, answer); err != nil {
			return
		}
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		answer = "250 " + strings.TrimSpace(line) + "\r\n"
		switch verb, _, _ := strings.Cut(strings.TrimSpace(line), " "); verb {
		case "EHLO":
			answer = "250-relay.example\r\n250 " + h.offers + "\r\n"
		case "DATA":
			_, _ = io.WriteString(conn, "354 go\r\n") // the next read tells
			for line != ".\r\n" {
				if line, err = r.ReadString('\n'); err != nil {
					return
				}
			}
			answer = h.verdict(below, conn, n)
		case "BDAT":
			var size int64
			if _, err := fmt.Sscanf(line, "BDAT %d LAST", &size); err != nil {
				return
			}
			if _, err := io.CopyN(io.Discard, r, size); err != nil {
				return
			}
			answer = h.verdict(below, conn, n)
		}
	}
}

// verdict answers a text, or returns the answer.
func (h *shiftHop) verdict(below *shiftConn, conn *tls.Conn, n int) string {
	h.mu.Lock()
	h.texts = append(h.texts, n)
	first := len(h.texts) == 1
	h.mu.Unlock()
	if !first {
		return shiftSpam + "\r\n"
	}
	below.glue(conn, "250 2.0.0 taken\r\n", "250 2.0.0 surplus\r\n")
	return ""
}

// What TLS has read ahead counts as waiting to be read: a kept connection with a
// surplus reply in there is given up, and the next message goes over another.
func TestSurplusReadAheadByTLSEndsKeptConnection(t *testing.T) {
	for _, offers := range []string{"CHUNKING", "8BITMIME"} {
		t.Run(offers, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				hop := &shiftHop{conf: newTestCert(t, "relay.example").server(), offers: offers}
				ln, err := w.net.Listen(mxAddr)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = ln.Close() })
				go hop.serve(ln)
				w.outbound(func(out *OutboundConfig) {
					out.Route, out.Relay, out.TLS = "", Endpoint{Host: mxHost, Port: 25, TLS: true}, "encrypt"
				})
				w.start()
				c := w.client(outboundAt)
				c.ask("EHLO client.example", "250")
				for _, want := range []string{"250 2.0.0 taken", shiftSpam} {
					c.talk(hostileMail, "250 | 250 ", "DATA", "354 ", hostileText+".", want)
				}
				c.ask("QUIT", "221 ")
				synctest.Wait()
				hop.mu.Lock()
				defer hop.mu.Unlock()
				if len(hop.texts) != 2 || hop.texts[0] == hop.texts[1] {
					t.Errorf("the texts came over the connections %v, want two different ones", hop.texts)
				}
			})
		})
	}
}

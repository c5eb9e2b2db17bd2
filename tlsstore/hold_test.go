package tlsstore

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// An alert of ours, where the handshake fails after the first flight, is behind the ticket, and the client can read it.
func TestHoldAlertComesThrough(t *testing.T) {
	d, client := newTicketDoor(t, TicketOptions{}, tls.VersionTLS13)
	d.config.VerifyConnection = func(tls.ConnectionState) error { return errors.New("no") }
	_, err := d.visit(client)
	if err == nil || !strings.Contains(err.Error(), "bad certificate") {
		t.Errorf("the client sees %v", err)
	}
}

// A client that turns away from our certificate says so, which is not leaving without a word.
func TestHoldClientAlert(t *testing.T) {
	d, client := newTicketDoor(t, TicketOptions{}, tls.VersionTLS13)
	client.RootCAs = nil
	v, err := d.visit(client)
	if err == nil || v.err == nil || v.held.Left() {
		t.Errorf("client: %v; server: %v; left %v", err, v.err, v.held.Left())
	}
}

func TestHoldLeft(t *testing.T) {
	t.Run("after the first flight", func(t *testing.T) {
		d, client := newTicketDoor(t, TicketOptions{}, tls.VersionTLS13)
		a, b := ticketPair(t)
		v, err := d.visitOver(client, newShyClient(a, 0), b)
		if err == nil || v.err == nil || !v.held.Left() {
			t.Errorf("client: %v; server: %v; left %v", err, v.err, v.held.Left())
		}
	})
	t.Run("not before", func(t *testing.T) {
		d, _ := newTicketDoor(t, TicketOptions{}, tls.VersionTLS13)
		a, b := ticketPair(t)
		a.Close()
		if v := d.serve(b); v.held.Left() || v.err == nil {
			t.Errorf("server: %v; left %v", v.err, v.held.Left())
		}
	})
	for name, silent := range map[string]bool{"after the ticket": true, "not with a word": false} {
		t.Run(name, func(t *testing.T) {
			d, client := newTicketDoor(t, TicketOptions{}, tls.VersionTLS13)
			a, b := ticketPair(t)
			done := make(chan ticketVisit, 1)
			go func() { done <- d.serve(b) }()
			secured := tls.Client(a, client)
			if _, err := io.ReadFull(secured, make([]byte, len("220 mx\r\n"))); err != nil {
				t.Fatal(err)
			}
			if !silent {
				if _, err := io.WriteString(secured, "NOOP\r\n"); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(secured, make([]byte, len("250 mx\r\n"))); err != nil {
					t.Fatal(err)
				}
			}
			a.Close()
			if v := <-done; v.held.Left() != silent {
				t.Errorf("server: %v; left %v", v.err, v.held.Left())
			}
		})
	}
	t.Run("by the octet", func(t *testing.T) {
		ccs := string(dummyCCS[:])
		for _, tt := range []struct {
			said string
			left bool
		}{
			{"", true}, {ccs[:3], true}, {ccs, true}, // a client that has begun to answer out of habit
			{ccs + ccs[:1], false}, {"\x15", false}, {ccs[:2] + "\x15", false},
		} {
			for size := 1; size <= 8; size++ {
				c := HoldTicket(&pile{said: []byte(tt.said), size: size})
				c.quiet.Store(1)
				if _, err := io.ReadAll(c); err != nil || c.Left() != tt.left {
					t.Errorf("% x, %d octets at a time: left %v, %v", tt.said, size, c.Left(), err)
				}
			}
		}
	})
	t.Run("not by our deadline", func(t *testing.T) {
		a, b := net.Pipe()
		defer a.Close()
		c := HoldTicket(b)
		c.quiet.Store(1)
		_ = c.SetReadDeadline(time.Unix(1, 0))
		if _, err := c.Read(make([]byte, 1)); err == nil || c.Left() {
			t.Errorf("%v; left %v", err, c.Left())
		}
	})
}

// sealedRecord is a record of n octets with a header.
func sealedRecord(kind byte, n int) []byte {
	return append([]byte{kind, 3, 3, byte(n >> 8), byte(n)}, bytes.Repeat([]byte{kind}, n)...)
}

func TestHoldCut(t *testing.T) {
	hello, sealed, ticket := sealedRecord(22, 90), sealedRecord(23, 53), sealedRecord(23, 125+minTicketFrame)
	flight := slices.Concat(hello, sealedRecord(20, 1), sealed, sealed)
	tests := []struct {
		name  string
		p     []byte
		sizes []int
		cut   int // from the end; -1: not cut
	}{
		{"a ticket", slices.Concat(flight, ticket), []int{125}, len(ticket)},
		{"two tickets", slices.Concat(flight, ticket, ticket), []int{125, 125}, 2 * len(ticket)},
		{"a ticket alone", ticket, []int{125}, len(ticket)},
		{"with an extension", slices.Concat(flight, sealedRecord(23, 125+minTicketFrame+8)), []int{125}, len(ticket) + 8},
		{"no ticket: the last is our Finished", flight, []int{125}, -1},
		{"one octet too small", slices.Concat(flight, ticket), []int{126}, -1},
		{"far too large", slices.Concat(flight, sealedRecord(23, 125+maxTicketFrame+1)), []int{125}, -1},
		{"one of two", slices.Concat(flight, ticket), []int{125, 125}, -1},
		{"in clear", slices.Concat(flight, sealedRecord(22, 159)), []int{125}, -1},
		{"something behind it", slices.Concat(flight, ticket, sealed), []int{125}, -1},
		{"torn", slices.Concat(flight, ticket[:len(ticket)-1]), []int{125}, -1},
		{"an octet too many", slices.Concat(flight, ticket, []byte{23}), []int{125}, -1},
		{"another version", slices.Concat(flight, []byte{23, 3, 1}, ticket[3:]), []int{125}, -1},
		{"no record type", slices.Concat([]byte{19}, flight[1:], ticket), []int{125}, -1},
		{"an empty record", slices.Concat(flight, []byte{23, 3, 3, 0, 0}, ticket), []int{125}, -1},
		{"nothing", nil, []int{125}, -1},
		{"more than a record holds", slices.Concat(sealedRecord(23, maxTLSRecord+1), ticket), []int{125}, -1},
	}
	for _, tt := range tests {
		cut, ok := cutTickets(tt.p, tt.sizes)
		want := len(tt.p) - max(tt.cut, 0)
		if cut != want || ok != (tt.cut >= 0) {
			t.Errorf("%s: cut at %d of %d, %v; want %d", tt.name, cut, len(tt.p), ok, want)
		}
	}
}

// pile is a connection that keeps what is written.
type pile struct {
	net.Conn
	bytes.Buffer
	writes int
	fail   error  // for every write
	said   []byte // what is read, in pieces of a size
	size   int
}

func (p *pile) Write(b []byte) (int, error) {
	p.writes++
	if p.fail != nil {
		return 0, p.fail
	}
	return p.Buffer.Write(b)
}

func (p *pile) Read(b []byte) (int, error) {
	if len(p.said) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.said[:min(p.size, len(p.said))])
	p.said = p.said[n:]
	return n, nil
}

func (p *pile) CloseWrite() error { p.writes = -1; return nil }

// Whatever is held, what is written comes out, all of it and in order.
func FuzzHoldStream(f *testing.F) {
	f.Add([]byte{8 + 3, 90, 53, 159, 1, 40}, uint16(125))         // a first flight, and a word
	f.Add([]byte{8 + 1, 159, 8 + 1, 159, 2, 20, 30}, uint16(125)) // two tickets, each alone, and two words
	f.Add([]byte{8 + 16 + 2, 53, 159, 16 + 1, 20}, uint16(125))   // released
	f.Add([]byte{8 + 2, 159, 53, 1, 20, 8 + 1, 20}, uint16(125))  // nothing that is a ticket
	f.Add([]byte{}, uint16(0))
	f.Fuzz(func(t *testing.T, script []byte, size uint16) {
		under := &pile{}
		c := HoldTicket(under)
		var all []byte
		for i := 0; len(script) > 0; i++ {
			n := int(script[0] & 7)
			if script[0]&8 != 0 {
				c.expect(int(size))
			}
			release := script[0]&16 != 0
			script = script[1:]
			var p []byte
			for ; n > 0 && len(script) > 0; n-- {
				p = append(p, sealedRecord(23, int(script[0]))...)
				script = script[1:]
			}
			if wrote, err := c.Write(p); wrote != len(p) || err != nil {
				t.Fatalf("write: %d, %v", wrote, err)
			}
			all = append(all, p...)
			if release {
				if err := c.Release(); err != nil || !bytes.Equal(under.Bytes(), all) {
					t.Fatalf("released %d octets of %d, %v", under.Len(), len(all), err)
				}
			}
			if !bytes.HasPrefix(all, under.Bytes()) {
				t.Fatal("out of order")
			}
		}
		if err := c.CloseWrite(); err != nil || !bytes.Equal(under.Bytes(), all) {
			t.Fatalf("%d octets of %d, %v", under.Len(), len(all), err)
		}
	})
}

func FuzzHoldCut(f *testing.F) {
	f.Add(slices.Concat(sealedRecord(22, 90), sealedRecord(23, 159)), uint16(125), true)
	f.Fuzz(func(t *testing.T, p []byte, size uint16, two bool) {
		sizes := []int{int(size)}
		if two {
			sizes = append(sizes, int(size))
		}
		cut, ok := cutTickets(p, sizes)
		if !ok {
			if cut != len(p) {
				t.Fatalf("cut at %d of %d", cut, len(p))
			}
			return
		}
		if tail := tapRecords(t, p[cut:]); len(tail) != len(sizes) {
			t.Fatalf("%d records cut off", len(tail))
		}
		tapRecords(t, p[:cut])
	})
}

// A write that fails halfway leaves records that no one can open: no other may follow.
func TestHoldWriteFails(t *testing.T) {
	under := &pile{}
	c := HoldTicket(under)
	c.expect(125)
	if _, err := c.Write(sealedRecord(23, 159)); err != nil || under.writes != 0 {
		t.Fatal(err, under.writes)
	}
	under.fail = errors.New("broken")
	if n, err := c.Write(sealedRecord(23, 20)); n != 0 || !errors.Is(err, under.fail) {
		t.Errorf("%d, %v", n, err)
	}
	before := under.fail
	under.fail = nil
	if _, err := c.Write(sealedRecord(23, 20)); !errors.Is(err, before) || under.Len() != 0 {
		t.Errorf("%v; %d octets went out", err, under.Len())
	}
	if err := c.Release(); !errors.Is(err, before) {
		t.Error(err)
	}
}

// A writer that waits for the other side does not keep the reader waiting.
func TestHoldReadsWhileItWrites(t *testing.T) {
	a, b := net.Pipe()
	c := HoldTicket(b)
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = c.Write([]byte("nobody reads this")) })
	wg.Go(func() { _, _ = a.Write([]byte("x")) })
	p := make([]byte, 1)
	if _, err := io.ReadFull(c, p); err != nil || p[0] != 'x' {
		t.Errorf("%q, %v", p, err)
	}
	a.Close()
	c.Close()
	wg.Wait()
}

func TestHoldPassesThrough(t *testing.T) {
	a, b := ticketPair(t)
	c := HoldTicket(b)
	if c.NetConn() != b {
		t.Error("NetConn is another")
	}
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var fd uintptr
	if err := raw.Control(func(f uintptr) { fd = f }); err != nil || fd == 0 {
		t.Errorf("descriptor %d, %v", fd, err)
	}
	c.expect(125)
	ticket := sealedRecord(23, 159)
	if _, err := c.Write(ticket); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(a); err != nil || !bytes.Equal(got, ticket) {
		t.Errorf("%d octets before the end, %v", len(got), err)
	}
	if err := c.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if _, err := c.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("read past its deadline: %v", err)
	}
	if c.LocalAddr() != b.LocalAddr() || c.RemoteAddr() != b.RemoteAddr() {
		t.Error("other addresses")
	}

	pipe, other := net.Pipe()
	defer other.Close()
	defer pipe.Close()
	if err := HoldTicket(pipe).CloseWrite(); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
	if _, err := HoldTicket(pipe).SyscallConn(); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
}

func BenchmarkHoldWrite(b *testing.B) {
	under := &pile{}
	c := HoldTicket(under)
	p := sealedRecord(23, 200)
	for b.Loop() {
		under.Reset()
		if _, err := c.Write(p); err != nil {
			b.Fatal(err)
		}
	}
}

package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"slipstream/bench/refpeer"
)

// TestCacheOfClientsRealProcess has a client break on tickets, and be forgotten by the service and by its store.
func TestCacheOfClientsRealProcess(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute) // for many processes
	defer cancel()
	config, at := ticketDoor(t)
	const network, domain = "127.0.0.0/24", "shy.example"
	leave := func() {
		t.Helper()
		for range 2 {
			if !visitDoor(ctx, t, at, "mta1."+domain, false) {
				t.Fatal("it was given no ticket to break on")
			}
		}
		for clientsOf(ctx, t, config) != network+" "+domain {
			if ctx.Err() != nil {
				t.Fatalf("only %q are known", clientsOf(ctx, t, config))
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	wantTicket := func(hello string, want bool) {
		t.Helper()
		if visitDoor(ctx, t, at, hello, true) != want {
			t.Errorf("%s was given a ticket: %v, want %v", hello, !want, want)
		}
	}
	wantDropped := func(peer string, left string) {
		t.Helper()
		if got := runSelf(ctx, t, "cache", "drop", peer, "-c", config); got != "dropped 1\n" {
			t.Errorf("drop %s: %s", peer, got)
		}
		if got := clientsOf(ctx, t, config); got != left {
			t.Errorf("after %s was dropped there is %q, want %q", peer, got, left)
		}
	}

	l := live(ctx, t, config, at)
	wantTicket("mta1."+domain, true)
	leave()
	wantTicket("mta2."+domain, false)
	wantTicket("mta.other.example", false) // of the same network
	wantDropped("127.0.0.77", domain)
	wantTicket("mta.other.example", true)
	wantTicket("mta2."+domain, false)
	wantDropped("mta7."+domain, "")
	wantTicket("mta2."+domain, true)
	leave()
	l.end()

	if got := clientsOf(ctx, t, config); got != network+" "+domain {
		t.Errorf("of the stopped service: %q", got)
	}
	wantDropped(network, domain)
	l = live(ctx, t, config, at)
	wantTicket("mta.other.example", true)
	wantTicket("mta2."+domain, false)
	if got := clientsOf(ctx, t, config); got != domain {
		t.Errorf("after a restart: %q", got)
	}
	l.end()
	wantDropped(domain, "")
	l = live(ctx, t, config, at)
	wantTicket("mta2."+domain, true)
	l.end()
}

// ticketDoor is the configuration of an inbound door with TLS, and its address.
func ticketDoor(t *testing.T) (config, at string) {
	t.Helper()
	backend := &refpeer.Server{Keywords: refpeer.Modern()}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	backend.Start(ln)
	t.Cleanup(backend.Close)
	cert, err := newCertificate("proxy.example")
	if err != nil {
		t.Fatal(err)
	}
	dir, at := t.TempDir(), spareAddr(t)
	if err := cert.write(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")); err != nil {
		t.Fatal(err)
	}
	return writeConfig(t, dir, "", "[[inbound]]\nauth.enabled = false\nlisten = [%q]\nbackend = %q\nbackend_trusts_us = true\n"+
		"tls_cert = \"cert.pem\"\ntls_key = \"key.pem\"\n", at, ln.Addr()), at
}

// A ticketCount counts the tickets that a client is given.
type ticketCount struct{ atomic.Int64 }

func (*ticketCount) Get(string) (*tls.ClientSessionState, bool) { return nil, false }

func (c *ticketCount) Put(_ string, state *tls.ClientSessionState) {
	if state != nil {
		c.Add(1)
	}
}

// visitDoor says EHLO, secures the connection and leaves, with QUIT or without a word. It reports whether there was a
// ticket.
func visitDoor(ctx context.Context, t *testing.T, at, hello string, polite bool) bool {
	t.Helper()
	wire, err := (&net.Dialer{}).DialContext(ctx, "tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer wire.Close()
	end, _ := ctx.Deadline()
	if err := wire.SetDeadline(end); err != nil {
		t.Fatal(err)
	}
	tickets := new(ticketCount)
	say := func(text *textproto.Conn, code int, command string) {
		t.Helper()
		err := error(nil)
		if command != "" {
			err = text.PrintfLine("%s", command)
		}
		if err == nil {
			_, _, err = text.ReadResponse(code)
		}
		if err != nil {
			t.Fatalf("%s: %v", command, err)
		}
	}
	clear := textproto.NewConn(wire)
	say(clear, 220, "")
	say(clear, 250, "EHLO "+hello)
	say(clear, 220, "STARTTLS")
	secured := tls.Client(wire, &tls.Config{InsecureSkipVerify: true, ClientSessionCache: tickets})
	if err := secured.HandshakeContext(ctx); err != nil {
		t.Fatal(err)
	}
	if polite {
		text := textproto.NewConn(secured)
		say(text, 250, "EHLO "+hello)
		say(text, 221, "QUIT")
	} else if err := wire.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	} else {
		_, _ = io.Copy(io.Discard, secured) // the ticket; how it ends does not matter
	}
	return tickets.Load() > 0
}

// clientsOf lists the clients that break on tickets, as the command does.
func clientsOf(ctx context.Context, t *testing.T, config string) string {
	t.Helper()
	var all []string
	for line := range strings.Lines(runSelf(ctx, t, "cache", "list", "-c", config)) {
		if f := strings.Fields(line); len(f) > 2 && f[1] == "client" && f[2] == "no-tickets" {
			all = append(all, f[0])
		}
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// runSelf runs a command in a process of its own, and returns what it prints.
func runSelf(ctx context.Context, t *testing.T, args ...string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Args = append([]string{"slipstream"}, args...)
	out, err := cmd.Output()
	if err != nil {
		var said []byte
		if exit, ok := err.(*exec.ExitError); ok {
			said = exit.Stderr
		}
		t.Fatal(fmt.Errorf("%s: %w\n%s%s", strings.Join(args, " "), err, out, said))
	}
	return string(out)
}

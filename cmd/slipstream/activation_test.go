package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"slipstream/bench/refpeer"
	"slipstream/proxy"
)

// sockets opens listeners as systemd would, and returns where they are and what is passed.
func sockets(t *testing.T, n int) (addrs []string, files []*os.File) {
	t.Helper()
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		f, err := ln.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		addrs, files = append(addrs, ln.Addr().String()), append(files, f)
		_ = ln.Close() // the file keeps it open
	}
	return addrs, files
}

// An activated service is a process of its own that systemd passed sockets.
type activated struct {
	*trial
	cmd *exec.Cmd
}

// activate runs the service with sockets as descriptors 3 and up.
func (s *trial) activate(files []*os.File) activated {
	s.t.Helper()
	// LISTEN_PID is the process itself, which only it knows before it is there.
	cmd := exec.CommandContext(s.t.Context(), "/bin/sh", "-c", `LISTEN_PID=$$ exec slipstream serve -c "$0"`, s.path())
	names := strings.Repeat("smtp:", len(files)-1) + "smtp"
	cmd.Env = append(os.Environ(), "LISTEN_FDS="+strconv.Itoa(len(files)), "LISTEN_FDNAMES="+names)
	cmd.ExtraFiles = files
	cmd.Stdout, cmd.Stderr = s.log, s.log
	cmd.Cancel = func() error { return cmd.Process.Kill() }
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() { s.ended <- cmd.Wait() }()
	s.t.Cleanup(func() { _ = s.wait() }) // behind the end of the context
	return activated{s, cmd}
}

func (a activated) signal(sig os.Signal) {
	a.t.Helper()
	if err := a.cmd.Process.Signal(sig); err != nil {
		a.t.Fatal(err)
	}
}

// Doors are opened by the sockets of systemd that are bound to their addresses, and those outlive a reload by which no
// door is there.
func TestSocketActivation(t *testing.T) {
	s := newTrial(t, &refpeer.Server{Keywords: refpeer.Modern()})
	const door = "[[inbound]]\nauth.enabled = false\nlisten = [%q]\nbackend = %q\nbackend_trusts_us = true\n"
	const admin = "[admin]\nlisten = \"\"\n"
	passed, files := sockets(t, 1)
	s.configure(admin+door, passed[0], s.mta)
	a := s.activate(files)
	_ = files[0].Close() // only the service has it
	a.await(`msg="systemd passed sockets" sockets=` + passed[0])
	a.await("msg=ready")
	a.client(passed[0]).ask("QUIT", "221 ")

	s.configure(admin+door, a.freeAddr(), s.mta)
	a.signal(syscall.SIGHUP)
	a.await(reloaded)
	waiting, err := net.Dial("tcp", passed[0])
	if err != nil {
		t.Fatal("the socket was given up: ", err)
	}
	defer waiting.Close()

	s.configure(admin+door, passed[0], s.mta)
	a.signal(syscall.SIGHUP)
	a.await(reloaded)
	a.client(passed[0]).ask("QUIT", "221 ")
	b := make([]byte, 4)
	if _, err := waiting.Read(b); err != nil || string(b) != "220 " {
		t.Errorf("who came between the reloads hears %q, %v", b, err)
	}
	a.signal(syscall.SIGTERM)
	if err := a.wait(); err != nil {
		t.Errorf("the service ended with %v; its log:\n%s", err, s.log)
	}
}

// Sockets that no door listens on are an error that names both sides.
func TestSocketActivationMismatch(t *testing.T) {
	s := newTrial(t, &refpeer.Server{Keywords: refpeer.Modern()})
	passed, files := sockets(t, 2)
	at := s.freeAddr()
	const text = "[admin]\nlisten = \"\"\n[[inbound]]\nauth.enabled = false\nlisten = [%q, %q]\nbackend = %q\n"
	s.configure(text, passed[0], at, s.mta)
	err := s.activate(files).wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != exitConfig {
		t.Errorf("the service ended with %v, want exit code %d", err, exitConfig)
	}
	want := "systemd passed sockets that no door listens on: " + passed[1] + "; " +
		"it passed " + passed[0] + ", " + passed[1] + ", and listen in the configuration has " + passed[0] + ", " + at
	if !strings.Contains(s.log.String(), want) {
		t.Errorf("it says\n%s\nwhich lacks\n%s", s.log, want)
	}
}

func TestInheritedSockets(t *testing.T) {
	at := func(addr string) inheritedSocket {
		return inheritedSocket{addr: anyAddr(netip.MustParseAddrPort(addr)), what: addr, file: new(os.File)}
	}
	tests := []struct {
		name   string
		passed inherited
		listen []string
		wrong  string // part of the error
	}{
		{name: "nothing"},
		{name: "any address", passed: inherited{at("[::]:25")}, listen: []string{":25"}},
		{name: "any address, spelled out", passed: inherited{at("[::]:25")}, listen: []string{"[::]:25", "127.0.0.1:2525"}},
		{name: "any address of the old family", passed: inherited{at("0.0.0.0:25")}, listen: []string{":25"}},
		{name: "one address", passed: inherited{at("192.0.2.1:25"), at("[2001:db8::1]:465")},
			listen: []string{"[2001:db8:0::1]:465", "192.0.2.1:25"}},
		{name: "another port", passed: inherited{at("[::]:26")}, listen: []string{":25"},
			wrong: "[::]:26; it passed [::]:26, and listen in the configuration has :25"},
		{name: "any for one", passed: inherited{at("[::]:25")}, listen: []string{"192.0.2.1:25"},
			wrong: "no door listens on"},
		{name: "both families apart", passed: inherited{at("0.0.0.0:25"), at("[::]:25")}, listen: []string{":25"},
			wrong: "BindIPv6Only=both"},
		{name: "no socket for TCP", passed: inherited{{what: "smtp, which does not"}}, listen: []string{":25"},
			wrong: "smtp, which does not"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.passed.check(&proxy.Config{Inbound: []proxy.InboundConfig{{Listen: tt.listen}}})
			if (err != nil) != (tt.wrong != "") || err != nil && !strings.Contains(err.Error(), tt.wrong) {
				t.Errorf("got %v, want an error with %q", err, tt.wrong)
			}
		})
	}
}

// A socket that is no listener is told from one that is.
func TestDescribeSockets(t *testing.T) {
	passed, files := sockets(t, 1)
	conn, err := net.Dial("tcp", passed[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	connected, err := conn.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer connected.Close()
	in := describeSockets(append(files, connected))
	if !in[0].addr.IsValid() || in[1].addr.IsValid() {
		t.Errorf("sockets: %v", in)
	}
	if in.option() == nil || inherited(nil).option() != nil {
		t.Error("the proxy is to open its doors itself just where nothing was passed")
	}
	ln, err := in.listen(context.Background(), passed[0])
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close() // a duplicate
	if ln, err = in.listen(context.Background(), passed[0]); err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	if ln, err = in.listen(context.Background(), "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
}

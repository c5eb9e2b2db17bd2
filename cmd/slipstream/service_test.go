package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"slipstream/bench/refpeer"
)

const reloaded = `msg="the new configuration is in force"`

func TestReload(t *testing.T) {
	s := newTrial(t, &refpeer.Server{Keywords: refpeer.Modern()})
	first, second := s.freeAddr(), s.freeAddr()
	const door = "[[inbound]]\nauth.enabled = false\nname = %q\nlisten = [%q]\nbackend = %q\nbackend_trusts_us = true\ntls_cert = \"cert.pem\"\ntls_key = \"key.pem\"\n"
	const admin = "[admin]\nlisten = \"\"\n"
	s.certify("first.example")
	s.configure(admin+door, "one", first, s.mta)
	s.serve()
	s.await("msg=ready")

	inside := s.client(first)
	if name := inside.startTLS(); name != "first.example" {
		t.Errorf("the first certificate is for %s", name)
	}
	inside.ask("MAIL FROM:<a@client.example>", "250 ")
	inside.ask("RCPT TO:<b@example.net>", "250 ")

	// Another certificate, another door; who is inside does not notice.
	s.certify("second.example")
	s.configure(admin+door+door, "one", first, s.mta, "two", second, s.mta)
	s.hangUp(reloaded)
	inside.ask("DATA", "354 ")
	inside.say("Subject: across a reload\r\n\r\n")
	inside.ask(".", "250 ")
	if name := s.client(first).startTLS(); name != "second.example" {
		t.Errorf("after the reload the certificate is for %s", name)
	}
	s.client(second).ask("QUIT", "221 ")

	// The first door is closed; who is inside may stay.
	s.configure(admin+door, "two", second, s.mta)
	s.hangUp(reloaded)
	if conn, err := net.Dial("tcp", first); err == nil {
		_ = conn.Close()
		t.Error("a door that was removed is open")
	}
	inside.ask("MAIL FROM:<a@client.example>", "250 ")
	inside.ask("RCPT TO:<b@example.net>", "250 ")
	inside.ask("DATA", "354 ")
	inside.ask("Subject: behind a closed door\r\n\r\n.", "250 ")
	inside.ask("QUIT", "221 ")
	if n := len(s.backend.Messages()); n != 2 {
		t.Errorf("%d messages were delivered, want 2", n)
	}
}

func TestReloadKeepsTheOldOnError(t *testing.T) {
	s := newTrial(t, &refpeer.Server{Keywords: refpeer.Modern()})
	addr := s.freeAddr()
	const door = "[[inbound]]\nauth.enabled = false\nlisten = [%q]\nbackend = %q\nbackend_trusts_us = %v\n"
	s.certify("mx.example")
	s.configure("[admin]\nlisten = \"\"\n"+door, addr, s.mta, true)
	s.serve()
	s.await("msg=ready")
	for name, test := range map[string]struct {
		config string
		want   []string
	}{
		"malformed": {"[[inbound]]\nlisten = 25\n", []string{
			`level=error msg="configuration: ` + s.path() + `:6:10: inbound[0].listen: `,
			`the old one stays in force" problems=1`,
		}},
		"no such certificate": {fmt.Sprintf(door, addr, s.mta, true) + "tls_cert = \"no.pem\"\ntls_key = \"key.pem\"\n", []string{
			`the old one stays in force" error="door \"inbound\": certificate`,
		}},
		"open relay": {fmt.Sprintf(door, addr, s.mta, false), []string{
			`the old one stays in force" error="door \"inbound\" stays shut: the backend`,
		}},
		"address in use": {fmt.Sprintf(door, s.mta, s.mta+"0", true), []string{
			`level=error msg="configuration: `, "the old one stays in force",
		}},
	} {
		s.configure("%s", test.config)
		s.signals <- syscall.SIGHUP
		for _, want := range test.want {
			s.await(want)
		}
		t.Run(name, func(t *testing.T) { s.client(addr).ask("QUIT", "221 ") })
	}
}

func TestReloadAppliesTheRest(t *testing.T) {
	s := newTrial(t, &refpeer.Server{})
	door := fmt.Sprintf("[[inbound]]\nauth.enabled = false\nlisten = [%q]\nbackend = %q\nbackend_trusts_us = true\n", s.freeAddr(), s.mta)
	s.configure("[admin]\nlisten = \"\"\n%s", door)
	s.serve()
	s.await("msg=ready")
	s.configure("timeout = \"1s\"\n[admin]\nlisten = \"127.0.0.1:1\"\n[log]\nformat = \"json\"\nlevel = \"warn\"\n%s", door)
	s.hangUp(`level=warn msg="these changes need a restart" keys="log.format, admin.listen, dns.timeout"`)
	s.configure("[admin]\nlisten = \"\"\n[log]\nlevel = \"info\"\n%s", door)
	s.hangUp(reloaded) // said at level info, which is in force by then
	if n := strings.Count(s.log.String(), reloaded); n != 1 {
		t.Errorf("reloads were told %d times, want once: the level warn was not in force", n)
	}
}

func TestStopDrains(t *testing.T) {
	s := newTrial(t, &refpeer.Server{Keywords: refpeer.Modern()})
	addr := s.freeAddr()
	s.configure("[admin]\nlisten = \"\"\n[[inbound]]\nauth.enabled = false\nlisten = [%q]\nbackend = %q\nbackend_trusts_us = true\n", addr, s.mta)
	s.serve()
	s.await("msg=ready")
	idle, busy := s.client(addr), s.client(addr)
	idle.ask("EHLO idle.example", "250 ")
	busy.ask("EHLO busy.example", "250 ")
	busy.ask("MAIL FROM:<a@client.example>", "250 ")
	busy.ask("RCPT TO:<b@example.net>", "250 ")
	busy.ask("DATA", "354 ")
	s.signals <- syscall.SIGTERM
	idle.want("421 4.3.2 ")
	idle.wantEnd()
	if conn, err := net.Dial("tcp", addr); err == nil {
		_ = conn.Close()
		t.Error("the door is open while the service stops")
	}
	busy.ask("Subject: last one\r\n\r\n.", "250 ")
	busy.want("421 4.3.2 ")
	busy.wantEnd()
	if err := s.wait(); err != nil {
		t.Errorf("serve: %v", err)
	}
	if n := len(s.backend.Messages()); n != 1 {
		t.Errorf("%d messages were delivered, want 1", n)
	}
}

func TestSecondSignalCuts(t *testing.T) {
	s := newTrial(t, &refpeer.Server{Keywords: refpeer.Modern()})
	addr := s.freeAddr()
	s.configure("[admin]\nlisten = \"\"\n[[inbound]]\nauth.enabled = false\nlisten = [%q]\nbackend = %q\nbackend_trusts_us = true\n", addr, s.mta)
	s.serve()
	s.await("msg=ready")
	busy := s.client(addr)
	busy.ask("EHLO busy.example", "250 ")
	busy.ask("MAIL FROM:<a@client.example>", "250 ")
	busy.ask("RCPT TO:<b@example.net>", "250 ")
	busy.ask("DATA", "354 ")
	s.signals <- os.Interrupt
	s.await("msg=stopping signal=interrupt")
	s.signals <- syscall.SIGHUP // means nothing any more
	s.signals <- os.Interrupt
	s.await(`msg="told again: cutting what is left"`)
	if err := s.wait(); err != nil {
		t.Errorf("serve: %v", err)
	}
	s.await(`msg="stopped; some sessions were cut"`)
	if n := len(s.backend.Messages()); n != 0 {
		t.Errorf("%d messages were delivered, want none", n)
	}
}

func TestShutdownTimeoutCuts(t *testing.T) {
	s := newTrial(t, &refpeer.Server{Keywords: refpeer.Modern()})
	addr := s.freeAddr()
	s.configure("[admin]\nlisten = \"\"\n[limits]\nshutdown_timeout = \"50ms\"\n[[inbound]]\nauth.enabled = false\nlisten = [%q]\nbackend = %q\nbackend_trusts_us = true\n", addr, s.mta)
	s.serve()
	s.await("msg=ready")
	busy := s.client(addr)
	busy.ask("EHLO busy.example", "250 ")
	busy.ask("MAIL FROM:<a@client.example>", "250 ")
	s.signals <- syscall.SIGTERM
	if err := s.wait(); err != nil {
		t.Errorf("serve: %v", err)
	}
	s.await(`msg="stopped; some sessions were cut"`)
}

// A backend that says nothing holds the start up, but not its end.
func TestStopWhileStarting(t *testing.T) {
	asked := make(chan struct{}, 8)
	s := newTrial(t, &refpeer.Server{Behave: func(e refpeer.Event) refpeer.Action {
		asked <- struct{}{}
		return refpeer.Action{Stall: true}
	}})
	s.configure("[admin]\nlisten = \"\"\n[[inbound]]\nauth.enabled = false\nlisten = [%q]\nbackend = %q\n", s.freeAddr(), s.mta)
	s.serve()
	<-asked
	s.signals <- syscall.SIGTERM
	if err := s.wait(); err != nil {
		t.Errorf("serve: %v", err)
	}
}

// A stop does not wait for a reload that asks a silent backend.
func TestStopWhileReloading(t *testing.T) {
	asked := make(chan struct{}, 8)
	quiet := &refpeer.Server{Behave: func(e refpeer.Event) refpeer.Action {
		asked <- struct{}{}
		return refpeer.Action{Stall: true}
	}}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := newTrial(t, &refpeer.Server{})
	quiet.Start(ln)
	t.Cleanup(quiet.Close)
	const config = "[admin]\nlisten = \"\"\n[timeouts]\nbackend_probe = \"5m\"\n[[inbound]]\nauth.enabled = false\nlisten = [%q]\nbackend = %q\nbackend_trusts_us = true\n"
	addr := s.freeAddr()
	s.configure(config, addr, s.mta)
	s.serve()
	s.await("msg=ready")
	s.configure(config, addr, ln.Addr().String())
	s.signals <- syscall.SIGHUP
	<-asked
	s.signals <- syscall.SIGHUP // one more, for later
	s.signals <- syscall.SIGTERM
	if err := s.wait(); err != nil {
		t.Errorf("serve: %v", err)
	}
}

func TestStartFails(t *testing.T) {
	for name, test := range map[string]struct {
		config string // %[1]q is the mail server's address
		code   int
		want   string
	}{
		"open relay":     {"[[inbound]]\nauth.enabled = false\nlisten = [\"127.0.0.1:0\"]\nbackend = %[1]q\n", exitConfig, "open relay"},
		"port held":      {"[[inbound]]\nauth.enabled = false\nlisten = [%[1]q]\nbackend_trusts_us = true\n", exitFailed, "address already in use"},
		"no certificate": {"[[inbound]]\nauth.enabled = false\nlisten = [\"127.0.0.1:0\"]\ntls_cert = \"no.pem\"\ntls_key = \"no.pem\"\n#%[1]s", exitConfig, "no such file"},
		"admin held":     {"[admin]\nlisten = %[1]q\n[[inbound]]\nauth.enabled = false\nlisten = [\"127.0.0.1:0\"]\n", exitFailed, "admin: cannot open"},
		"unknown key":    {"[unknown]\n[[inbound]]\n#%[1]s", exitConfig, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTrial(t, &refpeer.Server{})
			config := test.config
			if !strings.Contains(config, "[admin]") {
				config = "[admin]\nlisten = \"\"\n" + config
			}
			s.configure(config, s.mta)
			s.serve()
			err := s.wait()
			var exit *exitError
			if !errors.As(err, &exit) || exit.code != test.code {
				t.Errorf("got %v, want exit code %d", err, test.code)
			}
			if !strings.Contains(s.log.String(), test.want) {
				t.Errorf("no %q in the log:\n%s", test.want, s.log)
			}
		})
	}
}

// systemd hears of every change, and that the service is alive.
func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "20000")
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	hear := func(want ...string) {
		t.Helper()
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				t.Fatalf("waiting for %q: %v", want, err)
			}
			lines := strings.Split(string(buf[:n]), "\n")
			if lines[0] == "WATCHDOG=1" && want[0] != "WATCHDOG=1" {
				continue
			}
			for _, w := range want {
				if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, w) }) {
					t.Fatalf("got %q, want %q", lines, want)
				}
			}
			return
		}
	}
	s := newTrial(t, &refpeer.Server{})
	s.configure("[admin]\nlisten = \"\"\n[[inbound]]\nauth.enabled = false\nlisten = [%q]\nbackend = %q\nbackend_trusts_us = true\n", s.freeAddr(), s.mta)
	s.serve()
	hear("READY=1")
	hear("WATCHDOG=1")
	s.signals <- syscall.SIGHUP
	hear("RELOADING=1", "MONOTONIC_USEC=")
	hear("READY=1")
	s.configure("[unknown]\n")
	s.signals <- syscall.SIGHUP
	hear("RELOADING=1", "MONOTONIC_USEC=")
	hear("READY=1") // the old configuration is in force, and systemd must not wait
	s.signals <- syscall.SIGTERM
	hear("STOPPING=1", "EXTEND_TIMEOUT_USEC=150000000")
	if err := s.wait(); err != nil {
		t.Errorf("serve: %v", err)
	}
}

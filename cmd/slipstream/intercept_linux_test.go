package main

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// An interceptTalk is a client that a test writes line by line.
type interceptTalk struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
}

func (w *interceptWorld) talk(addr string) *interceptTalk {
	w.t.Helper()
	conn, err := w.mta.dial(addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	return &interceptTalk{w.t, conn, bufio.NewReader(conn)}
}

// ask sends a line, unless it is empty, and checks how the reply begins.
func (d *interceptTalk) ask(line, prefix string) string {
	d.t.Helper()
	if line != "" {
		if _, err := d.conn.Write([]byte(line + "\r\n")); err != nil {
			d.t.Fatal(err)
		}
	}
	var all []string
	for {
		text, err := d.r.ReadString('\n')
		if err != nil {
			d.t.Fatalf("%q: %v after %q, want %q", line, err, all, prefix)
		}
		all = append(all, strings.TrimRight(text, "\r\n"))
		if len(text) < 4 || text[3] != '-' {
			break
		}
	}
	reply := strings.Join(all, "\n")
	if !strings.HasPrefix(reply, prefix) {
		d.t.Fatalf("%q: got %q, want %q", line, reply, prefix)
	}
	return reply
}

func (d *interceptTalk) closed() {
	d.t.Helper()
	if b, err := d.r.ReadByte(); err == nil {
		d.t.Fatalf("got %q, want the end", b)
	}
}

func (d *interceptTalk) mail(to string) {
	d.t.Helper()
	d.ask("EHLO mail.test", "250-[")
	d.ask("MAIL FROM:<a@mail.test>", "250")
	d.ask("RCPT TO:<"+to+">", "250")
	d.ask("DATA", "354")
	d.ask("Subject: x\r\n\r\ntext\r\n.", "250")
	d.ask("QUIT", "221")
}

const (
	secondIPv6   = "[2001:db8::2]:25"
	firstIPv4    = "198.51.100.1:25"
	verifiedKeys = "tls = \"verify\"\ntls_ca_file = \"roots.pem\""
)

// What is said to a mail host, of either family, reaches it through us, under its name; it knows nothing of us, and
// neither does the client.
func TestInterceptKernel(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"redirect", "tproxy"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			w := newInterceptWorld(t, way == "tproxy")
			keys := []string{verifiedKeys, `intercept = "` + way + `"`}
			var capabilities []uintptr
			if way == "tproxy" {
				keys = append(keys, `allow = ["10.9.2.0/24", "fd09:2::/64"]`)
				capabilities = append(capabilities, unix.CAP_NET_RAW)
			}
			w.configure(keys...)
			s := w.serve(capabilities...)
			w.apply()
			for addr, to := range map[string]string{firstIPv4: "b@one.test", secondIPv6: "b@two.test"} {
				d := w.talk(addr)
				want := "220 [198.51.100.1] ESMTP Slipstream"
				if addr == secondIPv6 {
					want = "220 [IPv6:2001:db8::2] ESMTP Slipstream"
				}
				d.ask("", want)
				d.mail(to)
			}
			for name, to := range map[string]string{"mx.one.test": "b@one.test", "mx.two.test": "b@two.test"} {
				if got := w.delivered(name); !slices.Equal(got, []string{to}) {
					t.Errorf("%s has mail for %q", name, got)
				}
				if got := w.hosts[name].Connections()[0].ServerName; got != name {
					t.Errorf("%s was called %q", name, got)
				}
			}
			w.await("two lines in the log", func() bool { return strings.Count(s.log.String(), "status=sent") == 2 })
			for _, relay := range []string{"relay=mx.one.test[198.51.100.1]:25", `relay=mx.two.test[2001:db8::2]:25`} {
				if !strings.Contains(s.log.String(), relay) {
					t.Errorf("no %s", relay)
				}
			}

			// Removed, the rules leave nothing: the hosts greet by themselves.
			if out, err := w.slipstream("intercept", "remove"); err != nil || !strings.Contains(out, "table inet slipstream is gone") {
				t.Fatalf("remove: %v: %s", err, out)
			}
			w.talk(firstIPv4).ask("", "220 mx.one.test ")
			w.talk(secondIPv6).ask("", "220 mx.two.test ")
		})
	}
}

// Without the service's own user left out, its connections come back to it. That ends at once, with a word for the
// client and one for the log, and no storm.
func TestInterceptOwnConnections(t *testing.T) {
	t.Parallel()
	w := newInterceptWorld(t, false)
	w.configure(verifiedKeys)
	s := w.serve()
	if out, err := w.slipstream("intercept", "apply", "-c", w.config, "--user", "54321"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	start := time.Now()
	for range 20 {
		d := w.talk(firstIPv4)
		d.ask("", "220 [198.51.100.1] ")
		d.ask("EHLO mail.test", "250")
		d.ask("MAIL FROM:<a@mail.test>", "250")
		said := d.ask("RCPT TO:<b@one.test>", "421 4.4.6 Slipstream: mx.one.test[198.51.100.1]:25 said ")
		if !strings.Contains(said, "a connection of Slipstream's own came back to it: its user is not left out by the rules") {
			t.Fatalf("the client heard %q", said)
		}
		d.closed()
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
	log := s.log.String()
	if n := strings.Count(log, "refused a connection that should not have come here"); n != 1 {
		t.Errorf("%d complaints in the log", n)
	}
	if n := w.hosts["mx.one.test"].Accepted(); n != 0 {
		t.Errorf("the host saw %d connections", n)
	}
	// With the right user, all is well at once.
	w.apply()
	d := w.talk(firstIPv4)
	d.ask("", "220 [198.51.100.1] ")
	d.mail("b@one.test")
}

// Who comes without a rule, from outside the networks, or with something else than SMTP hears so.
func TestInterceptBadInput(t *testing.T) {
	t.Parallel()
	w := newInterceptWorld(t, false)
	w.configure()
	w.apply() // for all networks
	w.configure(`intercept_networks = ["198.51.100.0/24", "127.0.0.0/8"]`)
	s := w.serve()
	for range 3 {
		d := w.talk("127.0.0.1:10526")
		d.ask("", "421 4.3.5 mail.test this port is for connections that rules bring here (see \"slipstream intercept\")")
		d.closed()
	}
	w.talk("[::1]:10526").ask("", "421 4.3.5 mail.test this port is for connections")
	w.talk("[2001:db8::3]:25").ask("", "421 4.7.0 mail.test [IPv6:2001:db8::3] is outside intercept_networks")

	tls := w.talk(firstIPv4)
	tls.ask("", "220 [198.51.100.1] ")
	tls.ask("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "421 4.7.0 mail.test closing: no TLS here before STARTTLS")
	tls.closed()
	http := w.talk(firstIPv4)
	http.ask("", "220 [198.51.100.1] ")
	http.ask("GET / HTTP/1.1", "500")
	http.ask("", "421 4.7.0 mail.test closing: this is SMTP")
	http.closed()
	for _, c := range w.hosts["mx.one.test"].Connections() {
		if len(c.Commands) != 0 {
			t.Errorf("the host heard %q", c.Commands)
		}
	}
	w.await("the log to tell of TLS", func() bool { return strings.Contains(s.log.String(), "the client began with TLS") })
	if log := s.log.String(); strings.Count(log, "this port is for connections") != 1 || strings.Count(log, "is outside intercept_networks") != 1 {
		t.Errorf("log:\n%s", log)
	}
}

// A dead host ends the connection, so that the client turns to the next one.
func TestInterceptDeadHost(t *testing.T) {
	t.Parallel()
	w := newInterceptWorld(t, false)
	w.configure(verifiedKeys)
	w.serve()
	w.apply()
	d := w.talk("198.51.100.9:25")
	d.ask("", "421 4.4.1 Slipstream: [198.51.100.9]:25: connecting: ")
	d.closed()
}

// What is missing is named before anybody's mail waits for it.
func TestInterceptWithout(t *testing.T) {
	t.Parallel()
	w := newInterceptWorld(t, true)
	w.configure(`intercept = "tproxy"`, `allow = ["10.9.2.0/24"]`)
	s := w.service() // without a capability
	w.await("the service to end", func() bool { return strings.Contains(s.log.String(), "slipstream failed") })
	if log := s.log.String(); !strings.Contains(log, "CAP_NET_RAW") || !strings.Contains(log, "AmbientCapabilities=CAP_NET_RAW") {
		t.Errorf("log:\n%s", log)
	}

	out, _ := w.slipstream("check", "-c", w.config)
	if !regexp.MustCompile(`(?m)^fail +intercept +the rules are not in force: .*slipstream intercept apply`).MatchString(out) {
		t.Errorf("check without rules:\n%s", out)
	}
	w.configure()
	if out, _ = w.slipstream("check", "-c", w.config); !regexp.MustCompile(`(?m)^fail +intercept +.*slipstream intercept apply`).MatchString(out) {
		t.Errorf("check without rules:\n%s", out)
	}
	w.apply()
	if out, _ = w.slipstream("check", "-c", w.config); !regexp.MustCompile(`(?m)^ok +intercept +the rules are in force`).MatchString(out) {
		t.Errorf("check with rules:\n%s", out)
	}

	w.configure("mx_port = 2525")
	if out, _ = w.slipstream("check", "-c", w.config); !regexp.MustCompile(`(?m)^warn +intercept +other rules than .*slipstream intercept apply`).MatchString(out) {
		t.Errorf("check with other rules:\n%s", out)
	}

	if out, err := w.slipstream("intercept", "apply", "-c", w.config, "--user", "nobody-of-that-name"); err == nil ||
		!strings.Contains(out, `there is no user "nobody-of-that-name" here: name the one that the service runs as with --user`) {
		t.Errorf("%v: %s", err, out)
	}
	w.configure("intercept_networks = []")
	if out, err := w.slipstream("intercept", "print", "-c", w.config); err == nil || !strings.Contains(out, "intercept_networks") {
		t.Errorf("%v: %s", err, out)
	}
}

// Nobody but root may change rules, and anybody may see what they would be.
func TestInterceptUnprivileged(t *testing.T) {
	t.Parallel()
	w := newInterceptWorld(t, false)
	w.configure()
	for command, want := range map[string]string{
		"apply": "it takes CAP_NET_ADMIN: run this as root", "remove": "it takes CAP_NET_ADMIN: run this as root", "print": "tcp dport 25 redirect to :10526",
	} {
		args := []string{"--reuid", "12345", "--clear-groups", w.program, "intercept", command}
		if command != "remove" {
			args = append(args, "-c", w.config, "--user", "12345")
		}
		var out []byte
		err := w.host.do(func() (err error) {
			cmd := exec.CommandContext(t.Context(), "setpriv", args...)
			cmd.Env, cmd.Dir = w.env, w.dir
			out, err = cmd.CombinedOutput()
			return err
		})
		if (err == nil) != (command == "print") || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v: %s", command, err, out)
		}
	}
	var printed []byte
	if err := w.host.do(func() (err error) { // the script does what it says, in the real shell
		cmd := exec.CommandContext(t.Context(), "sh", "-c", w.program+" intercept print -c "+w.config+" --user 12345 | sh && nft list table inet slipstream")
		cmd.Env, cmd.Stderr = w.env, os.Stderr
		printed, err = cmd.Output()
		return err
	}); err != nil || !strings.Contains(string(printed), "redirect to :10526") {
		t.Errorf("%v: %s", err, printed)
	}
}

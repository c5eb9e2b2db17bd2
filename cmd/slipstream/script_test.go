package main

import (
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"slipstream/bench/refpeer"
)

func TestMain(m *testing.M) {
	// Each command that a test runs would wait for a second at its end, in case the race detector has more to say.
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE")); err != nil {
		panic(err)
	}
	testscript.Main(leakless{m}, map[string]func(){"slipstream": main})
}

// leakless fails where goroutines are left behind.
type leakless struct{ m *testing.M }

func (l leakless) Run() int {
	code := l.m.Run()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// TestScript runs the command line as a user would: testdata/script holds one
// file for each subject.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup:               scriptSetup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"mta":    scriptMTA,
			"cert":   scriptCert,
			"port":   scriptPort,
			"expand": scriptExpand,
			"await":  scriptAwait,
			"signal": scriptSignal,
		},
	})
}

// scriptSetup hands on how the race detector is to be.
func scriptSetup(env *testscript.Env) error {
	env.Setenv("GORACE", os.Getenv("GORACE"))
	return nil
}

// scriptMTA starts a mail server: "mta VARIABLE [modern|old|relay|secure]...". Its
// address is put into the variable, and it ends with the script.
func scriptMTA(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: mta VARIABLE [modern|old|relay|secure]...")
	}
	s := &refpeer.Server{RcptReplies: map[string]string{"relay-probe@example.com": "550 5.7.1 relaying denied"}}
	for _, word := range args[1:] {
		switch word {
		case "modern":
			s.Keywords = refpeer.Modern()
		case "old":
			s.Old = true
		case "relay":
			s.RcptReplies = nil
		case "secure":
			cert, err := newCertificate("mx.example.org")
			ts.Check(err)
			s.TLS, err = cert.server()
			ts.Check(err)
		default:
			ts.Fatalf("mta: unknown word %s", word)
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	s.Start(ln)
	ts.Defer(s.Close)
	ts.Setenv(args[0], ln.Addr().String())
}

// scriptCert makes cert.pem and key.pem: "cert NAME...".
func scriptCert(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: cert NAME...")
	}
	cert, err := newCertificate(args...)
	ts.Check(err)
	ts.Check(cert.write(ts.MkAbs("cert.pem"), ts.MkAbs("key.pem")))
}

// scriptPort puts an address that nobody listens on into each variable.
func scriptPort(ts *testscript.TestScript, neg bool, args []string) {
	for _, name := range args {
		addr, err := freeAddr()
		ts.Check(err)
		ts.Setenv(name, addr)
	}
}

// scriptExpand writes a file with the variables in it replaced: "expand FROM TO".
func scriptExpand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: expand FROM TO")
	}
	text := os.Expand(ts.ReadFile(args[0]), ts.Getenv)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(text), 0o600))
}

// patience bounds how long a script waits for a process.
const patience = 30 * time.Second

// scriptAwait waits until an address greets with "220", or with "!" until nobody
// listens on it.
func scriptAwait(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: [!] await ADDRESS")
	}
	ticks := time.NewTicker(10 * time.Millisecond)
	defer ticks.Stop()
	for end := time.Now().Add(patience); time.Now().Before(end); <-ticks.C {
		if open := greets(args[0]); open != neg {
			return
		}
	}
	ts.Fatalf("%s did not come about in %v", args[0], patience)
}

func greets(addr string) bool {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	defer conn.Close()
	var code [3]byte
	_ = conn.SetReadDeadline(time.Now().Add(time.Second))
	_, err = conn.Read(code[:])
	return err == nil && string(code[:]) == "220"
}

// scriptSignal sends a signal to the newest background process: "signal HUP|TERM".
func scriptSignal(ts *testscript.TestScript, neg bool, args []string) {
	signals := map[string]os.Signal{"HUP": syscall.SIGHUP, "TERM": syscall.SIGTERM}
	running := ts.BackgroundCmds()
	if neg || len(args) != 1 || signals[args[0]] == nil || len(running) == 0 {
		ts.Fatalf("usage: signal HUP|TERM, with a process in the background")
	}
	ts.Check(running[len(running)-1].Process.Signal(signals[args[0]]))
}

// freeAddr finds a loopback address that nobody listens on.
func freeAddr() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return ln.Addr().String(), ln.Close()
}

func TestPrintable(t *testing.T) {
	if got := printable("220 \x1b]0;owned\x07 grüezi\r\n"); got != "220 ?]0;owned? grüezi??" {
		t.Errorf("got %q", got)
	}
}

func TestSplitHost(t *testing.T) {
	for in, want := range map[string]string{
		"mx.example.org": "mx.example.org 25", "mx.example.org:587": "mx.example.org 587",
		"192.0.2.1": "192.0.2.1 25", "192.0.2.1:2525": "192.0.2.1 2525",
		"2001:db8::1": "2001:db8::1 25", "[2001:db8::1]": "2001:db8::1 25", "[2001:db8::1]:465": "2001:db8::1 465",
	} {
		host, port, err := splitHost(in)
		if got := fmt.Sprintf("%s %d", host, port); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"", ":25", "host:0", "host:65536", "host:smtp", "https://host", "a@b", "a b"} {
		if host, port, err := splitHost(in); err == nil {
			t.Errorf("%q became %s and %d", in, host, port)
		}
	}
}

func TestDescribeBuild(t *testing.T) {
	if got := describeBuild(nil); !strings.HasPrefix(got, "slipstream (devel)\ncommit unknown\ngo") {
		t.Errorf("without build information: %q", got)
	}
}

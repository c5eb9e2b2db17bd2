package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"slipstream/auth/arc"
)

// A sealingWorld is a name server, keys, and the commands of ours and of dkimpy.
type sealingWorld struct {
	t    *testing.T
	dir  string
	pem  string // file of the key
	dns  string
	tree string // dkimpy's packages
}

// sealingLetter is what is sealed.
const sealingLetter = "From: A <a@a.example>\r\nSubject: a letter\r\n\ton two lines\r\nTo: b@b.example\r\n" +
	"Date: Tue, 14 Nov 2023 22:13:20 +0000\r\nMessage-ID: <1@a.example>\r\n\r\n" +
	"Dear B,\r\n\r\n  a line  with blanks \r\n\r\n\r\nA\r\n"

func newSealingWorld(t *testing.T) *sealingWorld {
	t.Helper()
	tree, err := filepath.Abs(filepath.Join("..", "..", ".peers", "dkimpy", "usr", "lib", "python3", "dist-packages"))
	if err != nil {
		t.Fatal(err)
	}
	w := &sealingWorld{t: t, dir: t.TempDir(), tree: tree}
	w.pem = filepath.Join(w.dir, "r.pem")
	if out, err := w.python("import dkim.arcsign, dns.resolver, authres", "").CombinedOutput(); err != nil {
		t.Skipf("no dkimpy in .peers/dkimpy or on this machine (make peers fetches it): %v\n%s", err, out)
	}
	key, record, err := newMailKey("rsa")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.pem, key, 0o600); err != nil {
		t.Fatal(err)
	}
	zone, err := readMailZone("r._domainkey.relay.example. 60 IN TXT " + record + "\n" +
		"a.example. 60 IN TXT \"v=spf1 ip4:192.0.2.1 -all\"\n")
	if err != nil {
		t.Fatal(err)
	}
	addr, stop, err := zone.serve()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	w.dns = addr
	return w
}

// python is a run of Debian's Python, for which the packages are made, with dkimpy at hand.
func (w *sealingWorld) python(program, input string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(w.t.Context(), "python3", append([]string{"-c", program}, args...)...)
	cmd.Env = append(os.Environ(), "PYTHONPATH="+w.tree, "PYTHONDONTWRITEBYTECODE=1")
	cmd.Stdin = strings.NewReader(input)
	return cmd
}

// dkimpy runs one of dkimpy's commands with our name server in place of the system's.
func (w *sealingWorld) dkimpy(command, message string, args ...string) string {
	w.t.Helper()
	host, port, err := net.SplitHostPort(w.dns)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.run(w.python(fmt.Sprintf(`
import dns.resolver
names = dns.resolver.Resolver(configure=False)
names.nameservers, names.port = [%q], %s
dns.resolver.default_resolver = names
import dkim.%s
dkim.%s.main()
`, host, port, command, command), message, args...))
}

// slipstream runs one of our commands.
func (w *sealingWorld) slipstream(message string, args ...string) string {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), "slipstream", append(args, "--dns", w.dns)...)
	cmd.Stdin = strings.NewReader(message)
	return w.run(cmd)
}

func (w *sealingWorld) run(cmd *exec.Cmd) string {
	w.t.Helper()
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		w.t.Fatalf("%v: %v\n%s", cmd.Args, err, complaints.String())
	}
	return string(out)
}

// sealingHop is one relay: it judges, puts its results on top, perhaps edits, and seals.
func (w *sealingWorld) hop(who rune, number int, message string, edit bool) string {
	w.t.Helper()
	id := fmt.Sprintf("hop%d.relay.example", number)
	results := w.slipstream(message, "verify", "--id", id, "--ip", "192.0.2.1", "--helo", "mx.a.example",
		"--mail-from", "a@a.example")
	edited := results + message
	if edit {
		end := "\n"
		if strings.Contains(message, "\r\n") {
			end = "\r\n"
		}
		edited = strings.Replace(edited, "Subject: ", "Subject: [list] ", 1) + "-- " + end + "the list" + end
	}
	var sealed string
	switch who {
	case 's':
		args := []string{"seal", "--domain", "relay.example", "--selector", "r", "--key", w.pem, "--id", id}
		if edit {
			arrived := filepath.Join(w.dir, "arrived.eml")
			if err := os.WriteFile(arrived, []byte(message), 0o600); err != nil {
				w.t.Fatal(err)
			}
			args = append(args, "--arrived", arrived)
		}
		sealed = w.slipstream(edited, args...)
	case 'd':
		sealed = w.dkimpy("arcsign", edited, "r", "relay.example", w.pem, id)
	}
	if !strings.HasSuffix(sealed, edited) || len(sealed) == len(edited) {
		w.t.Fatalf("%c did not seal, or changed the message:\n%s", who, sealed)
	}
	return sealed
}

// want is what we must find.
func (w *sealingWorld) want(message, value string, sets int) {
	w.t.Helper()
	ours := w.slipstream(message, "verify", "--id", "mx.example.org")
	want := "arc=" + value
	if value == arc.Pass {
		want = fmt.Sprintf("arc=pass (i=%d)", sets)
	}
	if !strings.Contains(ours, want) {
		w.t.Errorf("we say of %d sets, not %q:\n%s", sets, want, ours)
	}
}

// both is want, and dkimpy must agree.
func (w *sealingWorld) both(message, value string, sets int) {
	w.t.Helper()
	w.want(message, value, sets)
	// A chain that was sealed as failed is None to dkimpy.
	theirs := w.dkimpy("arcverify", message)
	marked := value == arc.Fail && strings.Contains(theirs, "cv=None")
	if !marked && !strings.HasPrefix(theirs, "arc verification: cv=b'"+value+"'") {
		w.t.Errorf("dkimpy says of %d sets, not %s: %s", sets, value, theirs)
	}
}

// Three hops, each by our command ("s") or by dkimpy's ("d"), the second of which may be a list that edits: behind
// every one we find the chain sound, and behind the last so does dkimpy. Lines end in CRLF: where they end in LF,
// dkimpy's arcsign makes seals that do not verify for itself either.
func TestSealRealHops(t *testing.T) {
	w := newSealingWorld(t)
	for _, who := range sealings([]string{"sds", "dsd,edited", "sss,lf"},
		"sss", "ssd", "sdd", "dss", "dsd", "dds", "ddd", "sss,edited", "sds,edited", "sss,edited,lf") {
		t.Run(who, func(t *testing.T) {
			w := &sealingWorld{t: t, dir: t.TempDir(), pem: w.pem, dns: w.dns, tree: w.tree}
			message := sealingLetter
			if strings.HasSuffix(who, "lf") {
				message = strings.ReplaceAll(message, "\r\n", "\n")
			}
			for i, c := range who[:3] {
				message = w.hop(c, i+1, message, i == 1 && strings.Contains(who, "edited"))
				w.want(message, arc.Pass, i+1)
			}
			w.both(message, arc.Pass, 3)
		})
	}
}

// sealings are those that are tried always, and with SLIPSTREAM_SEALS=all the rest, which takes minutes: a hop is three
// processes. Package arc tries all of them by itself.
func sealings(always []string, rest ...string) []string {
	if os.Getenv("SLIPSTREAM_SEALS") == "all" {
		return append(always, rest...)
	}
	return always
}

// A chain that broke on the way is sealed as failed, which both believe, and no command of ours seals above that.
func TestSealRealFailed(t *testing.T) {
	w := newSealingWorld(t)
	for _, who := range sealings([]string{"sd"}, "ss", "ds", "dd") {
		message := w.hop(rune(who[0]), 1, sealingLetter, false)
		broken := strings.Replace(message, "Dear B", "Dear C", 1)
		w.want(broken, arc.Fail, 1)
		marked := w.hop(rune(who[1]), 2, broken, false)
		if !strings.Contains(marked, "cv=fail") {
			t.Errorf("%s: not sealed as failed:\n%s", who, marked)
		}
		w.both(marked, arc.Fail, 2)
		cmd := exec.CommandContext(t.Context(), "slipstream", "seal", "--domain", "relay.example", "--selector", "r",
			"--key", w.pem, "--dns", w.dns)
		cmd.Stdin = strings.NewReader(marked)
		out, err := cmd.Output()
		var exit *exec.ExitError
		if len(out) > 0 || !errors.As(err, &exit) || exit.ExitCode() != exitChainOver {
			t.Errorf("%s: above a failed chain: %v, and %q", who, err, out)
		}
	}
}

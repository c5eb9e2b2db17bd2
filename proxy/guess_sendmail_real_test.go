package proxy_test

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"slipstream/tlsstore"
)

// sendmailConfig is for m4. greet_pause turns away who speaks before the greeting.
const sendmailConfig = "OSTYPE(`linux')dnl\n" +
	"define(`confDOMAIN_NAME', `mx.b.test')dnl\ndefine(`confPID_FILE', `%[1]s/pid')dnl\n" +
	"define(`QUEUE_DIR', `%[1]s/queue')dnl\ndefine(`ALIAS_FILE', `')dnl\ndefine(`STATUS_FILE', `%[1]s/st')dnl\n" +
	"define(`confDELIVERY_MODE', `queue')dnl\ndefine(`confTO_IDENT', `0')dnl\n" +
	"define(`confSERVICE_SWITCH_FILE', `%[1]s/services')dnl\n" +
	"define(`confDONT_BLAME_SENDMAIL', `AssumeSafeChown,GroupWritableDirPathSafe')dnl\n" +
	"define(`confDONT_PROBE_INTERFACES', `True')dnl\n" +
	"FEATURE(`nocanonify')dnl\nFEATURE(`no_default_msa')dnl\nFEATURE(`greet_pause', `500')dnl\n" +
	"FEATURE(`accept_unresolvable_domains')dnl\n%[4]s" +
	"DAEMON_OPTIONS(`Port=%[3]s, Addr=%[2]s, Family=%[5]s, Name=MTA')dnl\nMAILER(`smtp')dnl\n"

// startSendmail starts Debian's sendmail at an address, as far as accepting mail goes. It returns its queue.
func startSendmail(t *testing.T, addr string) string {
	t.Helper()
	return startSendmailWith(t, addr, "FEATURE(`promiscuous_relay')dnl\n")
}

// startSendmailWith starts it with further lines of m4. It asks no name server.
func startSendmailWith(t *testing.T, addr, features string) string {
	t.Helper()
	tree, err := filepath.Abs("../.peers/sendmail")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(tree, "usr/bin/m4")); err != nil || runtime.GOOS != "linux" || os.Geteuid() != 0 {
		t.Skip("needs root on Linux and sendmail: make peers lays it out")
	}
	dir, host, family := t.TempDir(), netip.MustParseAddrPort(addr), "inet"
	if host.Addr().Is6() {
		family = "inet6"
	}
	queue := filepath.Join(dir, "queue")
	if err := os.Mkdir(queue, 0o700); err != nil {
		t.Fatal(err)
	}
	m4 := exec.CommandContext(t.Context(), filepath.Join(tree, "usr/bin/m4"),
		"-D_CF_DIR_="+tree+"/usr/share/sendmail/cf/", tree+"/usr/share/sendmail/cf/m4/cf.m4", "-")
	m4.Stdin = strings.NewReader(fmt.Sprintf(sendmailConfig, dir, host.Addr(), fmt.Sprint(host.Port()), features, family))
	cf, err := m4.Output()
	if err != nil {
		t.Fatalf("m4: %v", err)
	}
	program, err := os.ReadFile(filepath.Join(tree, "usr/libexec/sendmail/sendmail"))
	if err != nil {
		t.Fatal(err)
	}
	noDNS, noDNSEither := []byte("hosts files\naliases files\n"), []byte("hosts: files\npasswd: files\ngroup: files\n")
	for name, data := range map[string][]byte{
		"sendmail.cf": cf, "sendmail": program, // a copy is not setgid
		"services": noDNS, "nsswitch": noDNSEither,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// It wants a host name with a dot in it, which this gives to nobody else.
	cmd := exec.CommandContext(t.Context(), "unshare", "-u", "-m", "sh", "-c",
		`mount --bind "$2" /etc/nsswitch.conf && hostname mx.b.test && exec "$0" -C "$1" -bD`,
		filepath.Join(dir, "sendmail"), filepath.Join(dir, "sendmail.cf"), filepath.Join(dir, "nsswitch"))
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+tree+"/usr/lib/x86_64-linux-gnu:"+tree+"/lib/x86_64-linux-gnu:"+
		tree+"/usr/lib/aarch64-linux-gnu")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it holds nothing of value
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("sendmail: %s", out.Bytes())
		}
	})
	awaitReal(t, "sendmail to listen", func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	return queue
}

// sendmail says 554 to who does not wait for its greeting, and 550 to all that follows.
func TestRealGuessSendmail(t *testing.T) {
	t.Parallel()
	addr := realNeighbours(t, 1)[0]
	queue := startSendmail(t, addr)
	px, store := startGuessing(t, addr, nil)
	sent := 0
	for i, style := range guessStyles() {
		store.ClearQuirk(netip.MustParseAddrPort(addr), tlsstore.QuirkNoEarly)
		plant(store, addr, false)
		raw := realMessage("sendmail", i)
		if r := guessMail(t, px.at(doorSMTP), style, fmt.Sprintf("user-%d@b.test", i), raw); !strings.HasPrefix(r, "250 ") {
			t.Errorf("%v: the client heard %q", style, r)
		}
		sent++
		if known, ok := store.Known(guessKey(addr, tlsstore.Clear)); !ok || known.PipeConnect() {
			t.Errorf("%v: it is still taken for what it is not: %v", style, known)
		}
		texts, err := filepath.Glob(filepath.Join(queue, "df*"))
		if err != nil || len(texts) != sent {
			t.Fatalf("%v: %d messages in its queue, want %d: %v", style, len(texts), sent, err)
		}
	}
}

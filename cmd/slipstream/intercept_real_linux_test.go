package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"slipstream/bench/mta"
	"slipstream/bench/mta/mtatest"
)

// interceptMail is one message for recipients in four domains: over IPv4, over IPv6, and with a dead best host in
// either family.
const interceptMail = "From: a@mail.test\nTo: undisclosed\nSubject: to many\nMessage-ID: <many@mail.test>\nDate: Sun, 22 Nov 2026 12:00:00 +0000\n\ntext\n"

// interceptRecipients are its recipients, by the host that is to have them.
func interceptRecipients() map[string][]string {
	return map[string][]string{
		"mx.one.test": {"b@one.test", "c@one.test"}, "mx.two.test": {"d@two.test"},
		"mx.three.test": {"e@three.test"}, "mx.four.test": {"f@four.test"},
	}
}

// An interceptMTA sends a message.
type interceptMTA struct {
	name  string
	start func(*interceptWorld) (send func(ctx context.Context, from string, to []string, raw []byte) error, log func() string)
}

func interceptMTAs() []interceptMTA {
	inBench := func(kind mta.Kind) interceptMTA {
		return interceptMTA{string(kind), func(w *interceptWorld) (func(context.Context, string, []string, []byte) error, func() string) {
			c := mta.Config{Listen: "127.0.0.1:2525", Hostname: "mail.test", DNS: "198.51.100.53"}
			var in *mta.Instance
			err := w.mta.do(func() (err error) {
				in, err = mta.Start(mtatest.Context(w.t), kind, c)
				return err
			})
			mtatest.Check(w.t, err)
			w.t.Cleanup(func() { _ = in.Stop() })
			return in.Submit, in.Log
		}}
	}
	return []interceptMTA{
		inBench(mta.Exim),
		inBench(mta.Postfix),
		inBench(mta.OpenSMTPD),
		{"sendmail", (*interceptWorld).sendmail},
	}
}

// interceptSendmailConfig is for m4: Debian's defaults, but for its places.
const interceptSendmailConfig = "OSTYPE(`linux')dnl\n" +
	"define(`confDOMAIN_NAME', `mail.test')dnl\ndefine(`confPID_FILE', `%[1]s/pid')dnl\n" +
	"define(`QUEUE_DIR', `%[1]s/queue')dnl\ndefine(`ALIAS_FILE', `')dnl\ndefine(`STATUS_FILE', `%[1]s/st')dnl\n" +
	"define(`confQUEUE_LA', `1000')dnl\ndefine(`confTO_IDENT', `0')dnl\ndefine(`confDONT_BLAME_SENDMAIL', `AssumeSafeChown,GroupWritableDirPathSafe')dnl\n" +
	"define(`confDONT_PROBE_INTERFACES', `True')dnl\ndefine(`confDEF_USER_ID', `0:0')dnl\n" +
	"FEATURE(`nocanonify')dnl\nFEATURE(`no_default_msa')dnl\nFEATURE(`accept_unresolvable_domains')dnl\n" +
	"LOCAL_CONFIG\nO ResolverOptions=WorkAroundBrokenAAAA\nMAILER(`smtp')dnl\n"

// sendmail prepares Debian's sendmail. It runs as root, and delivers while it is handed the message.
func (w *interceptWorld) sendmail() (func(context.Context, string, []string, []byte) error, func() string) {
	w.t.Helper()
	tree, err := filepath.Abs("../../.peers/sendmail")
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(tree, "usr/bin/m4")); err != nil {
		w.t.Skip("needs sendmail: make peers lays it out: ", err)
	}
	dir := filepath.Join(w.dir, "sendmail")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.Mkdir(filepath.Join(dir, "queue"), 0o700)); err != nil {
		w.t.Fatal(err)
	}
	m4 := exec.CommandContext(w.t.Context(), filepath.Join(tree, "usr/bin/m4"),
		"-D_CF_DIR_="+tree+"/usr/share/sendmail/cf/", tree+"/usr/share/sendmail/cf/m4/cf.m4", "-")
	m4.Stdin = strings.NewReader(fmt.Sprintf(interceptSendmailConfig, dir))
	cf, err := m4.Output()
	if err != nil {
		w.t.Fatalf("m4: %v", err)
	}
	program, err := os.ReadFile(filepath.Join(tree, "usr/libexec/sendmail/sendmail"))
	if err != nil {
		w.t.Fatal(err)
	}
	for name, data := range map[string][]byte{"sendmail.cf": cf, "sendmail": program, "resolv.conf": []byte("nameserver 198.51.100.53\n")} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o755); err != nil { // a copy is not setgid
			w.t.Fatal(err)
		}
	}
	libs, _ := filepath.Glob(filepath.Join(tree, "usr/lib/*-linux-*"))
	var out safeBuffer
	send := func(ctx context.Context, from string, to []string, raw []byte) error {
		return w.mta.do(func() error {
			// It wants a host name with a dot in it, and a name server, which this gives to nobody else.
			args := []string{"-u", "-m", "sh", "-c", `mount --bind "$1/resolv.conf" /etc/resolv.conf && hostname mail.test &&
				cd "$1" && shift && exec ./sendmail -C ./sendmail.cf -odi -i -v -f "$@"`, "sh", dir, from, "--"}
			cmd := exec.CommandContext(ctx, "unshare", append(args, to...)...)
			cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+strings.Join(libs, ":")+":"+tree+"/lib/x86_64-linux-gnu")
			cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(raw), &out, &out
			return cmd.Run()
		})
	}
	return send, out.String
}

// Unchanged but for TLS, each MTA delivers through us to hosts that it has chosen itself: every recipient once, in
// one attempt, and to the next host where the best one is dead. Its hosts are called by their names, and verified.
func TestInterceptRealMTAs(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"redirect", "tproxy"} {
		for _, m := range interceptMTAs() {
			t.Run(way+"/"+m.name, func(t *testing.T) {
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
				send, mtaLog := m.start(w)
				var all []string
				want := interceptRecipients()
				for _, host := range []string{"mx.one.test", "mx.two.test", "mx.three.test", "mx.four.test"} {
					all = append(all, want[host]...)
				}
				start := time.Now()
				if err := send(mtatest.Context(t), "a@mail.test", all, []byte(interceptMail)); err != nil {
					t.Fatalf("%v\n%s", err, mtaLog())
				}
				t.Cleanup(func() {
					if t.Failed() {
						t.Logf("log of the MTA:\n%s", mtaLog())
					}
				})
				w.awaitAll(want)
				t.Logf("delivered after %v", time.Since(start).Round(time.Millisecond))
				w.checkNames(s)
			})
		}
	}
}

// awaitAll waits until every host has its recipients, and then sees that it has them once.
func (w *interceptWorld) awaitAll(want map[string][]string) {
	w.t.Helper()
	got := func(host string) []string {
		list := w.delivered(host)
		slices.Sort(list)
		return list
	}
	w.await("all recipients", func() bool {
		for host, to := range want {
			if len(got(host)) < len(to) {
				return false
			}
		}
		return true
	})
	for host, to := range want {
		if list := got(host); !slices.Equal(list, to) {
			w.t.Errorf("%s has mail for %q, want %q", host, list, to)
		}
	}
}

// checkNames sees that each host was called by its name, with what was sent to it verified.
func (w *interceptWorld) checkNames(s *interceptService) {
	w.t.Helper()
	for name, host := range w.hosts {
		for _, c := range host.Connections() {
			if c.TLS != 0 && c.ServerName != name {
				w.t.Errorf("%s was called %q", name, c.ServerName)
			}
		}
		for _, m := range host.Messages() {
			if m.TLS == 0 {
				w.t.Errorf("%s got mail in clear", name)
			}
		}
		relay := "relay=" + name + "[" + interceptHosts[name] + "]:25"
		w.await(relay, func() bool { return strings.Contains(s.log.String(), relay) })
	}
	for line := range strings.Lines(s.log.String()) {
		if strings.Contains(line, "status=sent") && !strings.Contains(line, "verified") {
			w.t.Errorf("not verified: %s", line)
		}
	}
}

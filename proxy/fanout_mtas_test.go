package proxy_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"slipstream/bench/mta"
	"slipstream/bench/mta/mtatest"
)

// A fanoutSender is a real mail server that sends everything through a door.
type fanoutSender interface {
	submit(t *testing.T, raw []byte, to ...string)
	drive(t *testing.T)      // has it try its queue at once
	empty(t *testing.T) bool // is there nothing left in its queue?
	log() string
}

// fanoutSenders are they, by name. The author's mail host is a server at home.
func fanoutSenders() map[string]func(t *testing.T, door string) fanoutSender {
	instance := func(kind mta.Kind, extra ...string) func(*testing.T, string) fanoutSender {
		return func(t *testing.T, door string) fanoutSender {
			return &fanoutInstance{sendThrough(t, kind, door, doorSMTP, mta.Config{ExtraClient: extra})}
		}
	}
	return map[string]func(*testing.T, string) fanoutSender{
		"exim": instance(mta.Exim), "exim, without PRDR": instance(mta.Exim, "hosts_try_prdr ="),
		"postfix": instance(mta.Postfix), "opensmtpd": instance(mta.OpenSMTPD), "sendmail": startSendmailSender,
	}
}

// A fanoutInstance is a server that package mta starts.
type fanoutInstance struct{ *mta.Instance }

func (s *fanoutInstance) log() string { return s.Log() }

func (s *fanoutInstance) submit(t *testing.T, raw []byte, to ...string) {
	t.Helper()
	realSubmit(t, s.Instance, raw, to...)
}

func (s *fanoutInstance) drive(t *testing.T) {
	t.Helper()
	if err := s.Flush(mtatest.Context(t)); err != nil {
		t.Fatal(err)
	}
}

func (s *fanoutInstance) empty(t *testing.T) bool {
	t.Helper()
	if s.Kind() == mta.OpenSMTPD {
		out, err := s.Run(mtatest.Context(t), nil, "/usr/sbin/smtpctl", "show", "queue")
		if err != nil {
			t.Fatalf("smtpctl: %v: %s", err, out)
		}
		return len(bytes.TrimSpace(out)) == 0
	}
	queue, err := s.Queue(mtatest.Context(t))
	if err != nil {
		t.Fatal(err)
	}
	return len(queue) == 0
}

// A sendmailSender is Debian's sendmail as far as sending goes: a command that puts
// mail into a queue, or tries to empty it. What it sends back leaves as all does.
type sendmailSender struct{ dir, tree string }

const sendmailSending = "OSTYPE(`linux')dnl\n" +
	"define(`confDOMAIN_NAME', `mx.a.test')dnl\ndefine(`confPID_FILE', `%[1]s/pid')dnl\n" +
	"define(`QUEUE_DIR', `%[1]s/queue')dnl\ndefine(`ALIAS_FILE', `')dnl\ndefine(`STATUS_FILE', `%[1]s/st')dnl\n" +
	"define(`confDELIVERY_MODE', `queue')dnl\ndefine(`confTO_IDENT', `0')dnl\n" +
	"define(`confDONT_BLAME_SENDMAIL', `AssumeSafeChown,GroupWritableDirPathSafe')dnl\n" +
	"define(`confDONT_PROBE_INTERFACES', `True')dnl\ndefine(`confMIN_QUEUE_AGE', `0')dnl\n" +
	"define(`confQUEUE_LA', `1000')dnl\ndefine(`confREFUSE_LA', `1000')dnl\n" + // others may keep the machine busy
	"define(`confSERVICE_SWITCH_FILE', `%[1]s/switch')dnl\n" +
	"define(`SMART_HOST', `esmtp:[%[2]s]')dnl\ndefine(`ESMTP_MAILER_ARGS', `TCP $h %[3]s')dnl\n" +
	"FEATURE(`nocanonify')dnl\nFEATURE(`no_default_msa')dnl\nFEATURE(`accept_unresolvable_domains')dnl\n" +
	"MAILER(`local')dnl\nMAILER(`smtp')dnl\n"

func startSendmailSender(t *testing.T, door string) fanoutSender {
	t.Helper()
	tree, err := filepath.Abs("../.peers/sendmail")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(tree, "usr/bin/m4")); err != nil || runtime.GOOS != "linux" || os.Geteuid() != 0 {
		t.Skip("needs root on Linux and sendmail: make peers lays it out")
	}
	host, port, err := net.SplitHostPort(door)
	if err != nil {
		t.Fatal(err)
	}
	s := &sendmailSender{dir: t.TempDir(), tree: tree}
	m4 := exec.CommandContext(t.Context(), filepath.Join(tree, "usr/bin/m4"),
		"-D_CF_DIR_="+tree+"/usr/share/sendmail/cf/", tree+"/usr/share/sendmail/cf/m4/cf.m4", "-")
	m4.Stdin = strings.NewReader(fmt.Sprintf(sendmailSending, s.dir, host, port))
	cf, err := m4.Output()
	if err != nil {
		t.Fatalf("m4: %v", err)
	}
	program, err := os.ReadFile(filepath.Join(tree, "usr/libexec/sendmail/sendmail"))
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"sendmail.cf": cf, "sendmail": program, // a copy is not setgid
		"switch": []byte("hosts files\n"), "resolv.conf": []byte("nameserver 127.0.0.1\n")} {
		if err := os.WriteFile(filepath.Join(s.dir, name), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(s.dir, "queue"), 0o700); err != nil {
		t.Fatal(err)
	}
	return s
}

// run runs it where it has a host name with a dot in it, and no name server.
func (s *sendmailSender) run(t *testing.T, stdin []byte, args ...string) {
	t.Helper()
	script := `mount --bind "$0/resolv.conf" /etc/resolv.conf && hostname mx.a.test &&
		exec "$0/sendmail" -C "$0/sendmail.cf" "$@"`
	args = append([]string{"-u", "-m", "sh", "-c", script, s.dir}, args...)
	cmd := exec.CommandContext(mtatest.Context(t), "unshare", args...)
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+s.tree+"/usr/lib/x86_64-linux-gnu:"+s.tree+"/lib/x86_64-linux-gnu:"+
		s.tree+"/usr/lib/aarch64-linux-gnu")
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	f, errLog := os.OpenFile(filepath.Join(s.dir, "log"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if errLog != nil {
		t.Fatal(errLog)
	}
	defer f.Close()
	if _, errLog = fmt.Fprintf(f, "sendmail %s: %v\n%s", strings.Join(args[6:], " "), err, out); errLog != nil {
		t.Fatal(errLog)
	}
}

func (s *sendmailSender) submit(t *testing.T, raw []byte, to ...string) {
	t.Helper()
	raw = bytes.ReplaceAll(raw, []byte("\r\n"), []byte("\n"))
	s.run(t, raw, append([]string{"-odq", "-i", "-f", realSender, "--"}, to...)...)
}

func (s *sendmailSender) drive(t *testing.T) {
	t.Helper()
	s.run(t, nil, "-v", "-q")
}

func (s *sendmailSender) empty(t *testing.T) bool {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.dir, "queue"))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries) == 0
}

func (s *sendmailSender) log() string {
	text, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

package intercept

import (
	"context"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

var errExit = errors.New("exit status 1")

// A machine answers for nft and ip.
type machine struct {
	ran  []string // command lines
	fail func(line string) (string, error)
}

func (m *machine) run(_ context.Context, _ string, argv ...string) (string, error) {
	line := strings.Join(argv, " ")
	m.ran = append(m.ran, line)
	if m.fail != nil {
		if out, err := m.fail(line); err != nil {
			return out, err
		}
	}
	if strings.Contains(line, " del ") {
		return "RTNETLINK answers: No such file or directory\n", errExit
	}
	return "", nil
}

// What is done is what is printed, in the same order.
func TestApplyDoesWhatIsPrinted(t *testing.T) {
	for name, p := range plans() {
		m := &machine{}
		var said []string
		if err := p.Apply(t.Context(), m.run, func(line string) { said = append(said, line) }); err != nil {
			t.Fatal(err)
		}
		var lines []string
		for line := range strings.Lines(printed(t, p)) {
			if test, then, ok := strings.Cut(line, `)" ] || `); ok {
				lines = append(lines, strings.TrimPrefix(test, `[ -n "$(`))
				line = then
			}
			line = strings.TrimSuffix(strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(line), "while "), " 2>/dev/null; do :; done"), " <<'END'")
			if strings.HasPrefix(line, "ip -") || strings.HasPrefix(line, "nft ") {
				lines = append(lines, line)
			}
		}
		if !slices.Equal(m.ran, lines) {
			t.Errorf("%s: done %q, printed %q", name, m.ran, lines)
		}
		if len(said) == 0 || !strings.HasPrefix(said[len(said)-1], "done: nft: table inet slipstream is ") {
			t.Errorf("%s: said %q", name, said)
		}
	}
}

func TestRemoveSaysWhatThereWas(t *testing.T) {
	left := 2
	m := &machine{fail: func(line string) (string, error) {
		if strings.HasPrefix(line, "ip -4 rule del pref 2526") && left == 0 || strings.Contains(line, " del ") && !strings.Contains(line, "-4 rule del pref 2526") {
			return "RTNETLINK answers: No such process\n", errExit
		}
		return "", nil
	}}
	var said []string
	run := func(ctx context.Context, stdin string, argv ...string) (string, error) {
		if line := strings.Join(argv, " "); strings.HasPrefix(line, "ip -4 rule del pref 2526") && left > 0 {
			left--
			return "", nil
		}
		return m.run(ctx, stdin, argv...)
	}
	if err := (Plan{IPv6: true}).Remove(t.Context(), run, func(line string) { said = append(said, line) }); err != nil {
		t.Fatal(err)
	}
	want := []string{"done: nft: table inet slipstream is gone", "done: ip -4 rule del pref 2526 lookup 2525 (2)"}
	if !slices.Equal(said, want) {
		t.Errorf("said %q, want %q", said, want)
	}
}

// What a machine lacks is named, with what to do.
func TestApplyWithout(t *testing.T) {
	failing := func(prefix, out string, err error) func(string) (string, error) {
		return func(line string) (string, error) {
			if strings.HasPrefix(line, prefix) {
				return out, err
			}
			return "", nil
		}
	}
	noTPROXY := "/dev/stdin:9:3-70: Error: Could not process rule: No such file or directory\n" +
		"\t\tmeta nfproto ipv4 tcp dport 25 tproxy ip to 127.0.0.1:10526 meta mark set 0x736c accept\n\t\t^^^^\n"
	tests := []struct {
		name string
		fail func(string) (string, error)
		is   error
		says string
	}{
		{"no nft", failing("nft", "", exec.ErrNotFound), ErrNoProgram, "nft is not here; install it (the package nftables)"},
		{"no ip", failing("ip", "", exec.ErrNotFound), ErrNoProgram, "ip is not here; install it (the package iproute2)"},
		{"not root", failing("ip", "RTNETLINK answers: Operation not permitted\n", errExit), ErrNoPrivilege, "it takes CAP_NET_ADMIN: run this as root"},
		{"not root, nft", failing("nft", "Operation not permitted (you must be root)\nnetlink: Error", errExit), ErrNoPrivilege, "CAP_NET_ADMIN"},
		{"no TPROXY", failing("nft", noTPROXY, errExit), ErrNoKernel, "it has no TPROXY (CONFIG_NFT_TPROXY, the module nft_tproxy)"},
		{"no redirect", failing("nft", strings.ReplaceAll(noTPROXY, "tproxy ip to 127.0.0.1:10526", "redirect to :10526"), errExit), ErrNoKernel, "it cannot redirect"},
		{"no nftables", failing("nft", "/dev/stdin:1:1-26: Error: Could not process rule: Operation not supported\nadd table inet slipstream\n^^^^\n", errExit),
			ErrNoKernel, "it has no nftables"},
		{"no policy routing", failing("ip -4 rule add", "RTNETLINK answers: Operation not supported\n", errExit), ErrNoKernel, "it has no policy routing"},
		{"no tables", failing("ip -4 route replace", "RTNETLINK answers: Operation not supported\n", errExit), ErrNoKernel, "it has no tables"},
		{"what nobody knows", failing("ip -4 rule del", "Segmentation fault\n", errExit), errExit, "ip -4 rule del pref 2526 lookup 2525: exit status 1: Segmentation fault"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := &machine{fail: tt.fail}
			err := plans()["all"].Apply(t.Context(), m.run, func(string) {})
			if !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v, want %v that says %q", err, tt.is, tt.says)
			}
		})
	}
}

// A program that takes away what it never does is not run for ever.
func TestClearingEnds(t *testing.T) {
	n := 0
	run := func(context.Context, string, ...string) (string, error) { n++; return "", nil }
	if err := plans()["redirect"].Apply(t.Context(), run, func(string) {}); err != nil || n > 6*maxCleared+10 {
		t.Errorf("%v after %d runs", err, n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := plans()["redirect"].Apply(ctx, run, func(string) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

package load

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// spend uses CPU time, and gives back what the process was charged for meanwhile.
func spend(t *testing.T, d time.Duration, read func(int) (time.Duration, error)) time.Duration {
	t.Helper()
	before, err := read(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for {
		for range 1000 {
			_ = strings.Repeat("x", 1000)
		}
		after, err := read(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if after-before >= d {
			return after - before
		}
	}
}

// Both sources see the same: they are read around the same work. Ticks are rounded, each of user and system time.
func TestClockAgreesWithStat(t *testing.T) {
	before, err := statTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	clock := spend(t, 200*time.Millisecond, clockTime)
	after, err := statTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	// What came before and after the clock was read is in the ticks alone.
	if ticks := after - before; ticks < clock-2*tick || ticks > clock+10*tick {
		t.Errorf("by the clock %v, in ticks %v", clock, ticks)
	}
	if d := spend(t, 3*tick, statTime); d%tick != 0 {
		t.Errorf("%v is not in ticks", d)
	}
}

func TestLedger(t *testing.T) {
	l, err := openLedger(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	first, err := l.read()
	if err != nil {
		t.Fatal(err)
	}
	if first.cpu <= 0 || first.rss < 1<<20 || first.hwm < first.rss/2 || !l.clock {
		t.Errorf("%+v, %v", first, l.source())
	}
	block := make([]byte, 64<<20)
	for i := range block {
		block[i] = byte(i)
	}
	second, err := l.read()
	if err != nil || second.rss < first.rss+(48<<20) || second.hwm < second.rss {
		t.Errorf("after 64 MB more: %+v, before %+v, %v", second, first, err)
	}
	if block[len(block)-1] == 0 {
		t.Error("not written")
	}
	if none, err := (*ledger)(nil).read(); err != nil || none != (usage{}) {
		t.Errorf("no ledger: %+v, %v", none, err)
	}
}

// The whole tree counts: a shell's child that works is charged.
func TestLedgerOfATree(t *testing.T) {
	cmd := exec.Command("/bin/sh", "-c", `/bin/sh -c 'while :; do :; done' & echo $!; wait`)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skip("no shell: ", err)
	}
	defer func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	pids, err := tree(cmd.Process.Pid)
	if err != nil || !slices.Equal(pids, []int{cmd.Process.Pid, child}) {
		t.Fatalf("tree: %v, %v; the child is %d", pids, err, child)
	}
	l, err := openLedger(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	await(t, func() bool {
		used, err := l.read()
		return err == nil && used.cpu > 50*time.Millisecond
	})
}

// await waits for what must come about.
func await(t *testing.T, done func() bool) {
	t.Helper()
	ticks := time.NewTicker(5 * time.Millisecond)
	defer ticks.Stop()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); <-ticks.C {
		if done() {
			return
		}
	}
	t.Fatal("it does not come about")
}

func TestLedgerOfNobody(t *testing.T) {
	if _, err := openLedger(1 << 30); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if n := kilobytes([]byte("Name:\tx\nVmRSS:\t  12 kB\n"), "VmRSS:"); n != 12<<10 {
		t.Errorf("%d", n)
	}
	if n := kilobytes([]byte("Name:\tx\n"), "VmRSS:"); n != 0 {
		t.Errorf("%d", n)
	}
}

// However we end, our children do too.
func TestChildrenEndWithUs(t *testing.T) {
	parent := exec.Command(os.Args[0], "stand-in", "parent")
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, out)
	_ = parent.Wait()
	status := "/proc/" + strings.TrimSpace(line) + "/status"
	await(t, func() bool {
		text, err := os.ReadFile(status)
		return err != nil || strings.Contains(string(text), "State:\tZ") // nobody may have buried it yet
	})
}

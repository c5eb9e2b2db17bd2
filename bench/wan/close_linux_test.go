package wan_test

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"slipstream/bench/wan"
)

// held says by what namespaces, named as in /proc, are held.
type held struct {
	threads []string // in them
	others  []string // descriptors and mounts
	devices []string // descriptors of TUN devices, whatever their namespace
}

func (h held) String() string {
	return strings.Join(slices.Concat(h.threads, h.others, h.devices), ", ")
}

// holders looks at one process; 0: at all. What it may not see, or ends while it looks, does not count.
func holders(pid int, spaces ...string) held {
	process := "[0-9]*"
	if pid != 0 {
		process = strconv.Itoa(pid)
	}
	var h held
	links := func(pattern string, found func(path, target string)) {
		paths, _ := filepath.Glob(filepath.Join("/proc", process, pattern))
		for _, path := range paths {
			if target, err := os.Readlink(path); err == nil {
				found(path, target)
			}
		}
	}
	links("task/[0-9]*/ns/net", func(path, target string) {
		if slices.Contains(spaces, target) {
			h.threads = append(h.threads, path)
		}
	})
	links("fd/[0-9]*", func(path, target string) {
		switch {
		case slices.Contains(spaces, target):
			h.others = append(h.others, path)
		case target == "/dev/net/tun":
			h.devices = append(h.devices, path)
		}
	})
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for _, s := range spaces {
		if strings.Contains(string(mounts), s) {
			h.others = append(h.others, "a mount of "+s)
		}
	}
	return h
}

// gone waits until nothing holds on to the namespaces, and so the kernel has ended them.
func gone(t *testing.T, pid int, spaces ...string) {
	t.Helper()
	await(t, func() string { return holders(pid, spaces...).String() })
}

func TestClose(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	l := open(t, wan.Config{Shape: wan.Shape{Delay: time.Hour}})
	spaces := []string{spaceOf(t, l.Near()), spaceOf(t, l.Far())}
	if h := holders(os.Getpid(), spaces...); len(h.others) != 2 || len(h.devices) != 2 {
		t.Fatalf("an open link is held by %v", h)
	}
	if err := l.Capture(&strings.Builder{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	dialed := make(chan error)
	go func() {
		_, err := l.Near().Dial(ctx, "tcp", netip.Addr{}, "198.18.0.2:25")
		dialed <- err
	}()
	await(t, func() string {
		if len(l.Segments()) == 0 {
			return "no SYN"
		}
		return ""
	})
	for range 2 {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	cancel()
	if err := <-dialed; err == nil {
		t.Error("connected over a link that takes an hour")
	}
	if !l.Segments()[0].Lost() || l.Carried().Dropped == 0 || l.Carried().CPU <= 0 {
		t.Errorf("what was under way: %+v, %+v", l.Segments()[0], l.Carried())
	}
	if err := l.Near().Do(func() error { return nil }); err == nil {
		t.Error("a closed link has a side")
	}
	if err := l.Capture(&strings.Builder{}); err == nil {
		t.Error("a closed link can be captured")
	}
	goleak.VerifyNone(t, ignore)
	gone(t, os.Getpid(), spaces...)
}

// A link that could not be opened leaves nothing.
func TestFailedOpen(t *testing.T) {
	open(t, wan.Config{}).Close() // skips
	ignore := goleak.IgnoreCurrent()
	if _, err := wan.Open(t.Context(), wan.Config{Sysctls: map[string]string{"net.ipv4.no_such_thing": "1"}}); err == nil {
		t.Error("opened")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := wan.Open(ctx, wan.Config{}); err != context.Canceled {
		t.Errorf("opened when it was too late: %v", err)
	}
	goleak.VerifyNone(t, ignore)
	gone(t, os.Getpid())
}

// victimVariable makes the test's program a victim.
const victimVariable = "SLIPSTREAM_WAN_VICTIM"

// victim opens a link, tells the names of its namespaces and waits for the end.
func victim() {
	l, err := wan.Open(context.Background(), wan.Config{Shape: wan.Shape{Delay: time.Millisecond}})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, s := range []*wan.Side{l.Near(), l.Far()} {
		if _, err := s.Listen(context.Background(), "tcp", netip.AddrPortFrom(s.Addr(), 25).String()); err != nil {
			fmt.Println(err)
			return
		}
		err := s.Do(func() error {
			name, err := os.Readlink("/proc/thread-self/ns/net")
			fmt.Println(name)
			return err
		})
		if err != nil {
			return
		}
	}
	os.Stdin.Read(make([]byte, 1)) // ends with the test, should that not kill it
}

// Of a program that is killed nothing remains.
func TestKilled(t *testing.T) {
	open(t, wan.Config{}).Close() // skips
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), victimVariable+"=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var spaces []string
	lines := bufio.NewScanner(stdout)
	for len(spaces) < 2 && lines.Scan() {
		spaces = append(spaces, lines.Text())
	}
	before := holders(cmd.Process.Pid, spaces...)
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // killed
	if len(spaces) != 2 || len(before.others) != 2 || len(before.devices) != 2 {
		t.Fatalf("the program said %q; its link is held by %v", spaces, before)
	}
	await(t, func() string {
		h := holders(0, spaces...)
		h.devices = nil // those of other programs, or of none
		return h.String()
	})
	if _, err := os.Stat(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "fd")); err == nil {
		t.Error("the program is still there")
	}
}

// Without the rights it takes, the error says so.
func TestUnprivileged(t *testing.T) {
	if os.Getuid() != 0 {
		_, err := wan.Open(t.Context(), wan.Config{})
		checkUnavailable(t, fmt.Sprint(err))
		return
	}
	const nobody = 65534
	cmd := exec.Command("/proc/self/exe") // which anyone may run, wherever it lies
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), victimVariable+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.Output()
	if err != nil {
		t.Skip("no program without rights: ", err)
	}
	checkUnavailable(t, string(out))
}

func checkUnavailable(t *testing.T, message string) {
	t.Helper()
	if !strings.HasPrefix(message, wan.ErrUnavailable.Error()) || !strings.Contains(message, "root") {
		t.Errorf("%q", message)
	}
}

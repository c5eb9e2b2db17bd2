//go:build linux

package authload

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// peer finds a program in the unpacked trees, or installed, and the libraries that it needs. It skips where there is
// none.
func peer(tb testing.TB, tree, path string) (program, root, libraries string) {
	tb.Helper()
	peers := os.Getenv("SLIPSTREAM_PEERS")
	if peers == "" {
		peers = filepath.Join("..", "..", ".peers")
	}
	root, err := filepath.Abs(filepath.Join(peers, tree))
	if err != nil {
		tb.Fatal(err)
	}
	program = filepath.Join(root, path)
	if _, err := os.Stat(program); err != nil {
		if program, err = exec.LookPath(filepath.Base(path)); err != nil {
			tb.Skipf("no %s here: %v; \"make peers\" fetches it", tree, err)
		}
		return program, "/", ""
	}
	list := []string{filepath.Join(root, "usr/lib")}
	for _, pattern := range []string{"usr/lib/*-linux-*", "usr/lib/rspamd"} {
		more, _ := filepath.Glob(filepath.Join(root, pattern))
		list = append(list, more...)
	}
	return program, root, strings.Join(list, ":")
}

// launch runs a program until the test ends, and returns once it accepts connections at addr. Its /etc/resolv.conf
// names the given server, or is the machine's: for those that ask nobody else.
func launch(tb testing.TB, nameserver, libraries, addr, program string, args ...string) (pid int) {
	tb.Helper()
	argv := append([]string{program}, args...)
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if nameserver != "" {
		if os.Getuid() != 0 {
			tb.Skip("not root, so no other resolv.conf can be put in its place")
		}
		file := filepath.Join(tb.TempDir(), "resolv.conf")
		if err := os.WriteFile(file, []byte("nameserver "+nameserver+"\n"), 0o644); err != nil {
			tb.Fatal(err)
		}
		const script = `mount --make-rprivate / && mount --bind "$1" /etc/resolv.conf && shift && exec "$@"`
		argv = append([]string{"/bin/sh", "-c", script, "sh", file}, argv...)
		attr.Cloneflags = syscall.CLONE_NEWNS
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+libraries)
	cmd.SysProcAttr, cmd.WaitDelay = attr, 5*time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		cancel()
		tb.Skipf("%s does not start: %v", program, err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	tb.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)      // it may have ended
		timer := time.AfterFunc(time.Second, cancel) // a milter takes up to ten to notice
		<-done
		timer.Stop()
		cancel()
	})
	for deadline := time.Now().Add(20 * time.Second); ; {
		network := "tcp"
		if filepath.IsAbs(addr) {
			network = "unix"
		}
		conn, err := net.Dial(network, addr)
		if err == nil {
			conn.Close()
			return cmd.Process.Pid
		}
		select {
		case err := <-done:
			done <- err
			tb.Fatalf("%s ended: %v\n%s", program, err, out.String())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			tb.Fatalf("%s does not listen: %v\n%s", program, err, out.String())
		}
	}
}

// freeAddr is an address of loopback at which nobody listens.
func freeAddr(tb testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// cpuTime is what processes and their descendants have used, ended threads included.
func cpuTime(tb testing.TB, pids []int) time.Duration {
	tb.Helper()
	var sum time.Duration
	for all := pids; len(all) > 0; all = all[1:] {
		const scheduler = 2 // CPUCLOCK_SCHED of the kernel's posix-timers.h: see clock_getcpuclockid(3)
		var ts unix.Timespec
		if err := unix.ClockGettime(int32(^all[0]<<3|scheduler), &ts); err != nil {
			tb.Fatalf("process %d: %v", all[0], err)
		}
		sum += time.Duration(ts.Nano())
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", all[0]))
		for _, name := range files {
			text, _ := os.ReadFile(name) // a thread may have ended
			for _, word := range strings.Fields(string(text)) {
				if child, err := strconv.Atoi(word); err == nil {
					all = append(all[:len(all):len(all)], child)
				}
			}
		}
	}
	return sum
}

// writeFile writes into a directory of the test's own, and returns the name of the file.
func writeFile(tb testing.TB, dir, name, text string) string {
	tb.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		tb.Fatal(err)
	}
	return path
}

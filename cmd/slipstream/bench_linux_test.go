package main

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"slipstream/bench"
)

// However a measurement ends, nothing of it stays behind: no network namespace, no process, and, unless it was killed
// outright, no file.
func TestBenchLeavesNothing(t *testing.T) {
	if err := bench.Available(t.Context()); err != nil {
		t.Skip("no wide-area link here: ", err)
	}
	for _, end := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGKILL} {
		t.Run(end.String(), func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			dir := t.TempDir()
			cmd := benchCommand(ctx, t, dir, "--run", "^outbound/clear/first/exim-exim/", "--rtt", "200ms", "--count", "1000")
			progress, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			said := bufio.NewReader(progress)
			first, _ := said.ReadString('\n') // it measures
			seen := foreign(ctx, cmd.Process.Pid)
			_ = cmd.Process.Signal(end) // Wait tells whether it had ended before
			rest, _ := io.ReadAll(said)
			if err := cmd.Wait(); err == nil || len(seen) == 0 {
				t.Fatalf("ended with %v; namespaces %v\n%s%s", err, seen, first, rest)
			}
			if end != syscall.SIGKILL && !strings.Contains(string(rest), "stopped") {
				t.Errorf("it does not say that it was stopped:\n%s%s", first, rest)
			}
			for ctx.Err() == nil && lives(seen) != "" {
				time.Sleep(10 * time.Millisecond) // what hangs on a killed process ends a little later
			}
			if where := lives(seen); where != "" {
				t.Errorf("a namespace is left, in %s", where)
			}
			if left, _ := os.ReadDir(dir); end != syscall.SIGKILL && len(left) > 0 {
				t.Errorf("files are left: %v", left)
			}
		})
	}
}

// benchCommand is "slipstream bench" with a directory of its own for temporary files.
func benchCommand(ctx context.Context, t *testing.T, dir string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Args = append([]string{"slipstream", "bench"}, args...)
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	return cmd
}

// foreign waits until a process has network namespaces that are not ours, and returns them.
func foreign(ctx context.Context, pid int) map[string]bool {
	own, _ := os.Readlink("/proc/self/ns/net")
	for ctx.Err() == nil {
		found := make(map[string]bool)
		for _, link := range namespaces(filepath.Join("/proc", strconv.Itoa(pid))) {
			if link != own {
				found[link] = true
			}
		}
		if len(found) >= 2 {
			return found
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// namespaces are those that a process lives in or holds open.
func namespaces(proc string) []string {
	var links []string
	for _, pattern := range []string{"task/*/ns/net", "fd/*"} {
		names, _ := filepath.Glob(filepath.Join(proc, pattern))
		for _, name := range names {
			if link, err := os.Readlink(name); err == nil && strings.HasPrefix(link, "net:[") {
				links = append(links, link)
			}
		}
	}
	return links
}

// lives finds a process that has one of the namespaces.
func lives(seen map[string]bool) string {
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range procs {
		for _, link := range namespaces(proc) {
			if seen[link] {
				return proc
			}
		}
	}
	return ""
}

package load

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// tick is the unit of CPU time in /proc, proc_pid_stat(5): USER_HZ is 100.
const tick = 10 * time.Millisecond

// openLedger reads the accounts of pid and of its descendants.
//
// The process clock is preferred, since it is exact, current, and includes threads that have ended.
// /proc/PID/task/*/schedstat is not: it lacks ended threads, and lags behind by up to a tick of the scheduler.
func openLedger(pid int) (*ledger, error) {
	l := &ledger{pid: pid, clock: true}
	if _, err := clockTime(pid); err != nil {
		l.clock = false
	}
	_, err := l.read()
	return l, err
}

func (l *ledger) read() (usage, error) {
	var sum usage
	if l == nil {
		return sum, nil
	}
	pids, err := tree(l.pid)
	if err != nil {
		return sum, err
	}
	for _, pid := range pids {
		cpu, err := l.cpu(pid)
		if err != nil {
			return sum, err
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return sum, err
		}
		sum.cpu += cpu
		sum.rss += kilobytes(status, "VmRSS:")
		sum.hwm += kilobytes(status, "VmHWM:")
	}
	return sum, nil
}

func (l *ledger) cpu(pid int) (time.Duration, error) {
	if l.clock {
		return clockTime(pid)
	}
	return statTime(pid)
}

// resetPeak makes the peak begin anew. It may be refused; then the peak is that since the start.
func (l *ledger) resetPeak() {
	if l == nil {
		return
	}
	pids, _ := tree(l.pid) // what cannot be read now is told by read
	for _, pid := range pids {
		_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
	}
}

// clockTime reads the CPU clock of a process, as clock_getcpuclockid(3) finds it.
func clockTime(pid int) (time.Duration, error) {
	const scheduler = 2 // CPUCLOCK_SCHED of the kernel's posix-timers.h; without bit 4 it is the whole process
	var ts unix.Timespec
	err := unix.ClockGettime(int32(^pid<<3|scheduler), &ts)
	return time.Duration(ts.Nano()), err
}

// statTime reads the CPU time of a process, in ticks.
func statTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	end := bytes.LastIndexByte(text, ')') // a name may have brackets of its own
	fields := bytes.Fields(text[end+1:])
	const utime, stime, behindName = 14, 15, 3 // as proc_pid_stat(5) counts
	if end < 0 || len(fields) <= stime-behindName {
		return 0, fmt.Errorf("/proc/%d/stat is malformed", pid)
	}
	var ticks time.Duration
	for _, field := range []int{utime, stime} {
		n, err := strconv.ParseInt(string(fields[field-behindName]), 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += time.Duration(n)
	}
	return ticks * tick, nil
}

// maxTree bounds the processes of a contestant.
const maxTree = 1000

// tree lists a process and its descendants.
func tree(pid int) ([]int, error) {
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		if len(all) > maxTree {
			return nil, fmt.Errorf("process %d has too many descendants", pid)
		}
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", all[i]))
		if err != nil {
			return nil, err
		}
		for _, name := range threads {
			text, err := os.ReadFile(name)
			if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
				return nil, err
			}
			for _, word := range bytes.Fields(text) {
				child, err := strconv.Atoi(string(word))
				if err != nil {
					return nil, err
				}
				all = append(all, child)
			}
		}
	}
	return all, nil
}

// kilobytes reads a line of /proc/PID/status, in octets; 0 where it is missing.
func kilobytes(status []byte, key string) int64 {
	_, rest, _ := bytes.Cut(status, []byte("\n"+key))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	n, _ := strconv.ParseInt(string(bytes.TrimSpace(bytes.TrimSuffix(line, []byte("kB")))), 10, 64)
	return n << 10
}

// system names the kernel, and how busy the machine was before.
func system() (kernel, load string) {
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	average, _ := os.ReadFile("/proc/loadavg")
	busy, _, _ := bytes.Cut(average, []byte(" "))
	return "Linux " + string(bytes.TrimSpace(release)), string(busy)
}

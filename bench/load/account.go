package load

import "time"

// A usage is what a process and all its descendants have used so far.
type usage struct {
	cpu time.Duration // user and system time, of all threads, also of those that have ended
	rss int64         // octets resident now
	hwm int64         // octets resident at most, since the last resetPeak; or since the start, where that is refused
}

// A ledger reads the operating system's accounts of a process tree. The nil ledger has none.
type ledger struct {
	pid   int
	clock bool // the process clock is used, else /proc/PID/stat
}

// source names where the CPU time comes from.
func (l *ledger) source() string {
	switch {
	case l == nil:
		return ""
	case l.clock:
		return "the kernel's CPU clock of each process, clock_gettime(2)"
	}
	return "/proc/PID/stat, in ticks of 10 ms"
}

package wan

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// urgency is the nice value of the carrier's thread, where the kernel grants it.
	urgency = -10
	// eager is how long before a packet is due the thread stays awake for it, unless the link is dense: to be woken takes
	// a tenth of a millisecond and more, on a virtual machine above all.
	eager = 300 * time.Microsecond
)

// A carrier is the thread that moves the packets.
type carrier struct {
	traffic    *traffic
	namespaces [2]*namespace
	devices    [2]int        // theirs
	stop       int           // an event descriptor that ends the thread
	thread     int           // its number
	before     time.Duration // processor time that the thread had taken before it was ours
	done       chan struct{}

	// Set before done is closed.
	cpu time.Duration
	err error

	mu     sync.Mutex // guards what follows, and keeps costs and end apart
	ended  bool
	missed int64
}

// startCarrier puts a thread to work, until end.
func startCarrier(t *traffic, namespaces [2]*namespace) (*carrier, error) {
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	c := &carrier{traffic: t, namespaces: namespaces, stop: stop, done: make(chan struct{})}
	for way, n := range namespaces {
		c.devices[way] = n.device
	}
	ready := make(chan struct{})
	go func() {
		defer close(c.done)
		runtime.LockOSThread()
		c.thread = unix.Gettid()
		c.before, _ = threadTime(c.thread)
		close(ready)
		// The thread is given back rather than ended: it may have forked a process with Pdeathsig, which would end with it.
		// Only one that cannot be restored ends, since its priority is not for others.
		restore := hurry()
		c.err = c.run()
		c.cpu = c.took()
		if restore() {
			runtime.UnlockOSThread()
		}
	}()
	<-ready
	return c, nil
}

// hurry has the kernel wake the calling thread when it asked for, and before others. Where it may not, it is later.
// restore makes the thread what it was, and says whether it could.
func hurry() (restore func() bool) {
	slack, errSlack := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	nice, errNice := unix.Getpriority(unix.PRIO_PROCESS, 0)
	nice = 20 - nice // the system call turns it round: see getpriority(2)

	hurried := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) == nil // nanoseconds; 50 µs otherwise
	raised := nice > urgency && unix.Setpriority(unix.PRIO_PROCESS, 0, urgency) == nil
	return func() bool {
		if hurried && (errSlack != nil || unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(slack), 0, 0, 0) != nil) {
			return false
		}
		return !raised || errNice == nil && unix.Setpriority(unix.PRIO_PROCESS, 0, nice) == nil
	}
}

// run moves packets until it is told to stop, or a device has gone.
func (c *carrier) run() error {
	defer c.traffic.abandon()
	poll := []unix.PollFd{
		near: {Fd: int32(c.devices[near]), Events: unix.POLLIN},
		far:  {Fd: int32(c.devices[far]), Events: unix.POLLIN},
		2:    {Fd: int32(c.stop), Events: unix.POLLIN},
	}
	for {
		if err := c.wait(poll); err != nil {
			return fmt.Errorf("wan: poll: %w", err)
		}
		if poll[2].Revents != 0 {
			return nil
		}
		for way := range c.devices {
			if poll[way].Revents == 0 {
				continue
			}
			if err := c.fetch(way); err != nil {
				return fmt.Errorf("wan: the device has gone: %w", err)
			}
		}
		for range burst {
			if !c.traffic.leave(c.write) {
				break
			}
		}
	}
}

// wait returns when a packet has come, one is or will soon be due, or the link ends.
func (c *carrier) wait(poll []unix.PollFd) error {
	var timeout *unix.Timespec
	if due, some := c.traffic.next(); some {
		due -= c.traffic.now()
		if !c.traffic.dense() {
			due -= eager
		}
		t := unix.NsecToTimespec(int64(max(0, due)))
		timeout = &t
	}
	_, err := unix.Ppoll(poll, timeout, nil)
	if errors.Is(err, unix.EINTR) {
		for i := range poll {
			poll[i].Revents = 0
		}
		return nil
	}
	return err
}

// fetch takes over the packets that a side has sent.
func (c *carrier) fetch(way int) error {
	for range burst {
		b := c.traffic.buffer()
		n, err := unix.Read(c.devices[way], b)
		if err != nil || n <= 0 {
			c.traffic.spare = append(c.traffic.spare, b)
			if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
				return nil
			}
			return err
		}
		c.traffic.enter(way, b[:n], c.traffic.now())
	}
	return nil
}

// write delivers a packet to the side where it goes. The kernel works on it right here.
func (c *carrier) write(way int, packet []byte) error {
	_, err := unix.Write(c.devices[1-way], packet)
	return err
}

// end has the thread stop and closes the devices.
func (c *carrier) end() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := unix.Write(c.stop, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	<-c.done
	c.missed = c.dropped()
	c.ended = true
	errs := []error{c.err, os.NewSyscallError("eventfd", err), os.NewSyscallError("close", unix.Close(c.stop))}
	for _, n := range c.namespaces {
		errs = append(errs, n.closeDevice())
	}
	return errors.Join(errs...)
}

// costs tells what the carrier took, and what it was too slow for.
func (c *carrier) costs() (cpu time.Duration, missed int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return c.cpu, c.missed
	}
	select {
	case <-c.done: // it has ended by itself
		cpu = c.cpu
	default:
		cpu = c.took()
	}
	return cpu, c.dropped()
}

// took is the processor time of the thread since it is ours.
func (c *carrier) took() time.Duration {
	now, _ := threadTime(c.thread) // of a thread that has ended in this moment: none
	return max(0, now-c.before)
}

// dropped is how many packets the devices could not hold for us.
func (c *carrier) dropped() int64 {
	var sum int64
	for _, n := range c.namespaces {
		_ = n.do(func() error { // without an answer it counts as none
			dropped, err := droppedByDevice()
			sum += dropped
			return err
		})
	}
	return sum
}

// threadTime is the processor time that a thread of this process has taken.
func threadTime(thread int) (time.Duration, error) {
	// The kernel's MAKE_THREAD_CPUCLOCK: the complement of the number, and that it is about one thread (4) and the time
	// that it ran (2). See clock_getcpuclockid(3).
	var t unix.Timespec
	err := unix.ClockGettime(int32(^thread<<3|4|2), &t)
	return time.Duration(t.Nano()), err
}

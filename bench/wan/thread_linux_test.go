package wan

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func openHere(t *testing.T, ctx context.Context) (*Link, error) {
	t.Helper()
	l, err := Open(ctx, Config{})
	if errors.Is(err, ErrUnavailable) {
		t.Skip(err)
	}
	return l, err
}

// threadFacts are the nice value and the timer slack of a thread of this process.
func threadFacts(t *testing.T, thread int) (nice, slack string) {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/stat", thread))
	if err != nil {
		t.Fatal("the thread has ended: ", err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	ns, err := os.ReadFile(fmt.Sprintf("/proc/%d/timerslack_ns", thread))
	if err != nil {
		t.Log(err) // older kernels tell it of whole processes only
	}
	return fields[16], strings.TrimSpace(string(ns)) // field 19 of proc_pid_stat(5)
}

// The carrier's thread is still there when the link is closed, as it was: a process with Pdeathsig that it forked before
// would end with it.
func TestThreadReturns(t *testing.T) {
	niceHere, slackHere := threadFacts(t, os.Getpid())
	for range 3 {
		l, err := openHere(t, t.Context())
		if err != nil {
			t.Fatal(err)
		}
		thread := l.carrier.thread
		if cpu := l.Carried().CPU; cpu < 0 || cpu > time.Second {
			t.Errorf("a new link took %v", cpu)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if nice, slack := threadFacts(t, thread); nice != niceHere || slack != slackHere {
			t.Errorf("nice %s and slack %s, was %s and %s", nice, slack, niceHere, slackHere)
		}
	}
}

// A fickle context ends when it is asked for the nth time whether it has.
type fickle struct {
	context.Context
	end  context.CancelFunc
	left int
}

func (f *fickle) Err() error {
	if f.left--; f.left < 0 {
		f.end()
	}
	return f.Context.Err()
}

// Whenever the context ends, Open ends, and leaves nothing.
func TestCancelledOpen(t *testing.T) {
	first, err := openHere(t, t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	ignore := goleak.IgnoreCurrent()
	before := descriptors(t)
	questions := 0
	for ; ; questions++ {
		ctx, cancel := context.WithCancel(t.Context())
		l, err := openHere(t, &fickle{ctx, cancel, questions})
		cancel()
		if err == nil {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
			break
		}
		if l != nil || !errors.Is(err, context.Canceled) {
			t.Fatalf("after %d questions: %v", questions, err)
		}
	}
	if questions < 5 { // at the beginning, twice for each side, and before the thread
		t.Errorf("Open asked its context %d times", questions)
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors, there were %d", after, before)
	}
	goleak.VerifyNone(t, ignore)
}

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func TestAwait(t *testing.T) {
	never := errors.New("not yet")
	for _, c := range []struct {
		name         string
		cancel, done time.Duration // from the beginning
		took         time.Duration
		want         error
	}{
		{"done", time.Minute, 20 * time.Millisecond, 20 * time.Millisecond, nil},
		{"done at once", 0, 0, 0, nil},
		{"cancelled", 20 * time.Millisecond, time.Minute, 20 * time.Millisecond, context.DeadlineExceeded},
		{"out of patience", time.Minute, time.Minute, patience, never},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), c.cancel)
				defer cancel()
				begun := time.Now()
				err := await(ctx, func() error {
					if time.Since(begun) >= c.done {
						return nil
					}
					return never
				})
				if took := time.Since(begun); err != c.want || took != c.took {
					t.Errorf("%v after %v, want %v after %v", err, took, c.want, c.took)
				}
			})
		})
	}
}

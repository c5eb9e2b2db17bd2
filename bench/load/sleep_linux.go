package load

import (
	"context"
	"time"

	"golang.org/x/sys/unix"
)

// sleepStep is how long a sleep may go on after its context has ended.
const sleepStep = 10 * time.Millisecond

// sleepUntil waits for a moment. It asks the kernel, since the runtime's timers round up to a millisecond, which is
// more than a message takes.
func sleepUntil(ctx context.Context, t time.Time) {
	for ctx.Err() == nil {
		left := time.Until(t)
		if left <= 0 {
			return
		}
		ts := unix.NsecToTimespec(int64(min(left, sleepStep)))
		_ = unix.Nanosleep(&ts, nil) // an interrupted one is taken up again
	}
}

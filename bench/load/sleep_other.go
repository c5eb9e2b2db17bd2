//go:build !linux

package load

import (
	"context"
	"time"
)

// sleepUntil waits for a moment.
func sleepUntil(ctx context.Context, t time.Time) {
	timer := time.NewTimer(time.Until(t))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

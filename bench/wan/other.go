//go:build !linux

package wan

import (
	"context"
	"fmt"
	"runtime"
	"time"
)

func open(context.Context, Config) (*Link, error) {
	return nil, fmt.Errorf("%w: it needs Linux, and this is %s", ErrUnavailable, runtime.GOOS)
}

// A namespace does not exist here, and so neither does a Link.
type namespace struct{}

func (*namespace) do(func() error) error { return ErrUnavailable }
func (*namespace) close() error          { return nil }

type carrier struct{ done chan struct{} }

func (*carrier) end() error                    { return nil }
func (*carrier) costs() (time.Duration, int64) { return 0, 0 }

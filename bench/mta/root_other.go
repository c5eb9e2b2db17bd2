//go:build !linux

package mta

import (
	"context"
	"fmt"
	"runtime"
	"time"
)

type root struct{ done chan struct{} }

func privileged() error {
	return fmt.Errorf("%w: namespaces are Linux's, this is %s", ErrUnavailable, runtime.GOOS)
}

func startRoot(dir, peer, top string) (*root, error) { return nil, privileged() }

func (r *root) end(time.Duration) error { return nil }

func (r *root) run(context.Context, []byte, ...string) ([]byte, error) { return nil, ErrUnavailable }

func (r *root) built() bool { return false }

func (r *root) output() string { return "" }

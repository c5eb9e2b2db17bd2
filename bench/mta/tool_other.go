//go:build !unix

package mta

import (
	"context"
	"fmt"
	"runtime"
)

// Tool is a running auxiliary program.
type Tool struct{ trash []string }

func startTool(context.Context, string, []string, string, ...string) (*Tool, error) {
	return nil, fmt.Errorf("%w: this is %s", ErrUnavailable, runtime.GOOS)
}

// Addr returns the address it listens on.
func (t *Tool) Addr() string { return "" }

// Output returns what it has printed so far.
func (t *Tool) Output() string { return "" }

// Stop ends it.
func (t *Tool) Stop() error { return nil }

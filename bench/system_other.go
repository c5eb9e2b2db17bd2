//go:build !linux

package bench

import (
	"net"
	"runtime"
)

// system names the kernel and the machine.
func system() string { return runtime.GOOS + " " + runtime.GOARCH }

func offerFastOpen(net.Listener) {}

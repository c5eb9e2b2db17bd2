//go:build !linux

package proxy

import (
	"net"
	"time"
)

// Where the kernel cannot be asked, nothing is proved, and nothing sent in doubt.

func kernelAcked(net.Conn) (int64, bool) { return 0, false }

func kernelAckedByClient(net.Conn) (int64, bool) { return 0, false }

func kernelClosed(net.Conn) bool { return false }

func kernelSynData(net.Conn) bool { return false }

func kernelLimit(net.Conn, time.Duration) {}

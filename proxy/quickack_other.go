//go:build !linux

package proxy

import "net"

// acknowledgeAtOnce is for systems where a connection can be told so.
func acknowledgeAtOnce(net.Conn) {}

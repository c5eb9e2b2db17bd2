//go:build !linux

package load

import "syscall"

// attributes are the usual ones: only Linux can be told to end a process with its parent.
func attributes() *syscall.SysProcAttr { return nil }

package load

import "syscall"

// attributes make a process end with us, however we end, and keep a terminal's Ctrl-C from it: that is for us, and we
// end it in order.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

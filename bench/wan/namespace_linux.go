package wan

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// A namespace is a network namespace that has no name: it exists while something holds on to it, first of all file.
type namespace struct {
	mu     sync.Mutex // guards file
	file   *os.File   // nil: closed
	device int        // the TUN device in it, a descriptor
}

// errLeft is what do returns when its function did not return.
var errLeft = errors.New("wan: the function left its goroutine")

// newNamespace makes an empty one and calls f in it.
func newNamespace(f func(n *namespace) error) (*namespace, error) {
	n := &namespace{device: -1}
	enter := func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return missing("a network namespace of its own", err)
		}
		var err error
		n.file, err = currentNamespace()
		return err
	}
	err := visit(enter, func() error { return f(n) })
	if err != nil {
		return nil, errors.Join(err, n.closeDevice(), n.close())
	}
	return n, nil
}

// do calls f on a thread in the namespace.
func (n *namespace) do(f func() error) error {
	enter := func() error {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.file == nil {
			return errClosed
		}
		return setNamespace(n.file)
	}
	return visit(enter, f)
}

// close lets go of the namespace.
func (n *namespace) close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.file == nil {
		return nil
	}
	file := n.file
	n.file = nil
	return file.Close()
}

// closeDevice ends the device: it is not persistent.
func (n *namespace) closeDevice() error {
	if n.device < 0 {
		return nil
	}
	device := n.device
	n.device = -1
	return os.NewSyscallError("close", unix.Close(device))
}

// visit calls enter, which takes the thread into another namespace, and then f, and takes the thread back. A thread
// that cannot be taken back ends.
func visit(enter, f func() error) error {
	result := make(chan error, 1)
	go func() {
		err := errLeft
		defer func() { result <- err }()
		runtime.LockOSThread()
		home, e := currentNamespace()
		if e != nil {
			runtime.UnlockOSThread()
			err = e
			return
		}
		defer home.Close()
		defer func() {
			if setNamespace(home) == nil {
				runtime.UnlockOSThread()
			}
		}()
		if e := enter(); e != nil {
			err = e
			return
		}
		err = f()
	}()
	return <-result
}

// currentNamespace returns the namespace of the calling thread.
func currentNamespace() (*os.File, error) { return os.Open("/proc/thread-self/ns/net") }

func setNamespace(file *os.File) error {
	return os.NewSyscallError("setns", unix.Setns(int(file.Fd()), unix.CLONE_NEWNET))
}

// missing explains an error of the kernel as something that this machine does not offer.
func missing(what string, err error) error {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: %s needs root, or CAP_SYS_ADMIN and CAP_NET_ADMIN: %w", ErrUnavailable, what, err)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO),
		errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		return fmt.Errorf("%w: the kernel does not offer %s (a module may have to be loaded): %w", ErrUnavailable, what, err)
	}
	return fmt.Errorf("wan: %s: %w", what, err)
}

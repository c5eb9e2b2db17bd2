package proxy

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// ListenPrivate opens a socket that only our user can connect to. It is made in
// a directory of its own and moved into place once its mode is set, so that
// there is no moment at which others could connect. A socket that nobody listens
// on, left behind by a process that died, is replaced.
func ListenPrivate(path string) (net.Listener, error) {
	if err := replaceable(path); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), privatePrefix) // mode 0700
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)         // empty by then
	made := filepath.Join(dir, "s") // short, since the name of a socket is bounded (unix(7))
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: made, Net: "unix"})
	if err != nil {
		return nil, err
	}
	ln.SetUnlinkOnClose(false) // it would remove the name that it was made under
	l := &privateListener{UnixListener: ln, path: path}
	if err = os.Chmod(made, 0o600); err == nil {
		l.info, err = os.Lstat(made)
	}
	if err == nil {
		err = os.Rename(made, path)
	}
	if err != nil {
		_ = ln.Close()
		return nil, err
	}
	return l, nil
}

// privatePrefix begins the name of the directory that a socket is made in.
const privatePrefix = ".slipstream-"

// SocketName says whether [ListenPrivate] can make a socket of that name: they
// are bounded (unix(7)), and all that the system says of it is "invalid argument".
func SocketName(path string) error {
	const most = len(syscall.RawSockaddrUnix{}.Path) - 1
	dir := filepath.Dir(path)
	made := filepath.Join(dir, privatePrefix+"4294967295", "s") // at its longest
	over := max(len(path), len(made)) - most
	if over <= 0 {
		return nil
	}
	return fmt.Errorf("%s is too long a name for a directory with a socket in it: it has %d octets, at most %d may be",
		dir, len(dir), len(dir)-over)
}

// replaceable tells whether a socket may be put at path.
func replaceable(path string) error {
	if err := SocketName(path); err != nil {
		return err
	}
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != os.ModeSocket:
		return errors.New("there is something that is not a socket")
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	switch {
	case err == nil:
		_ = conn.Close()
		return errSocketHeld
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, os.ErrNotExist):
		return nil // nobody listens (unix(7)), or it was removed meanwhile
	}
	// Such as EAGAIN: somebody does listen, and is too busy to be asked.
	return fmt.Errorf("%w, as far as can be told: %w", errSocketHeld, err)
}

var errSocketHeld = errors.New("another process listens there")

// A privateListener removes its socket when it is closed, and no other that has
// taken its place.
type privateListener struct {
	*net.UnixListener
	path string
	info os.FileInfo
}

// Close implements [net.Listener].
func (l *privateListener) Close() error {
	var err error
	if info, gone := os.Lstat(l.path); gone == nil && os.SameFile(info, l.info) {
		err = os.Remove(l.path)
	}
	return errors.Join(err, l.UnixListener.Close())
}

// Addr implements [net.Listener].
func (l *privateListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

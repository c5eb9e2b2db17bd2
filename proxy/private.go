package proxy

import (
	"errors"
	"net"
	"os"
	"path/filepath"
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
	dir, err := os.MkdirTemp(filepath.Dir(path), ".slipstream-") // mode 0700
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

// replaceable tells whether a socket may be put at path.
func replaceable(path string) error {
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
	if err == nil {
		_ = conn.Close()
		return errSocketHeld
	}
	return nil
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

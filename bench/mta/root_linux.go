package mta

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// rootScript builds the overlay root and becomes its first process. It runs in fresh mount and process namespaces.
//
// The package's files are copied onto the upper layer, since the kernel refuses a lower layer that lies inside another.
// Arguments: working directory, tree of the peer, tree of generated files to lay on top.
const rootScript = `set -e
dir=$1 peer=$2 top=$3
mount --make-rprivate /
mount -t tmpfs -o mode=755,size=1g slipstream "$dir/root"
cd "$dir/root"
mkdir upper work merged
cp -a "$peer/." upper
cp -a "$top/." upper
mkdir upper` + inside + `
mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work slipstream merged
mount -t proc proc merged/proc
mount --rbind /dev merged/dev
mount --bind "$dir/data" merged` + inside + `
touch "$dir/built"
exec chroot merged /bin/sh ` + inside + `/init
`

// root is a running overlay root, known by its first process: when that ends, the kernel ends all others in it.
type root struct {
	cmd   *exec.Cmd
	stdin io.Closer     // closed: please stop
	done  chan struct{} // closed: every process has ended
	dir   string
	once  sync.Once
}

// privileged says what this program lacks to build a root.
func privileged() error {
	if os.Getuid() != 0 {
		return fmt.Errorf("%w: not root", ErrUnavailable)
	}
	return nil
}

// startRoot lays peer and top over the machine's root and runs dir/data/init in it.
func startRoot(dir, peer, top string) (*root, error) {
	if err := os.MkdirAll(filepath.Join(dir, "root"), 0o755); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(filepath.Join(dir, "built")); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "console"))
	if err != nil {
		return nil, err
	}
	defer log.Close()

	cmd := exec.Command("/bin/sh", "-c", rootScript, "sh", dir, peer, top)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:    true, // a terminal's Ctrl-C is for the program; we end the instance in order
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
	}
	// The write end closes with this program, even where that is killed: the instance then ends by itself.
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w: namespaces: %w", ErrUnavailable, err)
	}
	r := &root{cmd: cmd, stdin: stdin, done: make(chan struct{}), dir: dir}
	go func() {
		defer close(r.done)
		cmd.Wait()
	}()
	return r, nil
}

// end asks the first process to stop and kills it after patience.
func (r *root) end(patience time.Duration) error {
	r.once.Do(func() {
		if patience > 0 {
			r.stdin.Close()
			timer := time.NewTimer(patience)
			defer timer.Stop()
			select {
			case <-r.done:
				return
			case <-timer.C:
			}
		}
		r.cmd.Process.Kill()
		r.stdin.Close()
	})
	<-r.done
	return nil
}

// run runs a command inside.
func (r *root) run(ctx context.Context, stdin []byte, command ...string) ([]byte, error) {
	select {
	case <-r.done:
		return nil, fmt.Errorf("the server has ended")
	default:
	}
	args := []string{"--target", strconv.Itoa(r.cmd.Process.Pid), "--mount", "--pid", "--net", "--root", "--wd", "--"}
	cmd := exec.CommandContext(ctx, "nsenter", append(args, command...)...)
	cmd.Env = r.cmd.Env
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.WaitDelay = time.Second // a command may leave a child behind that holds its output open
	out, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // the command itself has ended, and well
	}
	return out, err
}

// built says whether the root was complete, so that what failed is the server.
func (r *root) built() bool {
	_, err := os.Stat(filepath.Join(r.dir, "built"))
	return err == nil
}

// output returns what was printed while the root was built and the server started.
func (r *root) output() string {
	text, _ := os.ReadFile(filepath.Join(r.dir, "console"))
	return string(text)
}

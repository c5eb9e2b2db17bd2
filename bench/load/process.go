package load

import (
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// stopGrace is how long a process may take to end by itself.
const stopGrace = 2 * time.Second

// A process is a child of ours.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	log  *tail
}

// startProcess runs a command. What it prints is read, and its end kept.
func startProcess(command []string) (*process, error) {
	p := &process{cmd: exec.Command(command[0], command[1:]...), done: make(chan struct{}), log: &tail{}}
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr = attributes()
	p.cmd.WaitDelay = stopGrace
	started := make(chan error)
	go func() {
		// Pdeathsig is sent when the thread that forked ends, so that one stays: see prctl(2), PR_SET_PDEATHSIG.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			defer close(p.done)
			_ = p.cmd.Wait() // that it ended is all we want to know; its own words say why
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// stop ends the process: politely, and by force after a while.
func (p *process) stop() {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err == nil {
		timer := time.NewTimer(stopGrace)
		defer timer.Stop()
		select {
		case <-p.done:
			return
		case <-timer.C:
		}
	}
	_ = p.cmd.Process.Signal(os.Kill) // it may have ended
	<-p.done
}

// maxTail is how much of a process's output is kept.
const maxTail = 8 << 10

// A tail keeps the end of what was written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.buf)+len(p) > 2*maxTail {
		t.buf = append(t.buf[:0], t.buf[max(0, len(t.buf)-maxTail):]...)
	}
	t.buf = append(t.buf, p[max(0, len(p)-maxTail):]...)
	return len(p), nil
}

// String returns the end, from the start of a line if there is one.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	end := t.buf[max(0, len(t.buf)-maxTail):]
	if len(end) < len(t.buf) {
		if i := bytes.IndexByte(end, '\n'); i >= 0 {
			end = end[i+1:]
		}
	}
	return string(bytes.TrimSpace(end))
}

//go:build unix

package mta

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// toolScript runs a program until it ends or standard input does, which happens also when our own program is killed.
const toolScript = `exec 3<&0 </dev/null
"$@" 3<&- &
tool=$!
(cat <&3 >/dev/null; kill -TERM $tool) &
wait $tool
`

// Tool is a running auxiliary program, a process group of its own.
type Tool struct {
	addr  string
	cmd   *exec.Cmd
	stdin io.Closer
	log   string
	trash []string // removed at the end
	done  chan struct{}
	once  sync.Once
}

func startTool(ctx context.Context, addr string, env []string, name string, args ...string) (*Tool, error) {
	log, err := os.CreateTemp("", "slipstream-tool-")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command("/bin/sh", append([]string{"-c", toolScript, "sh", name}, args...)...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, errors.Join(err, os.Remove(log.Name()))
	}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, os.Remove(log.Name()))
	}
	t := &Tool{addr: addr, cmd: cmd, stdin: stdin, log: log.Name(), trash: []string{log.Name()}, done: make(chan struct{})}
	go func() {
		defer close(t.done)
		cmd.Wait()
	}()
	if err := waitListening(ctx, addr, t.done); err != nil {
		err = fmt.Errorf("mta: %s on %s: %w\n%s", name, addr, err, t.Output())
		return nil, errors.Join(err, t.Stop())
	}
	return t, nil
}

// Addr returns the address it listens on.
func (t *Tool) Addr() string { return t.addr }

// Output returns what it has printed so far.
func (t *Tool) Output() string {
	text, _ := os.ReadFile(t.log)
	return string(text)
}

// Stop ends it: politely, and after a second by SIGKILL to its process group.
func (t *Tool) Stop() error {
	var err error
	t.once.Do(func() {
		t.stdin.Close()
		timer := time.NewTimer(time.Second)
		defer timer.Stop()
		select {
		case <-t.done:
		case <-timer.C:
			syscall.Kill(-t.cmd.Process.Pid, syscall.SIGKILL)
			<-t.done
		}
		for _, name := range t.trash {
			err = errors.Join(err, os.RemoveAll(name))
		}
	})
	return err
}

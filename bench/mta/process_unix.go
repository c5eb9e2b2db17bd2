//go:build unix

package mta

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// whenEnded calls f once the tool has ended.
func (t *Tool) whenEnded(f func()) {
	go func() {
		<-t.done
		f()
	}()
}

// PID returns the process id of the program itself, not of the shell that watches over it. It looks in /proc, so there
// is an error elsewhere than on Linux, and also when the program has ended.
func (t *Tool) PID() (int, error) {
	const name = 4 // behind /bin/sh -c toolScript sh
	program, err := filepath.EvalSymlinks(t.cmd.Args[name])
	if err != nil {
		return 0, err
	}
	shell := t.cmd.Process.Pid
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", shell, shell))
	if err != nil {
		return 0, fmt.Errorf("mta: %s: cannot tell its process: %w", program, err)
	}
	for _, word := range strings.Fields(string(children)) {
		if exe, err := os.Readlink("/proc/" + word + "/exe"); err == nil && exe == program {
			return strconv.Atoi(word)
		}
	}
	return 0, errors.New("mta: " + program + " does not run")
}

package badgerkv_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"
)

// childEnv names what a process is to do that a test has started from its own binary: what may end a process, or needs
// two of them.
const childEnv = "BADGERKV_CHILD"

func TestMain(m *testing.M) {
	role := os.Getenv(childEnv)
	if role == "" {
		os.Exit(m.Run())
	}
	roles := map[string]func(dir string) error{
		"hold":         childHold,
		"write":        childWrite,
		"damage":       childDamage,
		"fill":         childFill,
		"full":         childFull,
		"measure":      childMeasure,
		"measureLarge": childMeasureLarge,
		"moved":        childMoved,
		"batches":      childBatches,
	}
	if err := roles[role](os.Args[1]); err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// child returns a command that is not started yet.
func child(t testing.TB, role, dir string) (cmd *exec.Cmd, stderr *bytes.Buffer) {
	t.Helper()
	cmd = exec.Command(os.Args[0], dir)
	// With the race detector, a process sleeps for a second before it ends, unless told not to.
	cmd.Env = append(os.Environ(), childEnv+"="+role, "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	stderr = new(bytes.Buffer)
	cmd.Stderr = stderr
	return cmd, stderr
}

// run runs a child to its end, which must be a good one, without a word on standard error.
func run(t testing.TB, role, dir string) (stdout string) {
	t.Helper()
	cmd, stderr := child(t, role, dir)
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("child %s: %v\nstdout, the end of it: %s\nstderr: %s", role, err, tail(out), tail(stderr.Bytes()))
	}
	return string(out)
}

func tail(b []byte) []byte { return b[max(0, len(b)-4000):] }

// A talker is a child that is spoken to.
type talker struct {
	*exec.Cmd
	in     io.WriteCloser
	out    *bufio.Scanner
	stderr *bytes.Buffer
}

func talk(t testing.TB, role, dir string) *talker {
	t.Helper()
	cmd, stderr := child(t, role, dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return &talker{cmd, in, bufio.NewScanner(out), stderr}
}

// line reads a line that the child wrote.
func (c *talker) line(t testing.TB) string {
	t.Helper()
	if !c.out.Scan() {
		t.Fatalf("the child says no more: %v; stderr: %s", c.out.Err(), tail(c.stderr.Bytes()))
	}
	return c.out.Text()
}

// childHold keeps a directory open until its standard input ends.
func childHold(dir string) error {
	kv, err := openChild(dir)
	if err != nil {
		return err
	}
	fmt.Println("open")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	return kv.Close()
}

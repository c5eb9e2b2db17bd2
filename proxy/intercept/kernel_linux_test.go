package intercept

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// enter moves the calling goroutine into a network of its own, where rules may be changed.
func enter(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and the namespace with it
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skip("no network namespace of our own: ", err)
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Skipf("no ip(8) that works here: %v: %s", err, out)
	}
}

// kernelRunner runs the real programs; nft is that of .peers, unless the machine has one.
func kernelRunner(t *testing.T) Runner {
	t.Helper()
	nft, libs := "nft", ""
	if _, err := exec.LookPath("nft"); err != nil {
		tree, err := filepath.Abs("../../.peers/nft")
		if err != nil {
			t.Fatal(err)
		}
		nft = filepath.Join(tree, "usr/sbin/nft")
		if _, err := os.Stat(nft); err != nil {
			t.Skip("needs nft: make peers lays it out: ", err)
		}
		dirs, _ := filepath.Glob(filepath.Join(tree, "usr/lib/*-linux-*"))
		libs = strings.Join(dirs, ":")
	}
	return func(ctx context.Context, stdin string, argv ...string) (string, error) {
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		if argv[0] == "nft" {
			cmd = exec.CommandContext(ctx, nft, argv[1:]...)
			cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+libs)
		}
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
}

// state is all that rules can change.
func state(t *testing.T, run Runner) string {
	t.Helper()
	var b strings.Builder
	for _, line := range []string{
		"nft list ruleset", "ip -4 rule show", "ip -6 rule show", "ip -4 route show table all", "ip -6 route show table all",
	} {
		out, err := run(t.Context(), "", strings.Fields(line)...)
		if err != nil && !strings.Contains(out, "FIB table does not exist") {
			t.Fatalf("%s: %v: %s", line, err, out)
		}
		b.WriteString(line + "\n" + out)
	}
	return b.String()
}

// Every plan is taken by the kernel, may be applied twice and over another, and leaves nothing behind.
func TestKernel(t *testing.T) {
	run := kernelRunner(t)
	enter(t)
	nothing := state(t, run)
	silent := func(string) {}
	for name, p := range plans() { // no subtests: each would run on another thread, outside
		once := ""
		wantForce(t, name+", nothing there", p, run, None)
		for range 2 {
			if err := p.Apply(t.Context(), run, silent); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			now := state(t, run)
			if once != "" && now != once {
				t.Errorf("%s: applied again it is another state:\n%s\nwas\n%s", name, now, once)
			}
			once = now
		}
		if once == nothing {
			t.Errorf("%s: nothing was applied", name)
		}
		wantForce(t, name, p, run, Whole)
		other := plans()["all"]
		other.IPv6 = p.IPv6 // a machine does not lose it meanwhile
		if err := other.Apply(t.Context(), run, silent); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if name != "all" {
			wantForce(t, name+", another there", p, run, Other)
		}
		if err := p.Apply(t.Context(), run, silent); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if p.marks() {
			if _, err := run(t.Context(), "", "ip", "-4", "rule", "del", "pref", "2525"); err != nil {
				t.Fatal(err)
			}
			wantForce(t, name+" without its rule for marks", p, run, Other)
			if err := p.Apply(t.Context(), run, silent); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if now := state(t, run); now != once {
			t.Errorf("%s: applied over another it is another state:\n%s\nwas\n%s", name, now, once)
		}
		for range 2 {
			if err := (Plan{IPv6: true}).Remove(t.Context(), run, silent); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if now := state(t, run); now != nothing {
				t.Errorf("%s: removal left something behind:\n%s\nwas\n%s", name, now, nothing)
			}
		}
	}
}

func wantForce(t *testing.T, name string, p Plan, run Runner, want Force) {
	t.Helper()
	if got, err := p.Force(t.Context(), run); got != want || err != nil {
		t.Errorf("%s: in force is %v (%v), want %v", name, got, err, want)
	}
}

// The printed script does the same as Apply.
func TestKernelScript(t *testing.T) {
	run := kernelRunner(t)
	enter(t)
	dir := t.TempDir()
	for name, p := range plans() {
		if err := p.Apply(t.Context(), run, func(string) {}); err != nil {
			t.Fatal(err)
		}
		want := state(t, run)
		if err := (Plan{IPv6: true}).Remove(t.Context(), run, func(string) {}); err != nil {
			t.Fatal(err)
		}
		script := printed(t, p)
		file := filepath.Join(dir, name+".sh")
		for range 2 {
			// nft may be one that needs its own libraries: the script is told where.
			wrapped := strings.Replace(script, "set -e\n", "set -e\n"+nftFunction(t), 1)
			if err := os.WriteFile(file, []byte(wrapped), 0o700); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command("sh", file).CombinedOutput(); err != nil {
				t.Fatalf("%s: %v: %s", name, err, out)
			}
			if got := state(t, run); got != want {
				t.Errorf("%s: the script made\n%s\nwant\n%s", name, got, want)
			}
		}
		if err := (Plan{IPv6: true}).Remove(t.Context(), run, func(string) {}); err != nil {
			t.Fatal(err)
		}
	}
}

func nftFunction(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("nft"); err == nil {
		return ""
	}
	tree, err := filepath.Abs("../../.peers/nft")
	if err != nil {
		t.Fatal(err)
	}
	dirs, _ := filepath.Glob(filepath.Join(tree, "usr/lib/*-linux-*"))
	return "nft() { LD_LIBRARY_PATH=" + strings.Join(dirs, ":") + " " + filepath.Join(tree, "usr/sbin/nft") + " \"$@\"; }\n"
}

// Without privilege, the kernel's own refusal becomes a message to act on.
func TestKernelWithoutPrivilege(t *testing.T) {
	run := kernelRunner(t)
	enter(t)
	if err := dropNetAdmin(); err != nil {
		t.Skip("cannot give up CAP_NET_ADMIN: ", err)
	}
	for _, name := range []string{"redirect", "tproxy", "here"} {
		err := plans()[name].Apply(t.Context(), run, func(string) {})
		if !errors.Is(err, ErrNoPrivilege) || !strings.Contains(err.Error(), "run this as root") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// dropNetAdmin takes CAP_NET_ADMIN from the calling thread, and from what it runs.
func dropNetAdmin() error {
	if err := unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_NET_ADMIN, 0, 0, 0); err != nil {
		return err
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	data[0].Effective &^= 1 << unix.CAP_NET_ADMIN
	data[0].Permitted &^= 1 << unix.CAP_NET_ADMIN
	data[0].Inheritable &^= 1 << unix.CAP_NET_ADMIN
	return unix.Capset(&header, &data[0])
}

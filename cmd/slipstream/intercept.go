package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"slipstream/proxy"
	"slipstream/proxy/intercept"
)

// interceptCmd is about the kernel's rules that bring other programs' connections to our doors.
type interceptCmd struct {
	Print  interceptPrintCmd  `cmd:"" help:"Print the rules for the configuration, as a script. It takes no privilege."`
	Apply  interceptApplyCmd  `cmd:"" help:"Put the rules into force, instead of those that were there."`
	Remove interceptRemoveCmd `cmd:"" help:"Take all rules away."`
}

// Help tells what the one line does not.
func (*interceptCmd) Help() string {
	return `The rules are for doors with route = "original", transparent = true or client_address = "spoof". They are one
table of nftables (inet slipstream), rules of policy routing at the priorities 2525 and 2526, and the routing table
2525; nothing else is touched. What runs as the user of the service is never intercepted, or its own connections would
come back to it.

"apply" does what "print" prints. Both it and "remove" can be run again and again. They need CAP_NET_ADMIN and the
programs nft and ip. Nothing survives a reboot, so the unit of the service is a good place for them:

    ExecStartPre=+slipstream intercept apply
    ExecStopPost=+slipstream intercept remove

Without the second line, outbound connections that the rules take are refused while the service is down, and the MTA
tries again; with it, its mail goes directly, as it would without us. Where no door of the configuration is
intercepted, "apply" does what "remove" does.

Exit codes: 0 done, 1 not done, 64 wrong command line, 78 wrong configuration.`
}

// userFlag is who the service runs as.
type userFlag struct {
	User string `default:"slipstream" placeholder:"NAME" help:"User that the service runs as (${default})."`
}

// lookUp finds the user's number.
func (f userFlag) lookUp() (uint32, error) {
	id := f.User
	if u, err := user.Lookup(f.User); err == nil {
		id = u.Uid
	}
	n, err := strconv.ParseUint(id, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("there is no user %q here: name the one that the service runs as with --user", f.User)
	}
	return uint32(n), nil
}

type interceptPrintCmd struct {
	configFlag
	userFlag
}

// Run prints the rules.
func (c *interceptPrintCmd) Run(con console) error {
	p, err := planFor(c.Config, c.userFlag)
	if err != nil {
		return err
	}
	if p.IsEmpty() {
		return fmt.Errorf("no door of %s is intercepted: that is for route = \"original\", transparent = true "+
			"and client_address = \"spoof\"; what was applied before goes with \"slipstream intercept remove\"", c.Config)
	}
	warnAboutRoot(con.err, p)
	return p.Print(con.out,
		"Brings connections to the doors of "+c.Config+".",
		`"slipstream intercept apply" does the same, and "slipstream intercept remove" takes it all away.`)
}

type interceptApplyCmd struct {
	configFlag
	userFlag
}

// Run puts the rules into force.
func (c *interceptApplyCmd) Run(con console) error {
	p, err := planFor(c.Config, c.userFlag)
	if err != nil {
		return err
	}
	if p.IsEmpty() {
		fmt.Fprintf(con.out, "no door of %s is intercepted: all rules are taken away\n", c.Config)
		return (&interceptRemoveCmd{}).Run(con)
	}
	warnAboutRoot(con.err, p)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return p.Apply(ctx, runProgram, func(line string) { fmt.Fprintln(con.out, line) })
}

type interceptRemoveCmd struct{}

// Run takes the rules away, whatever configuration they are of.
func (*interceptRemoveCmd) Run(con console) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return intercept.Plan{IPv6: intercept.HasIPv6()}.Remove(ctx, runProgram, func(line string) { fmt.Fprintln(con.out, line) })
}

// planFor makes the rules of a configuration file. They are empty where no door is intercepted.
func planFor(file string, who userFlag) (intercept.Plan, error) {
	cfg, err := proxy.LoadConfig(file)
	if err != nil {
		return intercept.Plan{}, &exitError{exitConfig, err}
	}
	p := proxy.Interception(cfg)
	if p.IsEmpty() {
		return p, nil
	}
	p.User, p.IPv6 = who.User, intercept.HasIPv6()
	if p.NeedsUser() {
		if p.UID, err = who.lookUp(); err != nil {
			return p, err
		}
	}
	return p, p.Check()
}

// warnAboutRoot says what is not intercepted where the service runs as root.
func warnAboutRoot(w io.Writer, p intercept.Plan) {
	if p.NeedsUser() && p.UID == 0 {
		fmt.Fprintln(w, "slipstream: the service runs as root, so nothing of root's is intercepted, which may be "+
			"the MTA's mail; give the service a user of its own")
	}
}

// programWait bounds how long one program may take.
const programWait = 30 * time.Second

// runProgram runs nft or ip, also where PATH lacks the directories of the administrator's programs.
func runProgram(ctx context.Context, stdin string, argv ...string) (string, error) {
	name, err := findProgram(argv[0])
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, programWait)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, argv[1:]...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func findProgram(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if found, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return found, nil
		}
	}
	return "", err
}

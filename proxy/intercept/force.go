package intercept

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
)

// Force is what is in force of a plan.
type Force int

// The zero Force is None.
const (
	None  Force = iota // there are no rules of ours
	Other              // there are some, but not these, or not all of these
	Whole
)

// HasIPv6 tells whether this machine has IPv6 at all.
func HasIPv6() bool {
	ln, err := net.Listen("tcp6", "[::1]:0")
	if err == nil {
		_ = ln.Close()
		return true
	}
	return !errors.Is(err, syscall.EAFNOSUPPORT) && !errors.Is(err, syscall.EADDRNOTAVAIL)
}

// name is that of an empty chain, by which the rules in force are known again. Who we are and whether the machine
// has IPv6 are not in it: a configuration does not tell.
func (p Plan) name() string {
	p.UID, p.User, p.IPv6 = 0, "", true
	text := p.table()
	for _, s := range p.routes() {
		text += strings.Join(s.argv, " ") + "\n"
	}
	return fmt.Sprintf("plan-%.8x", sha256.Sum256([]byte(text)))
}

// Force asks what is in force of the plan, whoever the service runs as. Its errors are [ErrNoProgram],
// [ErrNoPrivilege] and those of ctx.
func (p Plan) Force(ctx context.Context, run Runner) (Force, error) {
	ask := step{argv: []string{"nft", "list", "table", "inet", TableName}}
	out, err := run(ctx, "", ask.argv...)
	if err != nil {
		return None, onlyUntold(ctx, ask.explain(out, err))
	}
	if !strings.Contains(out, "chain "+p.name()+" ") {
		return Other, nil
	}
	if !p.marks() && len(p.spoofed(onLoopback)) == 0 {
		return Whole, nil
	}
	for _, f := range p.families() {
		whole, err := p.routed(ctx, run, f)
		if err != nil || !whole {
			return Other, err
		}
	}
	return Whole, nil
}

// onlyUntold keeps an error that means that it cannot be told what there is.
func onlyUntold(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, ErrNoProgram) || errors.Is(err, ErrNoPrivilege):
		return err
	}
	return nil
}

// routed asks for the rules of policy routing and the table.
func (p Plan) routed(ctx context.Context, run Runner, f family) (bool, error) {
	ip := f.ip()
	rules := step{argv: ip("rule", "show")}
	out, err := run(ctx, "", rules.argv...)
	if err != nil {
		return false, onlyUntold(ctx, rules.explain(out, err))
	}
	var wanted [][]string
	if p.marks() {
		wanted = append(wanted, []string{fmt.Sprintf("%d:", rulePriority), fmt.Sprintf(" fwmark %#x ", Mark)})
	}
	for _, b := range p.spoofed(onLoopback) {
		if f.of(b.Addr()) {
			wanted = append(wanted, []string{fmt.Sprintf("%d:", answerPriority), " from " + b.Addr().String() + " ",
				fmt.Sprintf(" sport %d ", b.Port())})
		}
	}
	for _, words := range wanted {
		if !anyLineHas(out, append(words, fmt.Sprintf(" lookup %d ", RouteTable))) {
			return false, nil
		}
	}
	out, err = run(ctx, "", ip("route", "show", "table", RouteTable)...)
	return err == nil && strings.Contains(out, "local default"), nil
}

// anyLineHas reports whether a line has all of the words.
func anyLineHas(out string, words []string) bool {
	for line := range strings.Lines(out) {
		line = " " + strings.Join(strings.Fields(line), " ") + " "
		all := true
		for _, w := range words {
			all = all && strings.Contains(line, w)
		}
		if all {
			return true
		}
	}
	return false
}

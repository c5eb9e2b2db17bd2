package intercept

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// A Runner runs a program with an input, and returns all that it printed. Where there is no such program the error is
// [exec.ErrNotFound].
type Runner func(ctx context.Context, stdin string, argv ...string) (output string, err error)

// maxCleared bounds how many things of one kind are taken away.
const maxCleared = 1000

// Apply puts the plan into force, instead of what was there of ours. It reports what it did, a line each. On an
// error the rules of before may be gone in part, and Apply or [Plan.Remove] can be run again.
func (p Plan) Apply(ctx context.Context, run Runner, report func(string)) error {
	if err := p.Check(); err != nil {
		return err
	}
	for _, s := range p.steps() {
		if _, err := s.run(ctx, run); err != nil {
			return err
		}
		if !s.clears {
			report("done: " + s.title())
		}
	}
	return nil
}

// Remove takes away all that any plan has put there.
func (p Plan) Remove(ctx context.Context, run Runner, report func(string)) error {
	for _, s := range p.removal() {
		n, err := s.run(ctx, run)
		switch {
		case err != nil:
			return err
		case !s.clears:
			report("done: " + s.title())
		case n > 0:
			report(fmt.Sprintf("done: %s (%d)", s.title(), n))
		}
	}
	return nil
}

// title is the step in a line.
func (s step) title() string {
	if s.stdin == "" {
		return strings.Join(s.argv, " ")
	}
	if strings.Contains(s.stdin, "{") {
		return "nft: table inet " + TableName + " is in force"
	}
	return "nft: table inet " + TableName + " is gone"
}

// run runs a step, and tells how often it was of use.
func (s step) run(ctx context.Context, run Runner) (times int, err error) {
	if s.unless != nil {
		out, err := run(ctx, "", s.unless...)
		if err == nil && strings.TrimSpace(out) != "" {
			return 0, nil
		}
	}
	for range maxCleared {
		out, err := run(ctx, s.stdin, s.argv...)
		switch {
		case ctx.Err() != nil:
			return times, context.Cause(ctx)
		case err != nil && s.clears && isAbsent(out):
			return times, nil
		case err != nil:
			return times, s.explain(out, err)
		}
		if times++; !s.clears {
			break
		}
	}
	return times, nil
}

// isAbsent reports whether ip(8) had nothing to take away: there is no such rule, route or table.
func isAbsent(out string) bool {
	for _, words := range []string{"No such file or directory", "No such process", "FIB table does not exist"} {
		if strings.Contains(out, words) {
			return true
		}
	}
	return false
}

// Errors that say what a machine lacks.
var (
	ErrNoProgram   = errors.New("a program is missing")
	ErrNoPrivilege = errors.New("a privilege is missing")
	ErrNoKernel    = errors.New("the kernel lacks a part")
)

// packageOf is where distributions keep a program.
func packageOf(program string) string {
	if program == "nft" {
		return "nftables"
	}
	return "iproute2"
}

// explain says what to do about a step that failed.
func (s step) explain(out string, err error) error {
	program := s.argv[0]
	said := firstLine(out)
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("%w: %s is not here; install it (the package %s)", ErrNoProgram, program, packageOf(program))
	case strings.Contains(out, "Operation not permitted") || strings.Contains(out, "you must be root"):
		return fmt.Errorf("%w: %s may not change the network (%s); it takes CAP_NET_ADMIN: run this as root",
			ErrNoPrivilege, program, said)
	}
	where := out
	if program == "ip" {
		where = strings.Join(s.argv, " ")
	}
	if part, ok := missingPart(program, where, out); ok {
		return fmt.Errorf("%w: %s says %q; %s", ErrNoKernel, program, said, part)
	}
	return fmt.Errorf("%s: %w: %s", strings.Join(s.argv, " "), err, said)
}

// unknown are the words for what a kernel does not have.
var unknown = []string{
	"No such file or directory", "Operation not supported", "Protocol not supported", "not supported by protocol",
	"Address family not supported", "Invalid argument",
}

// parts are what a kernel may have been built without, by the word of ours that needs it. The ones that ask for
// most come first, since one line may have several.
var parts = []struct{ program, word, part string }{
	{"nft", "tproxy", "it has no TPROXY (CONFIG_NFT_TPROXY, the module nft_tproxy)"},
	{"nft", "socket", "it cannot match sockets (CONFIG_NFT_SOCKET, the module nft_socket)"},
	{"nft", "redirect", "it cannot redirect (CONFIG_NFT_REDIR, CONFIG_NFT_NAT, the modules nft_redir and nft_chain_nat)"},
	{"nft", "dnat", "it cannot redirect (CONFIG_NFT_NAT, the modules nft_nat and nft_chain_nat)"},
	{"nft", "reject", "it cannot refuse packets (CONFIG_NFT_REJECT_INET, the module nft_reject_inet)"},
	{"nft", "fib", "it cannot look up routes in rules (CONFIG_NFT_FIB_INET, the module nft_fib_inet)"},
	{"nft", "ct ", "it does not track connections (CONFIG_NFT_CT, the module nft_ct)"},
	{"nft", "type nat", "it cannot translate addresses for the family inet (Linux 5.2, the module nft_chain_nat)"},
	{"nft", "table", "it has no nftables (CONFIG_NF_TABLES_INET, the module nf_tables)"},
	{"ip", "rule", "it has no policy routing, or not by port (Linux 4.17, CONFIG_IP_MULTIPLE_TABLES, also for IPv6)"},
	{"ip", "route", "it has no tables for policy routing (CONFIG_IP_MULTIPLE_TABLES, also for IPv6)"},
}

// missingPart finds what the kernel does not have, by the words of what it could not carry out: nft shows that line.
func missingPart(program, where, out string) (string, bool) {
	found := false
	for _, words := range unknown {
		found = found || strings.Contains(out, words)
	}
	if !found || strings.Contains(out, "syntax error") {
		return "", false
	}
	for _, p := range parts {
		if p.program == program && strings.Contains(where, p.word) {
			return p.part, true
		}
	}
	return "", false
}

// maxSaid bounds what is repeated of a program's words.
const maxSaid = 200

func firstLine(out string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(out), "\n")
	return line[:min(len(line), maxSaid)]
}

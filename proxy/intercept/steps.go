package intercept

import (
	"fmt"
	"io"
	"net/netip"
	"strings"
)

// A step is one program that is run.
type step struct {
	why   string // for people; "" where it belongs to the one before
	argv  []string
	stdin string
	// clears: it takes away one thing of ours, and is run until it fails, since then there is nothing left.
	clears bool
	// unless tells, by printing anything, that the step was done before.
	unless []string
}

// steps put the plan into force. They can be run again at any time: the rule about marks and the routing table, if
// they stay, are not taken away even for a moment, and the table of nftables is exchanged in one. The rules about
// answers are put there anew: what a backend on loopback answers meanwhile is lost, and TCP sends it again.
func (p Plan) steps() []step {
	marks := p.marks()
	stays := marks || len(p.spoofed(onLoopback)) > 0
	var steps []step
	why := "What is of no use any more"
	for _, f := range p.families() {
		for _, s := range f.clear(!marks, !stays) {
			s.why, why = why, ""
			steps = append(steps, s)
		}
	}
	if stays {
		steps = append(steps, p.routes()...)
	}
	return append(steps, step{
		why:   "The rules, all in one moment instead of those that were there",
		argv:  []string{"nft", "-f", "-"},
		stdin: p.script(),
	})
}

// removal takes away all that steps of any plan may have put there.
func (p Plan) removal() []step {
	steps := []step{{
		why:   "The rules, whether they are there or not",
		argv:  []string{"nft", "-f", "-"},
		stdin: noTable(),
	}}
	for _, f := range p.families() {
		steps = append(steps, f.clear(true, true)...)
	}
	return steps
}

// clear takes away our rules of policy routing about answers and, if wanted, the one about marks and our routing table.
func (f family) clear(marks, table bool) []step {
	ip := f.ip()
	steps := []step{{argv: ip("rule", "del", "pref", answerPriority, "lookup", RouteTable), clears: true}}
	if marks {
		steps = append(steps, step{argv: ip("rule", "del", "pref", rulePriority, "lookup", RouteTable), clears: true})
	}
	if table {
		del := ip("route", "del", "local", "default", "dev", "lo", "table", RouteTable)
		steps = append(steps, step{argv: del, clears: true})
	}
	return steps
}

// routes keep marked packets on this machine, and what a backend on loopback answers to addresses of the world:
// such answers would find no way out, whatever is done to them afterwards.
func (p Plan) routes() []step {
	var steps []step
	why := "Packets that are for our sockets though their address is another machine's stay here"
	for _, f := range p.families() {
		ip := f.ip()
		put := ip("route", "replace", "local", "default", "dev", "lo", "table", RouteTable)
		steps = append(steps, step{why: why, argv: put})
		why = ""
		if p.marks() {
			steps = append(steps, step{
				argv:   ip("rule", "add", "pref", rulePriority, "fwmark", fmt.Sprintf("%#x", Mark), "lookup", RouteTable),
				unless: ip("rule", "show", "pref", rulePriority, "lookup", RouteTable),
			})
		}
		for _, b := range p.spoofed(onLoopback) {
			if f.of(b.Addr()) {
				steps = append(steps, step{
					why: fmt.Sprintf("What the backend of door %s answers to the world's addresses comes back to us", b.door),
					argv: ip("rule", "add", "pref", answerPriority, "from", b.Addr(), "iif", "lo", "ipproto", "tcp", "sport", b.Port(),
						"lookup", RouteTable),
				})
			}
		}
	}
	return steps
}

// marks reports whether packets are marked.
func (p Plan) marks() bool {
	for _, c := range p.chains() {
		if c.hook != hookRedirect && len(c.rules) > 0 {
			return true
		}
	}
	return false
}

func onLoopback(b netip.AddrPort) bool { return b.Addr().IsLoopback() }

// ip makes command lines of ip(8) for a family.
func (f family) ip() func(words ...any) []string {
	return func(words ...any) []string {
		argv := []string{"ip", fmt.Sprintf("-%d", f)}
		for _, w := range words {
			argv = append(argv, fmt.Sprint(w))
		}
		return argv
	}
}

// Print writes the steps as a script for sh(1), head as a comment on top of it. Its errors are those of [Plan.Check] too.
func (p Plan) Print(w io.Writer, head ...string) error {
	if err := p.Check(); err != nil {
		return err
	}
	var b strings.Builder
	b.WriteString("#!/bin/sh\n")
	for _, line := range head {
		b.WriteString(strings.TrimRight("# "+line, " ") + "\n")
	}
	b.WriteString("set -e\n")
	for _, s := range p.steps() {
		s.print(&b)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (s step) print(b *strings.Builder) {
	if s.why != "" {
		fmt.Fprintf(b, "\n# %s.\n", s.why)
	}
	line := strings.Join(s.argv, " ") // no word of ours needs quotes
	switch {
	case s.clears:
		fmt.Fprintf(b, "while %s 2>/dev/null; do :; done\n", line)
	case s.unless != nil:
		fmt.Fprintf(b, "[ -n \"$(%s)\" ] || %s\n", strings.Join(s.unless, " "), line)
	case s.stdin != "":
		fmt.Fprintf(b, "%s <<'END'\n%sEND\n", line, s.stdin)
	default:
		b.WriteString(line + "\n")
	}
}

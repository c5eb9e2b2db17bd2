package intercept

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// script is the table of nftables, as one transaction: what was there before is gone in the moment when this is in
// force.
func (p Plan) script() string {
	return noTable() + fmt.Sprintf("table inet %s {\n\t# which rules these are\n\tchain %s {\n\t}\n%s}\n",
		TableName, p.name(), p.table())
}

// table is what is in the table but for its name. It is empty where routing does it alone.
func (p Plan) table() string {
	var b strings.Builder
	for _, c := range p.chains() {
		if len(c.rules) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n\tchain %s {\n\t\ttype %s; policy accept;\n", c.name, c.hook)
		for _, rule := range append(c.first, c.rules...) {
			fmt.Fprintf(&b, "\t\t%s\n", rule)
		}
		b.WriteString("\t}\n")
	}
	return b.String()
}

// noTable takes the table away, whether it is there or not.
func noTable() string {
	return fmt.Sprintf("add table inet %[1]s\ndelete table inet %[1]s\n", TableName)
}

// A chain is some rules at one place on the way of packets.
type chain struct {
	name, hook string
	first      []string // what is left alone, or is ours already
	rules      []string // none: there is no need of the chain
}

const (
	hookRedirect   = "nat hook output priority -100" // dstnat, which has no name here
	hookPrerouting = "filter hook prerouting priority mangle"
	hookReroute    = "route hook output priority mangle"
	hookForward    = "filter hook forward priority filter"
)

func (p Plan) chains() []chain {
	mark := fmt.Sprintf("meta mark set %#x", Mark)
	own := fmt.Sprintf("# what Slipstream sends itself (user %s)", p.User)
	return []chain{
		{"outbound-redirect", hookRedirect, []string{
			own,
			fmt.Sprintf("meta skuid %d return", p.UID),
			"# what stays on this machine",
			`oifname "lo" return`,
		}, p.redirects()},
		{"outbound-tproxy", hookPrerouting, append([]string{
			"# what this machine sends to itself, or is for this machine",
			`iifname "lo" return`,
			"fib daddr type local return",
		}, p.fronted()...), p.tproxies(mark)},
		{"outbound-unheard", hookForward, nil, p.unheard()},
		{"inbound-front", hookPrerouting, []string{
			"# what this machine sends to itself: the MTA's own mail, and what Slipstream passes on to it",
			`iifname "lo" return`,
		}, p.fronts(mark)},
		{"inbound-answers", hookPrerouting, nil, p.answersBehind(mark)},
		{"inbound-answers-here", hookReroute, nil, p.answersHere(mark)},
	}
}

// redirects bring this machine's connections to us.
func (p Plan) redirects() (rules []string) {
	for _, o := range p.Outbound {
		for _, f := range p.families() {
			to, ok := f.target(o.Listen)
			networks := f.daddr(o.Networks)
			switch {
			case o.TProxy || networks == "":
			case !ok:
				rules = append(rules, notListening(o.Door, f))
			default:
				rules = append(rules, "# door "+o.Door, fmt.Sprintf("%s tcp dport %d %s", networks, o.Port, f.redirect(to)))
			}
		}
	}
	return rules
}

// redirect is the statement that changes where a packet of this machine goes. Redirected ones go to loopback.
func (f family) redirect(to netip.AddrPort) string {
	own := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if f == v6 {
		own = netip.IPv6Loopback()
	}
	if to.Addr().IsUnspecified() || to.Addr() == own {
		return fmt.Sprintf("redirect to :%d", to.Port())
	}
	return fmt.Sprintf("dnat %s to %s", f.word(), to)
}

func notListening(door string, f family) string {
	return fmt.Sprintf("# door %s has no address of IPv%d in listen: connections over that pass by", door, f)
}

// tproxies bring to us the connections of machines that we are the router of.
func (p Plan) tproxies(mark string) (rules []string) {
	for _, o := range p.Outbound {
		for _, f := range p.families() {
			to, ok := f.target(o.Listen)
			which := f.between(o.Clients, o.Networks)
			switch {
			case !o.TProxy || which == "":
			case !ok:
				rules = append(rules, notListening(o.Door, f))
			default:
				which = fmt.Sprintf("%s tcp dport %d", which, o.Port)
				rules = append(rules, "# door "+o.Door, fmt.Sprintf("%s %s %s accept", which, f.tproxy(to), mark),
					// The rule above ends where it finds no socket.
					fmt.Sprintf("%s meta mark set %#x accept", which, Unheard))
			}
		}
	}
	return rules
}

// unheard refuses what nobody listens for, lest it goes to the world without us. That is done where packets are
// forwarded: before their way is known, kernels below 5.9 cannot.
func (p Plan) unheard() []string {
	word := fmt.Sprintf("meta mark set %#x", Unheard)
	if !slices.ContainsFunc(p.tproxies(""), func(rule string) bool { return strings.Contains(rule, word) }) {
		return nil
	}
	return []string{
		"# nobody listens at the door: it is not sent on in clear",
		fmt.Sprintf("meta mark %#x meta l4proto tcp reject with tcp reset", Unheard),
	}
}

// fronted leaves alone what is for an MTA that a door of ours stands in front of: it comes in there.
func (p Plan) fronted() (rules []string) {
	for _, in := range p.Inbound {
		for _, front := range in.Fronts {
			for _, b := range in.Backends {
				if a := b.Addr(); p.isRouted(a) {
					rules = append(rules, "# door "+in.Door+" is for this",
						fmt.Sprintf("%s daddr %s tcp dport %d return", familyOf(a).word(), a, front.Port))
				}
			}
		}
	}
	return rules
}

// isRouted reports whether packets to a backend pass through this machine.
func (p Plan) isRouted(a netip.Addr) bool {
	return a.IsValid() && !a.IsLoopback() && !a.IsUnspecified() && (p.IPv6 || a.Is4())
}

// tproxy is the statement that finds the socket for a packet.
func (f family) tproxy(to netip.AddrPort) string {
	if to.Addr().IsUnspecified() {
		return fmt.Sprintf("tproxy %s to :%d", f.word(), to.Port())
	}
	return fmt.Sprintf("tproxy %s to %s", f.word(), to)
}

// fronts bring the world's connections to the MTA to us: those to this machine, and to a backend that we are the
// router of.
func (p Plan) fronts(mark string) (rules []string) {
	for _, in := range p.Inbound {
		for _, front := range in.Fronts {
			for _, f := range p.families() {
				to, ok := f.target(front.Listen)
				if !ok {
					rules = append(rules, notListening(in.Door, f))
					continue
				}
				rest := fmt.Sprintf("tcp dport %d %s %s accept", front.Port, f.tproxy(to), mark)
				rules = append(rules, "# door "+in.Door, f.all()+" fib daddr type local "+rest)
				for _, b := range in.Backends {
					if a := b.Addr(); p.isRouted(a) && f.of(a) {
						rules = append(rules, fmt.Sprintf("%s daddr %s %s", f.word(), a, rest))
					}
				}
			}
		}
	}
	return rules
}

// elsewhere are the backends that are not on loopback.
func elsewhere(b netip.AddrPort) bool { return !b.Addr().IsLoopback() }

// answersBehind bring to us what a backend on another machine answers to its clients' addresses, from which we
// spoke to it.
func (p Plan) answersBehind(mark string) (rules []string) {
	for _, b := range p.spoofed(elsewhere) {
		rules = append(rules, "# door "+b.door,
			fmt.Sprintf("%stcp sport %d socket transparent 1 %s accept", b.match("saddr"), b.Port(), mark))
	}
	return rules
}

// answersHere do the same for a backend on this machine that has an address of the world: the connections that we
// open are marked, and what comes back on them is kept here. A loopback address needs none of this, see
// [Plan.steps].
func (p Plan) answersHere(mark string) (rules []string) {
	for _, b := range p.spoofed(elsewhere) {
		rules = append(rules, "# door "+b.door,
			fmt.Sprintf("meta skuid %d %stcp dport %d fib saddr type != local ct mark set %#x",
				p.UID, b.match("daddr"), b.Port(), Mark))
	}
	if len(rules) > 0 {
		rules = append(rules, fmt.Sprintf("ct mark %#x ct direction reply %s", Mark, mark))
	}
	return rules
}

// match matches the backend's address, where that is known.
func (b spoofed) match(field string) string {
	if !b.Addr().IsValid() {
		return ""
	}
	return familyOf(b.Addr()).word() + " " + field + " " + b.Addr().String() + " "
}

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return v4
	}
	return v6
}

// set writes one word alone, or several as a set.
func set(words []string) string {
	if len(words) == 1 {
		return words[0]
	}
	return "{ " + strings.Join(words, ", ") + " }"
}

package proxy

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"

	"slipstream/proxy/route"
	"slipstream/smtpwire"
)

// capability compares what the kernel lets us do with what the doors need: no
// less, and no more either.
func (c *check) capability() {
	const about = "capability"
	needed := c.cfg.privileges()
	if len(needed) == 0 {
		c.superfluous(about, needed)
		return
	}
	names, why := namesOf(needed), reasons(needed)
	var err error
	if hasPrivilege(needed, rawCapability) {
		err = canBeTransparent()
	} else if held, ok := capabilities(); !slices.Contains(held, bindCapability) && (ok || os.Geteuid() != 0) {
		c.superfluous(about, needed)
		return // where the kernel, or systemd, gives low ports away it is not needed; who tries the ports will tell
	}
	c.toldUnit = true
	switch {
	case err != nil && c.onlyListens():
		c.say(Doubtful, about, "needed: %s (%s); the process, run by %s, does not have all of it: %v; write %s in the "+
			"[Service] section of the unit, or have systemd open the ports, by a socket unit with Transparent=yes",
			names, why, accountName(), bareErrno(err), unitLines(needed))
	case err != nil:
		c.say(Failed, about, "needed: %s (%s); the process, run by %s, does not have all of it: %v; write %s in the "+
			"[Service] section of the unit", names, why, accountName(), bareErrno(err), unitLines(needed))
	case os.Geteuid() == 0:
		c.say(Fine, about, "needed: %s (%s); root has it; for another user write %s in the [Service] section of the unit",
			names, why, unitLines(needed))
	default:
		c.say(Fine, about, "needed: %s (%s); the unit needs %s and no more", names, why, unitLines(needed))
		c.superfluous(about, needed)
	}
}

// unitAdvice says what the unit has to say about capabilities, once in a check.
func (c *check) unitAdvice() string {
	if c.toldUnit {
		return "see capability"
	}
	c.toldUnit = true
	return "write " + unitLines(c.cfg.privileges()) + " in the [Service] section of the unit"
}

func hasPrivilege(needed []privilege, name string) bool {
	return slices.ContainsFunc(needed, func(p privilege) bool { return p.name == name })
}

func namesOf(needed []privilege) string {
	var names []string
	for _, p := range needed {
		names = append(names, p.name)
	}
	return strings.Join(names, " ")
}

func reasons(needed []privilege) string {
	var why []string
	for _, p := range needed {
		why = append(why, p.why...)
	}
	return strings.Join(why, ", ")
}

// bareErrno leaves out of an error of the kernel's what it advises for one
// capability alone.
func bareErrno(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// onlyListens tells whether no door comes from other people's addresses, so that
// systemd could do all that needs a privilege.
func (c *check) onlyListens() bool {
	return !slices.ContainsFunc(c.cfg.Inbound, func(d InboundConfig) bool { return d.ClientAddress == announceSpoof })
}

// superfluous finds power that no door needs. Root has it all, and is told so
// elsewhere.
func (c *check) superfluous(about string, needed []privilege) {
	held, ok := capabilities()
	if !ok || os.Geteuid() == 0 {
		return
	}
	held = slices.DeleteFunc(held, func(name string) bool {
		return hasPrivilege(needed, name) || name == bindCapability
	})
	if len(held) > 0 {
		c.say(Doubtful, about, "%s is here, and no door needs it; take it out of AmbientCapabilities in the unit",
			strings.Join(held, " "))
	}
}

// spoof finds clients that could not be passed on under their own address.
func (c *check) spoof(ctx context.Context, conf *InboundConfig, d *door) {
	if conf.ClientAddress != announceSpoof {
		return
	}
	r, err := d.router.Route(ctx, smtpwire.Path{}, smtpwire.Path{})
	if err != nil {
		return // told by who asks the backend
	}
	for _, client := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		if serves(conf, client) && !hasFamily(r, client) {
			c.say(Doubtful, "backend", "%s: clients come by %s, and %s has no such address, so they hear 451: a connection "+
				"from a client's address needs one of its family; let the backend listen by both, under a name that has both "+
				"(on this machine \"localhost\")", conf.Name, family(client), conf.Backend)
		}
	}
}

// serves tells whether a door can be reached by a family.
func serves(conf *InboundConfig, like netip.Addr) bool {
	return slices.ContainsFunc(slices.Concat(conf.Listen, conf.ListenTLS), func(s string) bool {
		a, err := parseListen(s)
		return err == nil && (a.Addr().IsUnspecified() || a.Addr().Is4() == like.Is4())
	})
}

func hasFamily(r route.Route, like netip.Addr) bool {
	return slices.ContainsFunc(r.Hosts, func(h route.Host) bool {
		return slices.ContainsFunc(h.Addrs, func(a netip.AddrPort) bool { return a.Addr().Unmap().Is4() == like.Is4() })
	})
}

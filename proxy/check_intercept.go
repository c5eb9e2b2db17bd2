package proxy

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"slipstream/proxy/intercept"
)

// intercepted looks whether the rules are there that bring connections to the doors.
func (c *check) intercepted(ctx context.Context) {
	p := Interception(c.cfg)
	const about = "intercept"
	if p.IsEmpty() {
		c.leftRules(ctx, p, about)
		return
	}
	if err := p.Check(); err != nil {
		c.say(Failed, about, "%v", err)
		return
	}
	for _, o := range p.Outbound {
		c.bothFamilies(o.Door, o.Networks, o.Listen)
	}
	redirects := slices.ContainsFunc(p.Outbound, func(o intercept.Outbound) bool { return !o.TProxy })
	if redirects && !c.tracked() {
		c.say(Failed, about, "no connection is redirected on this machine: the kernel has no rule that would do it; %s",
			applyThem)
		return
	}
	c.rules(ctx, p, about)
}

const applyThem = `as root, run "slipstream intercept apply"`

// tracked is tracksConnections, but for tests.
func (c *check) tracked() bool {
	if c.Tracks != nil {
		return c.Tracks()
	}
	return tracksConnections()
}

// bothFamilies warns where a door is not to be found in a family that its networks have.
func (c *check) bothFamilies(door string, networks []netip.Prefix, listen []netip.AddrPort) {
	for _, is4 := range []bool{true, false} {
		wanted := slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Addr().Is4() == is4 })
		found := slices.ContainsFunc(listen, func(a netip.AddrPort) bool {
			return a.Addr().IsUnspecified() || a.Addr().Is4() == is4
		})
		if !wanted || found {
			continue
		}
		family, such := "IPv6", `"[::1]:10525"`
		if is4 {
			family, such = "IPv4", `"127.0.0.1:10525"`
		}
		c.say(Doubtful, "intercept", "%s: connections over %s are not intercepted, since listen has no address of it; "+
			"add one such as %s, or leave %s out of intercept_networks", door, family, such, family)
	}
}

// rules asks whether those of the configuration are there.
func (c *check) rules(ctx context.Context, p intercept.Plan, about string) {
	if c.Run == nil {
		return
	}
	p.IPv6 = intercept.HasIPv6()
	force, err := p.Force(ctx, c.Run)
	switch {
	case errors.Is(err, intercept.ErrNoProgram):
		c.say(Doubtful, about, "whether the rules are in force cannot be told: %v", err)
	case err != nil:
		c.say(Doubtful, about, "whether the rules are in force only root can tell; if they are not, %s", applyThem)
	case force == intercept.Whole:
		c.say(Fine, about, "the rules are in force (nft list table inet %s)", intercept.TableName)
	case force == intercept.Other:
		c.say(Doubtful, about, "other rules than this configuration's are in force, or not all of them; %s", applyThem)
	default:
		c.say(Failed, about, "the rules are not in force: nobody's connections come here; %s", applyThem)
	}
}

// leftRules warns of rules that no door has any use for. Where it cannot be told, there is no reason to think so.
func (c *check) leftRules(ctx context.Context, p intercept.Plan, about string) {
	if c.Run == nil {
		return
	}
	if force, err := p.Force(ctx, c.Run); err == nil && force != intercept.None {
		c.say(Doubtful, about, "rules of another configuration are in force (nft list table inet %s), and no door is "+
			`intercepted; as root, run "slipstream intercept remove"`, intercept.TableName)
	}
}

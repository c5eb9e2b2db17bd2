package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"slipstream/proxy/route"
	"slipstream/smtpwire"
)

// A reportWay is how one kind of reports leaves.
type reportWay struct {
	kind   string
	door   *InboundConfig
	sender string // mailbox of MAIL FROM; "": the null path
	key    string // where that sender is set; "": nowhere
}

// reportWays lists how reports leave: aggregate reports are sent for all doors by the first that wants them.
func (c *check) reportWays() (ways []reportWay) {
	aggregated, toRelay := false, false
	for i := range c.cfg.Inbound {
		d := &c.cfg.Inbound[i]
		if !d.Auth.Enabled {
			continue
		}
		if d.Auth.AggregateReports && !aggregated {
			aggregated = true
			sender := cmp.Or(c.cfg.Reports.Email, postmaster(c.cfg.Hostname))
			ways = append(ways, reportWay{reportAggregate, d, sender, "reports.email"})
		}
		if d.Auth.FailureReports && !toRelay {
			toRelay = !c.cfg.Reports.Relay.IsZero() // which is the same for all doors
			ways = append(ways, reportWay{reportFailure, d, "", ""})
		}
	}
	return ways
}

// reports checks that reports can leave.
func (c *check) reports(ctx context.Context) {
	const about = "reports"
	for _, w := range c.reportWays() {
		to := c.cfg.ReportRelay(w.door).To
		if own := c.ownDoor(to); own != "" {
			c.say(Doubtful, about, "%s: %s reports would not leave: %s is our own door %q; set reports.relay to an MTA",
				w.door.Name, w.kind, to, own)
			continue
		}
		if to.LMTP {
			c.say(Doubtful, about, "%s: %s reports would not leave: %s takes mail for its own users alone; set reports.relay",
				w.door.Name, w.kind, to)
			continue
		}
		if !c.Offline {
			c.askReport(ctx, w, to)
		}
	}
}

// ownDoor names the door of ours that is at an endpoint.
func (c *check) ownDoor(to Endpoint) string {
	addr, err := netip.ParseAddr(to.Host)
	if err != nil && to.Host != "localhost" {
		return ""
	}
	if to.Host == "localhost" {
		addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	addr = addr.Unmap()
	at := func(listen []string) bool {
		return slices.ContainsFunc(listen, func(l string) bool {
			a, err := parseListen(l)
			return err == nil && a.Port() == to.Port && (a.Addr() == addr || a.Addr().IsUnspecified() && addr.IsLoopback())
		})
	}
	for _, d := range c.cfg.Inbound {
		if at(d.Listen) || at(d.ListenTLS) {
			return d.Name
		}
	}
	for _, d := range c.cfg.Outbound {
		if at(d.Listen) {
			return d.Name
		}
	}
	return ""
}

// askReport asks the MTA whether it would take a report for somebody who is none of its own. No message is sent.
func (c *check) askReport(ctx context.Context, w reportWay, to Endpoint) {
	const about = "reports"
	limit := c.cfg.Timeouts.BackendProbe
	ctx, cancel := context.WithTimeoutCause(ctx, limit, &waitError{what: "the MTA for reports", limit: limit})
	defer cancel()
	o := c.cfg.ReportRelay(w.door)
	o.Resolver, o.Dial = c.namesForHops(), c.Dial
	key := "reports.relay"
	if c.cfg.Reports.Relay.IsZero() {
		key = "backend"
	}
	m, err := NewMailer(o)
	var sender, recipient smtpwire.Reply
	if err == nil {
		sender, recipient, err = m.wouldTake(ctx, limit, w.sender, w.door.RelayProbeTo)
	}
	if err != nil {
		c.say(Doubtful, about, "%s: %s reports would not leave by %s: %v%s",
			w.door.Name, w.kind, to, err, hopAdvice(err, key, announceNone))
		return
	}
	c.judgeReport(w, to, sender, recipient)
}

// judgeReport says what an MTA's answers amount to.
func (c *check) judgeReport(w reportWay, to Endpoint, sender, recipient smtpwire.Reply) {
	const about = "reports"
	from, foreign := "<"+w.sender+">", w.door.RelayProbeTo
	no := fmt.Sprintf("%s: %s reports would not leave: %s", w.door.Name, w.kind, to)
	later := fmt.Sprintf("%s: whether %s reports would leave cannot be told: %s", w.door.Name, w.kind, to)
	remedy := "have it relay for this machine, or name another MTA in reports.relay"
	switch {
	case sender.Class() == 5 && w.key != "":
		c.say(Doubtful, about, "%s refused the sender %s (%s); set %s to an address that it takes", no, from, sender, w.key)
	case sender.Class() == 5:
		c.say(Doubtful, about, "%s refused the sender %s (%s); have it take that, or name another MTA in reports.relay",
			no, from, sender)
	case sender.Class() != 2:
		c.say(Doubtful, about, "%s put the sender %s off (%s)", later, from, sender)
	case recipient.Class() == 2:
		c.say(Fine, about, "%s: %s reports would leave by %s: it takes mail from %s to anywhere",
			w.door.Name, w.kind, to, from)
	case relayDenied(recipient):
		c.say(Doubtful, about, "%s refused the foreign recipient %s (%s); %s", no, foreign, recipient, remedy)
	case aboutDomain(recipient):
		c.say(Doubtful, about, "%s refused the foreign recipient %s for its domain (%s); set relay_probe_to to an address "+
			"at a foreign domain that takes mail", later, foreign, recipient)
	case recipient.Class() == 5:
		c.say(Doubtful, about, "%s refused the foreign recipient %s (%s); %s", no, foreign, recipient, remedy)
	default:
		c.say(Doubtful, about, "%s put the foreign recipient %s off (%s)", later, foreign, recipient)
	}
}

// namesForHops looks up the names in the configuration as the service would.
func (c *check) namesForHops() route.Resolver {
	if len(c.cfg.DNS.Servers) > 0 && c.Resolver != nil {
		return c.Resolver
	}
	return systemNames{c.Resolver}
}

// wouldTake says MAIL and RCPT as for a message and takes both back. Replies to what was not said are zero.
func (m *Mailer) wouldTake(
	ctx context.Context, limit time.Duration, from, to string,
) (sender, recipient smtpwire.Reply, err error) {
	mail, rcpt, err := envelopeOf(from, to)
	if err != nil {
		return sender, recipient, err
	}
	r, err := m.router.Route(ctx, smtpwire.Path{}, rcpt.Path)
	if err != nil {
		return sender, recipient, err
	}
	for p, err := range m.caller.peers(ctx, r, identity{}, plainly) {
		if err != nil {
			return sender, recipient, err
		}
		defer p.quit()
		defer p.follow(ctx)()
		p.end, _ = ctx.Deadline()
		err = p.do(duringEnvelope, limit, []smtpwire.Command{mail, rcpt}, func(i int, r smtpwire.Reply) {
			if i == 0 {
				sender = r
			} else {
				recipient = r
			}
		})
		if err == nil {
			_, _ = p.one(duringEnvelope, limit, smtpwire.Command{Verb: smtpwire.VerbRset}) // QUIT would do as well
		}
		return sender, recipient, err
	}
	return sender, recipient, errors.New("there is no address to connect to")
}

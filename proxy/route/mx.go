package route

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"

	"slipstream/smtpwire"
)

// MX routes by the recipient's domain, as a mail server does: https://www.rfc-editor.org/rfc/rfc5321#section-5.1
type MX struct {
	Resolver Resolver
	// Hostname is our own name. A mail exchanger of this name is ourselves.
	Hostname string
	// IsOwn reports whether we ourselves listen on the address. Nil: on none.
	IsOwn func(netip.AddrPort) bool
	// AllowAddr reports whether mail may go to an address, so that nobody can aim us at our own network by what he
	// publishes in the DNS. Nil: [Remote].
	AllowAddr func(netip.Addr) bool
	// Port to connect to. 0: 25.
	Port   uint16
	Family Family
	// Level and Why of the policy of every host; the server name is that of the mail exchanger.
	Level Level
	Why   string
}

var _ Router = (*MX)(nil)

// exchanger is one mail exchanger of a domain, and what was found out about it.
type exchanger struct {
	name string
	pref uint16

	addrs   []netip.Addr // that may be dialed
	refused netip.Addr   // one that may not, if there was any
	err     error        // why there are no addrs; nil with no addrs: it exists without one
	known   bool         // the three above are set
}

// The refusals of MX, https://www.rfc-editor.org/rfc/rfc3463#section-3.2 and section 3.5, 556 by
// https://www.rfc-editor.org/rfc/rfc7505#section-4.1:
//
//	556 5.1.10  the domain takes no mail (null MX)
//	550 5.1.2   the domain is malformed or does not exist
//	550 5.4.4   there is nobody to connect to, and the DNS is sure of it
//	451 4.4.4   the same, but the names exist and may get an address
//	451 4.4.3   the DNS did not answer
//	554 5.4.6   we are the best mail exchanger ourselves

// Route finds the hosts for to.
func (m *MX) Route(ctx context.Context, _, to smtpwire.Path) (Route, error) {
	switch {
	case to.IsNull():
		return Route{}, nil
	case to.Domain == "":
		return Route{}, refuse(550, "5.1.2", nil, "%s has no domain to route by", to)
	case strings.HasPrefix(to.Domain, "["):
		return m.literal(to.Domain)
	}
	domain, err := hostName(to.Domain)
	if err != nil {
		return Route{}, refuse(550, "5.1.2", err, "%q is not a domain name: %v", to.Domain, err)
	}
	list, implicit, err := m.exchangers(ctx, domain)
	if err != nil {
		return Route{}, err
	}
	if list = beyond(list, m.isOurName); len(list) == 0 {
		return Route{}, loops(domain)
	}
	list = list[:min(len(list), maxCandidates)]
	m.resolve(ctx, list)
	if list = beyond(list, m.isOurAddr); len(list) == 0 {
		return Route{}, loops(domain)
	}
	r := Route{Key: domain}
	for _, x := range list {
		if len(x.addrs) > 0 && len(r.Hosts) < maxHosts {
			r.Hosts = append(r.Hosts, m.host(x.name, x.name, x.addrs))
		}
	}
	if len(r.Hosts) == 0 {
		return Route{}, unreachable(domain, list, implicit, m.Family)
	}
	return r, nil
}

// exchangers gives the mail exchangers of domain, best first. Without an MX record the domain is its own, implicitly.
func (m *MX) exchangers(ctx context.Context, domain string) (list []exchanger, implicit bool, err error) {
	records, err := m.Resolver.MX(ctx, domain)
	switch {
	case isNotFound(err):
		return nil, false, refuse(550, "5.1.2", err, "domain %s does not exist: DNS says %s", domain, saying(err))
	case err != nil:
		return nil, false, refuse(451, "4.4.3", err, "mail exchangers of %s cannot be looked up: DNS says %s", domain, saying(err))
	case len(records) == 0:
		return []exchanger{{name: domain}}, true, nil
	case len(records) == 1 && isRoot(records[0].Host):
		return nil, false, refuse(556, "5.1.10", nil, "domain %s takes no mail: DNS says it has a null MX", domain)
	}
	for _, rec := range records {
		list = append(list, newExchanger(rec))
	}
	slices.SortStableFunc(list, func(a, b exchanger) int { return cmp.Compare(a.pref, b.pref) })
	return unique(list), false, nil
}

// unique keeps the best of the exchangers of one name. The list has at most as many entries as one DNS answer.
func unique(list []exchanger) []exchanger {
	seen := make(map[string]bool, len(list))
	return slices.DeleteFunc(list, func(x exchanger) bool {
		again := seen[x.name]
		seen[x.name] = true
		return again
	})
}

func isRoot(host string) bool { return host == "." || host == "" }

var errNotHost = errors.New("not a host name")

// newExchanger checks what somebody published. An address in place of a name is a common mistake; it is not followed, since an
// MX record has to name a host: https://www.rfc-editor.org/rfc/rfc5321#section-5.1
func newExchanger(rec *net.MX) exchanger {
	name, err := hostName(rec.Host)
	if err == nil {
		if _, perr := netip.ParseAddr(name); perr == nil {
			err = errNotHost
		}
	}
	if err != nil {
		return exchanger{name: clip(rec.Host), pref: rec.Pref, err: errNotHost, known: true}
	}
	return exchanger{name: name, pref: rec.Pref}
}

// beyond gives the exchangers that are better than the best one that is ours: a host that is on the list itself must not hand
// mail to its equals, nor to those below it, or the mail runs in circles. "If a matching record is found, all records at that
// preference level and higher-numbered ones MUST be discarded": https://www.rfc-editor.org/rfc/rfc5321#section-5.1
func beyond(list []exchanger, ours func(exchanger) bool) []exchanger {
	i := slices.IndexFunc(list, ours)
	if i < 0 {
		return list
	}
	pref := list[i].pref
	return slices.DeleteFunc(list, func(x exchanger) bool { return x.pref >= pref })
}

func (m *MX) isOurName(x exchanger) bool {
	own, err := hostName(m.Hostname)
	return err == nil && x.name == own
}

// isOurAddr reports whether an address of x is one of ours. Those that mail may not go to count as well: a record that leads to
// our loopback address leads to us.
func (m *MX) isOurAddr(x exchanger) bool {
	return m.IsOwn != nil && slices.ContainsFunc(append(slices.Clip(x.addrs), x.refused), func(addr netip.Addr) bool {
		return addr.IsValid() && m.IsOwn(netip.AddrPortFrom(addr, m.port()))
	})
}

// literal routes to the address that stands in place of a domain.
func (m *MX) literal(text string) (Route, error) {
	addr, ok := literal(text)
	if !ok {
		return Route{}, refuse(550, "5.1.2", nil, "%s is not an address literal", clip(text))
	}
	key := Literal(addr)
	switch {
	case m.IsOwn != nil && m.IsOwn(netip.AddrPortFrom(addr, m.port())):
		return Route{}, loops(key)
	case !m.allow(addr):
		return Route{}, refuse(550, "5.4.4", nil, "mail may not go to the address %s", key)
	case !m.Family.has(addr):
		return Route{}, refuse(550, "5.4.4", nil, "%s cannot be reached from here%s", key, m.Family.phrase())
	}
	return Route{Key: key, Hosts: []Host{m.host(key, addr.String(), []netip.Addr{addr})}}, nil
}

// host makes a Host. server is the name that its certificate must have.
func (m *MX) host(name, server string, addrs []netip.Addr) Host {
	return Host{
		Name:   name,
		Addrs:  interleave(addrs, m.port()),
		Policy: Policy{Level: m.Level, Why: m.Why, ServerName: server},
	}
}

func (m *MX) port() uint16 { return cmp.Or(m.Port, 25) }

func (m *MX) allow(addr netip.Addr) bool {
	if m.AllowAddr == nil {
		return Remote(addr)
	}
	return m.AllowAddr(addr)
}

func loops(domain string) *Error {
	return refuse(554, "5.4.6", nil, "mail for %s loops back to this host: it is the best mail exchanger itself", domain)
}

// unreachable says why none of the exchangers can be connected to.
func unreachable(domain string, list []exchanger, implicit bool, f Family) *Error {
	missing := 0 // exchangers that do not exist
	var refused *exchanger
	for i := range list {
		x := &list[i]
		switch {
		case x.refused.IsValid():
			refused = x
		case x.err == nil:
		case isNotFound(x.err), errors.Is(x.err, errNotHost):
			missing++
		default:
			return refuse(451, "4.4.3", x.err, "mail exchanger %s of %s cannot be looked up: DNS says %s", x.name, domain, saying(x.err))
		}
	}
	first := list[0]
	switch {
	case refused != nil:
		return refuse(550, "5.4.4", nil, "mail exchanger %s of %s has the address %v, where mail may not go",
			refused.name, domain, refused.refused)
	case implicit && missing > 0:
		return refuse(550, "5.1.2", first.err, "domain %s does not exist: DNS says %s", domain, saying(first.err))
	case implicit:
		return refuse(550, "5.4.4", nil, "domain %s has neither a mail exchanger nor an address%s", domain, f.phrase())
	case missing == len(list):
		return refuse(550, "5.4.4", first.err, "no mail exchanger of %s exists: DNS says %s to %s", domain, saying(first.err), first.name)
	}
	return refuse(451, "4.4.4", nil, "no mail exchanger of %s has an address%s", domain, f.phrase())
}

// clip shortens what somebody published.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}

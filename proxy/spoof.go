package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"go.uber.org/zap"

	"slipstream/proxy/route"
	"slipstream/smtpwire"
)

// With client_address = "spoof" a connection to the backend comes from the
// client's own address, so that a backend which knows neither XCLIENT nor PROXY
// sees who it is. The backend's answers are for that address; rules of the
// kernel's bring them back to us.

// spoofs tells whether connections come from the addresses of clients.
func (c *caller) spoofs() bool { return c.announce == announceSpoof }

// rulesRemedy says what to do where answers go astray.
const rulesRemedy = `"slipstream intercept print" shows the rules that bring its answers back to us, and "apply" sets ` +
	"them; a backend on another machine must have us for its router"

// reachable are the addresses of a host that a client's own address can connect
// to. Where the families differ there is none: to come from our own address
// instead would give the client what the backend allows us.
func (c *caller) reachable(host route.Host, id identity) ([]netip.AddrPort, error) {
	addrs := slices.Clone(host.Addrs)
	if !c.spoofs() {
		return addrs, nil
	}
	client := id.client.Addr().Unmap()
	if err := spoofable(client); err != nil {
		return nil, &peerError{hop: host.Name, during: duringConnect, err: err}
	}
	addrs = slices.DeleteFunc(addrs, func(a netip.AddrPort) bool { return a.Addr().Unmap().Is4() != client.Is4() })
	if len(addrs) == 0 {
		return nil, &peerError{hop: host.Name, during: duringConnect, err: fmt.Errorf(
			"the client comes by %s from %v, and the backend has no such address to go to from there; "+
				"let it listen by %[1]s too, under a name that has addresses of both kinds", family(client), client)}
	}
	return addrs, nil
}

func family(a netip.Addr) string {
	if a.Unmap().Is4() {
		return "IPv4"
	}
	return "IPv6"
}

// spoofable tells whether anybody can come from an address. From others the
// kernel comes from one of this machine's, perhaps from loopback, and the backend
// would trust the client as it trusts us.
func spoofable(a netip.Addr) error {
	notFor4 := a.Is4() && (a.As4()[0] == 0 || a.As4()[0] >= 240) // "this network", reserved, broadcast
	switch {
	case !a.IsValid():
		return errors.New("the client has no IP address to come from")
	case a.IsUnspecified() || a.IsMulticast() || notFor4:
		return fmt.Errorf("%v is no address that a client can have", a)
	case a.Is6() && a.IsLinkLocalUnicast():
		return fmt.Errorf("%v, the client's address, holds on its own link only, and does not lead to the backend", a)
	}
	return nil
}

// comeFrom picks the address to come from.
func (c *caller) comeFrom(try call) (netip.Addr, error) {
	if !c.spoofs() {
		return c.source(try.addr.Addr()), nil
	}
	client := try.id.client.Addr().Unmap()
	if err := spoofable(client); err != nil { // once more, in whatever way this was reached
		return netip.Addr{}, err
	}
	if client == try.addr.Addr().Unmap() && !isLocal(client) {
		return netip.Addr{}, fmt.Errorf(
			"the client is the backend itself, %v, which takes nothing from its own address that comes from elsewhere", client)
	}
	return client, nil
}

// spoofError says why there is no connection from a client's address.
func (c *caller) spoofError(client netip.Addr, err error) error {
	if !c.spoofs() || err == nil {
		return err
	}
	why := fmt.Errorf("from the client's address %v: %w", client, err)
	var wait net.Error
	switch {
	case errors.Is(err, errNotFrom), errors.Is(err, syscall.ECONNREFUSED):
		return why
	case errors.As(err, &wait) && wait.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: no answer came back; %s; or something on the way drops that address", why, rulesRemedy)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%w: the system does not let it be used, or all of its ports are in use; %s", why, rulesRemedy)
	case errors.Is(err, syscall.EPERM) && !errors.Is(err, errPrivilege):
		return fmt.Errorf("%w: a rule of the firewall forbids it; %s", why, rulesRemedy)
	case errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return fmt.Errorf("%w: there is no way from there to the backend; %s", why, rulesRemedy)
	}
	return why
}

// errNotFrom: a connection does not come from where it was to come from.
var errNotFrom = errors.New("the system connects from another address instead")

// strangers are whom the backend is asked about before the door opens, as it will
// see them: addresses that nobody has (https://www.rfc-editor.org/rfc/rfc5737,
// https://www.rfc-editor.org/rfc/rfc3849). Where connections come from the
// clients' own addresses, these do, so that the whole way is tried: the rules, and
// whether anything on it puts our address, which may be trusted, into the place of
// theirs. Each family goes a way of its own.
func (d *door) strangers(r route.Route) []identity {
	four := identity{client: probeClient(), helo: probeName, esmtp: true, name: clientName{name: probeName}}
	four.local = netip.AddrPortFrom(netip.MustParseAddr("192.0.2.2"), smtpPort)
	if !d.caller.spoofs() {
		return []identity{four}
	}
	six := four
	six.client = netip.MustParseAddrPort("[2001:db8::1]:40025")
	six.local = netip.AddrPortFrom(netip.MustParseAddr("2001:db8::2"), smtpPort)
	var them []identity
	for _, id := range []identity{four, six} {
		if slices.ContainsFunc(r.Hosts, func(h route.Host) bool { _, err := d.caller.reachable(h, id); return err == nil }) {
			them = append(them, id)
		}
	}
	return them
}

// smtpPort is where mail servers listen.
const smtpPort = 25

// looped refuses a connection of our own to the backend that rules have brought
// to our own door. At the greeting the end that made it may not know yet that it
// is connected; at EHLO it does.
func (d *door) looped(s *session) (smtpwire.Reply, bool) {
	if !d.transparent || !d.wires.dialledBetween(s.client.addr, s.client.local) {
		return smtpwire.Reply{}, false
	}
	const why = `a connection of Slipstream's own to the backend came back to it: ` +
		`the rules catch what this machine sends to itself; "slipstream intercept print" shows those that do not`
	s.log.Error("refused our own connection", zap.String("why", why))
	return smtpwire.NewReply(421, codeLoop, replyText(d.hostname+" "+why)), true
}

package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"iter"
	"net"
	"net/netip"
	"slices"
	"time"

	"slipstream/proxy/route"
)

// A caller opens connections to hops on behalf of one door: it dials, announces
// the client, waits for the greeting, says hello and secures the connection as
// the hop's policy demands. What it hands out is ready for MAIL.
type caller struct {
	hostname string // what we say in EHLO
	dial     DialFunc
	dialFast DialFunc     // for when we speak first; nil: there is no Fast Open
	fastOpen string       // what may ride in a SYN
	sources  []netip.Addr // addresses to come from, at most one of each family is used
	times    *TimeoutsConfig
	roots    *x509.CertPool // nil: the system's
	minTLS   uint16
	curves   []tls.CurveID // nil: those of crypto/tls
	announce string        // client_address
	memory   memory

	hostsPipeConnect Prefixes // hosts that may be spoken to before they have answered

	door    string // its name
	pool    *pool  // of connections that are kept; nil: none is
	warm    poolLimits
	resumed func(bits int) // counts what resumption did; nil: nobody does
	misled  func()         // counts guesses that were wrong; nil: nobody does
	wires   *wireSet
	isOwn   func(netip.AddrPort) bool // is one of our own doors there?
}

// A manner is what may be made use of towards a hop.
type manner int

const (
	asKnown    manner = iota // all that is known of it
	inLockStep               // it is not spoken to early
	plainly                  // nothing
)

// peers yields connections to the hops of a route in order of preference, each
// greeted, secured and ready for MAIL, or the reason why an address gave none.
// The caller stops when one served it; the context bounds the whole. how says what
// may be made use of.
func (c *caller) peers(ctx context.Context, r route.Route, id identity, how manner) iter.Seq2[*peer, error] {
	return func(yield func(*peer, error) bool) {
		if r.Unix != "" {
			yield(c.unix(ctx, r, id))
			return
		}
		for _, host := range r.Hosts {
			if !c.host(ctx, r, host, id, how, yield) {
				return
			}
		}
	}
}

// unix connects to a local socket. There is nothing to secure.
func (c *caller) unix(ctx context.Context, r route.Route, id identity) (*peer, error) {
	label := "unix:" + r.Unix
	conn, err := c.connect(ctx, c.warmKey(r), label, func(ctx context.Context) (net.Conn, error) {
		return c.dialNamed(ctx, c.dial, label, "unix", netip.Addr{}, r.Unix)
	})
	if err != nil {
		return nil, err
	}
	if conn.peer != nil {
		return conn.peer, nil
	}
	return c.ready(ctx, conn, call{key: c.warmKey(r), label: label, lmtp: r.LMTP, id: id})
}

// host tries the addresses of one host until yield has had enough.
func (c *caller) host(ctx context.Context, r route.Route, host route.Host, id identity, how manner, yield func(*peer, error) bool) bool {
	left, err := c.reachable(host, id)
	if err != nil {
		return yield(nil, err)
	}
	key := c.warmKey(r)
	try := func(addr netip.AddrPort) call {
		return call{
			key: key, label: hopLabel(host.Name, addr), policy: host.Policy, lmtp: r.LMTP, id: id,
			host: host.Name, addr: addr, lockStep: how != asKnown, bare: how == plainly,
		}
	}
	for len(left) > 0 {
		if end, ok := ctx.Deadline(); ok && !time.Now().Before(end) {
			<-ctx.Done() // any moment now
		}
		if ctx.Err() != nil {
			return yield(nil, context.Cause(ctx))
		}
		i, conn, err := race(ctx, len(left), func(ctx context.Context, i int) (net.Conn, error) {
			b, err := c.address(ctx, try(left[i]))
			if err != nil {
				return nil, err
			}
			return b, nil
		})
		if err != nil {
			return yield(nil, err) // none of them answers
		}
		addr := left[i]
		left = slices.Delete(left, i, i+1)
		made := conn.(*berthed)
		if made.peer != nil {
			if !yield(made.peer, nil) {
				return false
			}
			continue
		}
		if !yield(c.secured(ctx, made, try(addr))) {
			return false
		}
	}
	return true
}

// errOwnDoor: what is sent there would come back to us for ever.
var errOwnDoor = errors.New("this is one of our own doors: mail would go in circles")

// address connects to one address of a host, when there is room for it.
func (c *caller) address(ctx context.Context, try call) (*berthed, error) {
	if b := c.onFoothold(ctx, try); b != nil {
		return b, nil
	}
	dial, fast := c.dial, c.opensFast(try)
	if fast {
		dial = c.dialFast
	}
	b, err := c.connect(ctx, try.key, try.addr.String(), func(ctx context.Context) (net.Conn, error) { return c.dialAddress(ctx, dial, try) })
	if err == nil {
		b.fast = fast
	}
	return b, err
}

// opensFast tells whether we speak first on a connection, and may do so in the
// SYN. Else there would be no SYN before the hop has spoken, which it never does.
func (c *caller) opensFast(try call) bool {
	if c.fastOpen == fastOff || c.dialFast == nil || try.lockStep {
		return false
	}
	if try.policy.Implicit {
		return true
	}
	_, early := c.earlyInClear(try)
	return early
}

func (c *caller) dialAddress(ctx context.Context, dial DialFunc, try call) (net.Conn, error) {
	if c.isOwn(try.addr) {
		return nil, &peerError{hop: try.label, during: duringConnect, err: errOwnDoor}
	}
	from, err := c.comeFrom(try)
	if err != nil {
		return nil, &peerError{hop: try.label, during: duringConnect, err: err}
	}
	conn, err := c.dialNamed(ctx, dial, try.label, "tcp", from, try.addr.String())
	return conn, c.spoofError(from, err)
}

// source picks the address to come from for a destination's family.
func (c *caller) source(to netip.Addr) netip.Addr {
	for _, a := range c.sources {
		if a.Unmap().Is4() == to.Unmap().Is4() {
			return a
		}
	}
	return netip.Addr{}
}

func (c *caller) dialNamed(ctx context.Context, dial DialFunc, label, network string, local netip.Addr, remote string) (net.Conn, error) {
	var conn net.Conn
	err := within(ctx, "a connection", c.times.Connect, func(ctx context.Context) (err error) {
		conn, err = dial(ctx, network, local, remote)
		return err
	})
	if err != nil {
		return nil, &peerError{hop: label, during: duringConnect, err: err}
	}
	return conn, nil
}

// A call is one attempt at one address.
type call struct {
	key    poolKey // what its connections are kept under
	label  string
	host   string         // as routing named it
	addr   netip.AddrPort // zero: a local socket
	policy route.Policy
	lmtp   bool
	id     identity
	clear  bool // TLS failed here and the policy lets us do without
	fresh  bool // TLS failed here with a session of before: do without that
	bare   bool // it broke on a ticket: take none

	lockStep bool // nothing is said before the hop has answered
}

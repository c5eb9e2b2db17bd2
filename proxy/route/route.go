// Package route decides where a message goes and how that hop must be protected, before the first byte is sent to it.
//
// A [Router] answers for one recipient. [Static] always names the same place: a relay, or the MTA behind us. [MX] asks the DNS:
//
//  1. the domain is brought into its wire form; an address literal names its hop itself
//  2. its MX records are looked up; "." means that it takes no mail; without any the domain is its own exchanger
//  3. ourselves and every exchanger no better than ourselves are dropped: mail must come closer with every hop
//  4. the addresses of all exchangers are looked up at once
//  5. addresses that mail may not go to are dropped, and ourselves once more, now by address
//  6. what is left becomes the hosts of a [Route], best first
//
// A refusal is an [*Error]: it holds the reply to give. Nothing here dials, and nothing here lowers a policy: the level that
// was configured is the level of every host.
package route

import (
	"context"
	"net"
	"net/netip"

	"slipstream/smtpwire"
)

// Limits on a route.
const (
	maxHosts      = 10 // hosts in a Route; one has to try at least two addresses, https://www.rfc-editor.org/rfc/rfc5321#section-5.1
	maxAddrs      = 8  // addresses of one Host
	maxCandidates = 16 // exchangers of one domain whose addresses are looked up, all at once
)

// Router says where mail for a recipient goes. It is safe for concurrent use.
type Router interface {
	// Route is asked with the sender and one recipient. At MAIL, before a recipient is known, to is the null path: a router
	// that needs one then returns a zero Route and no error, and is asked again at the first RCPT. Errors are of type *Error.
	Route(ctx context.Context, from, to smtpwire.Path) (Route, error)
}

// Route is where a message goes.
type Route struct {
	// Key identifies the destination: recipients with equal keys may share one transaction. Not empty but in a zero Route.
	Key string
	// Hosts to try, best first, at most 10. Empty where Unix is set, else at least one.
	Hosts []Host
	// LMTP: the other side speaks LMTP (RFC 2033) instead of SMTP.
	LMTP bool
	// Unix is the path of a socket that is dialed instead of Hosts.
	Unix string
}

// IsZero reports whether r names no destination: the recipient has to be known first.
func (r Route) IsZero() bool { return r.Key == "" }

// Host is one machine by name, with the addresses that it is reached at.
type Host struct {
	// Name is lower case, in A-labels, without a final dot; for an address, its text.
	Name string
	// Addrs to try in this order, IPv6 and IPv4 in turn (https://www.rfc-editor.org/rfc/rfc8305#section-4), 1 to 8.
	Addrs []netip.AddrPort
	// Policy holds for every address.
	Policy Policy
}

// Policy is how a hop must be protected. It is decided with the route; nothing learned later may lower it.
type Policy struct {
	Level Level
	// Why names what set the level, for the log: "configured".
	Why string
	// Implicit: TLS begins with the first byte and there is no STARTTLS (https://www.rfc-editor.org/rfc/rfc8314#section-3.3).
	Implicit bool
	// ServerName is the name that is sent as SNI, and that the certificate must be valid for where the level asks for that.
	ServerName string
}

// Resolver is what routers ask of the DNS. A name that exists without such a record is an empty list and no error. A name
// that does not exist is a *net.DNSError that says IsNotFound. Any other error is temporary.
type Resolver interface {
	// MX gives the mail exchangers of domain, best first; the host "." stands for "takes no mail".
	MX(ctx context.Context, domain string) ([]*net.MX, error)
	// Addrs gives the addresses of host: of both families (network "ip"), or one ("ip4", "ip6").
	Addrs(ctx context.Context, network, host string) ([]netip.Addr, error)
}

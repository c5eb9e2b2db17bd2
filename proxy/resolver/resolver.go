// Package resolver asks the Domain Name System, and remembers the answers for as long as they may be remembered.
//
// It is a stub resolver: it sends each question to a configured recursive server, over UDP with EDNS(0), and over TCP where
// the answer is too long. A look-up takes these steps, each in the file of its name:
//
//  1. name:    the name is brought into the form that the wire has
//  2. cache:   an answer that is still good, be it a "no", ends the look-up; so does a mail host's that was good until lately,
//     and then one asks anew in the background (stale)
//  3. flight:  a look-up of the same question that is under way is shared
//  4. ask:     the servers are tried in order, each try with a deadline
//  5. wire:    one question to one server; what does not match the question is not heard
//  6. answer:  aliases are followed, records are picked, and the time for which they hold is worked out
//
// Names are taken with or without a final dot, in any case, as A-labels or U-labels, underscores included. One that cannot stand
// in the DNS is answered as one that does not exist.
//
// Every error of a look-up is a *net.DNSError, unwrapped. It says IsNotFound where the servers say that there is nothing
// ([IsNXDomain] tells the two kinds of nothing apart; Name, Secure and Expires of the Result are then those of the denial), and
// else IsTemporary, with IsTimeout where nobody answered in time.
//
// What it does not do: it validates no signature (see [Result.Secure]), reads no /etc/hosts, applies no search list, and
// never answers from data that came along unasked.
package resolver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/idna"
)

// Limits that no configuration raises.
const (
	maxServers    = 8        // servers in one Config
	maxRecords    = 64       // records kept of one answer; the rest is dropped
	maxAliases    = 8        // CNAME records followed for one question
	maxStray      = 16       // datagrams that match no question of ours before TCP is tried: somebody is guessing
	maxCacheBytes = 32 << 20 // estimated size of everything in the cache
	maxName       = 1024     // octets of a name as a caller gives it, before it is brought into wire form

	// otherFamily is how long the addresses of the other family are waited for once one has some.
	otherFamily = 500 * time.Millisecond

	// udpSize is what we offer to take in one datagram: no path in use fragments it. See
	// https://www.rfc-editor.org/rfc/rfc9715#section-3.2
	udpSize = 1232
	// udpBuffer leaves room for servers that send more than they were offered.
	udpBuffer = 4096
)

// Config says whom to ask and how long to wait and remember. The zero value asks the system's servers.
type Config struct {
	// Servers are the recursive servers, in order of preference, at most 8. Empty: those of /etc/resolv.conf.
	Servers []netip.AddrPort
	// Timeout bounds one try with one server, TCP included. Default 3 s.
	Timeout time.Duration
	// Attempts is the number of tries for one question over all servers. Default 3.
	Attempts int
	// Total bounds a whole look-up: every try, every alias, and the wait for a free slot. Default 15 s.
	Total time.Duration
	// MaxQueries is the number of questions on the wire at once; more wait for their turn. Default 256.
	MaxQueries int

	// CacheEntries is the number of answers remembered; the least recently used goes first. Default 10000; negative: none.
	// The cache is also bounded by an estimate of its size, 32 MiB.
	CacheEntries int
	// MaxTTL is the longest time for which an answer is remembered, whatever it says itself. Default 24 h.
	MaxTTL time.Duration
	// MinNegativeTTL and MaxNegativeTTL bound the time for which "no such name" and "no such record" are remembered, which
	// the zone sets in its SOA record. Defaults 5 s and 15 min. An answer without that record is not remembered.
	MinNegativeTTL, MaxNegativeTTL time.Duration

	// MaxStale is for how long MX hosts and addresses are still given when their time is over, while they are asked for anew in
	// the background: see [Result.Stale] and [Fresh]. Default 0: never. See also [DefaultStale].
	MaxStale time.Duration

	// Dial opens a connection to a server; network is "udp" or "tcp". On a "udp" connection one Write is one datagram and
	// so is one Read. Nil: a zero net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Result is what a look-up found.
type Result[T any] struct {
	// Records in the order given by the server, unless the method says otherwise; at least one where the error is nil,
	// at most 64. The slice is the caller's.
	Records []T
	// Secure tells that the server vouches for the answer (the AD bit) and that the server is on this host: an AD bit that
	// crossed a network is worth nothing. Where it matters, configure validating servers on loopback and no others.
	// See https://www.rfc-editor.org/rfc/rfc6840#section-5.8
	Secure bool
	// Stale tells that the time of the answer is over ([Config.MaxStale]). What Secure says is how it was when it was had: who
	// can keep us from asking anew cannot make a name look as if it had never been signed.
	Stale bool
	// Name is where the records were found once all aliases were followed: lower case, without a final dot.
	Name string
	// Expires is the time until which the answer holds, or held.
	Expires time.Time
}

// Resolver looks names up. Make one with [New]; it is safe for concurrent use. Idle it owns nothing that must be closed: what it
// does in the background ends by itself, or with [Resolver.Close].
type Resolver struct {
	timeout  time.Duration
	total    time.Duration
	attempts int
	life     lifetimes
	dial     func(ctx context.Context, network, address string) (net.Conn, error)
	profile  *idna.Profile

	slots   chan struct{} // one token per question on the wire
	servers *servers
	cache   *cache

	base       context.Context // of what goes on in the background
	stop       context.CancelFunc
	background sync.WaitGroup

	mu        sync.Mutex // guards flights and the fields of each flight that say so
	flights   map[question]*flight
	refreshes int // flights in the background
	closed    bool
}

// New checks cfg and fills in its defaults. It reads /etc/resolv.conf where cfg names no servers, once.
func New(cfg Config) (*Resolver, error) {
	for name, d := range map[string]time.Duration{
		"Timeout": cfg.Timeout, "Total": cfg.Total, "MaxTTL": cfg.MaxTTL,
		"MinNegativeTTL": cfg.MinNegativeTTL, "MaxNegativeTTL": cfg.MaxNegativeTTL, "MaxStale": cfg.MaxStale,
	} {
		if d < 0 {
			return nil, fmt.Errorf("resolver: %s is negative", name)
		}
	}
	if cfg.Attempts < 0 || cfg.MaxQueries < 0 {
		return nil, errors.New("resolver: Attempts or MaxQueries is negative")
	}
	list := cfg.Servers
	if len(list) == 0 {
		var err error
		if list, err = systemServers("/etc/resolv.conf"); err != nil {
			return nil, err
		}
	}
	servers, err := newServers(list)
	if err != nil {
		return nil, err
	}
	r := &Resolver{
		timeout:  or(cfg.Timeout, 3*time.Second),
		total:    or(cfg.Total, 15*time.Second),
		attempts: or(cfg.Attempts, 3),
		life: lifetimes{
			max:         or(cfg.MaxTTL, 24*time.Hour),
			minNegative: or(cfg.MinNegativeTTL, 5*time.Second),
			maxNegative: or(cfg.MaxNegativeTTL, 15*time.Minute),
		},
		dial:    cfg.Dial,
		profile: newProfile(),
		slots:   make(chan struct{}, or(cfg.MaxQueries, 256)),
		servers: servers,
		cache:   newCache(or(cfg.CacheEntries, 10000), maxCacheBytes, cfg.MaxStale),
		flights: make(map[question]*flight),
	}
	if r.life.minNegative > r.life.maxNegative {
		return nil, fmt.Errorf("resolver: MinNegativeTTL (%v) exceeds MaxNegativeTTL (%v)", r.life.minNegative, r.life.maxNegative)
	}
	r.base, r.stop = context.WithCancel(context.Background())
	if r.dial == nil {
		r.dial = new(net.Dialer).DialContext
	}
	return r, nil
}

// or is v, or def where v is zero.
func or[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

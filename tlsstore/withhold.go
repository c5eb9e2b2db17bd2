package tlsstore

import (
	"net/netip"
	"strings"
	"sync"
	"time"
)

const (
	// ShyStrikes is how often a client must leave within ShyWithin before it is given no more tickets.
	ShyStrikes = 2
	ShyWithin  = 24 * time.Hour

	// ShyShare is how many of a client's handshakes may go well for each that made it leave, counted from the first
	// such on. A large sender loses a connection now and then for other reasons.
	ShyShare = 50

	// ShyFor is how long tickets are withheld; then they are tried again.
	ShyFor = 7 * 24 * time.Hour

	// MaxShy bounds the clients that are remembered: those under watch, because one has left, and again those that
	// tickets are withheld from. The oldest makes room.
	MaxShy = 4096

	maxShyHello = 255 // octets of a name: https://www.rfc-editor.org/rfc/rfc5321#section-4.5.3.1.2
)

// ShyOptions say from whom tickets are withheld. The zero value learns, and is good.
type ShyOptions struct {
	Now func() time.Time // the clock; nil means time.Now

	// Patterns of EHLO names that never get tickets, as MatchHello has them.
	Patterns []string
}

// Shy knows the clients that session tickets drive away, by what the configuration says and by what was seen. It may be
// used by many goroutines at a time.
//
// What is learned holds for the client's network, /24 or /48, and for the domain that its EHLO name is in, since a
// large sender tries again from elsewhere. The domain is the name without its first label, as long as two are left, and
// only names directly in it count: mta7.outbound.example.org stands for all in outbound.example.org. Below a suffix
// like co.uk this takes in strangers who name themselves example.co.uk; and anyone can leave in the name of another.
// Both cost the others the computing that resumption saves, and nothing else. What goes well in the name of another
// says nothing about those who left elsewhere.
type Shy struct {
	now      func() time.Time
	patterns []string

	mu       sync.Mutex
	watched  shyTable[shyWatch]
	withheld shyTable[shyTerm]
	names    shyTable[shyNames] // by network

	disk sync.Mutex // held by who changes what is saved, and taken before mu
}

// A shyWatch counts what became of a client's handshakes with tickets, since one made it leave. That of a domain tells
// networks apart.
type shyWatch struct {
	since  time.Time
	shares []shyShare
}

// A shyNames counts the domains that a network has brought under watch.
type shyNames struct {
	since time.Time
	n     int
}

// A shyTerm is for how long tickets are withheld, and why.
type shyTerm struct {
	since, until time.Time
	left, stayed int // as the watch had it
	saved        bool
}

// NewShy returns a Shy that has learned nothing yet.
func NewShy(o ShyOptions) *Shy {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Shy{now: o.Now, patterns: append([]string(nil), o.Patterns...)}
}

// Left says that a client went away where clients do that break on tickets; see [HeldConn.Left]. It reports whether
// tickets are withheld from now on that were not before; Withheld tells which.
func (s *Shy) Left(addr netip.Addr, hello string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, learned, network := s.now(), false, shyNetwork(addr)
	for _, key := range shyKeys(addr, hello) {
		w, known := s.watch(key, now)
		if !known && key != network && !s.mayName(network, now) {
			continue
		}
		w.left(network)
		left, stayed := w.sum()
		if left >= ShyStrikes {
			s.watched.remove(key)
			s.withheld.put(key, shyTerm{since: now, until: now.Add(ShyFor), left: left, stayed: stayed})
			learned = true
			continue
		}
		s.watched.put(key, w)
	}
	return learned
}

// Stayed says that a client was given a ticket and went on. Nothing is remembered of clients of whom none has left.
func (s *Shy) Stayed(addr netip.Addr, hello string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, network := s.now(), shyNetwork(addr)
	for _, key := range shyKeys(addr, hello) {
		if w, known := s.watch(key, now); known && w.stayed(network) {
			s.watched.put(key, w)
		}
	}
}

// watch returns what was seen of a client lately, and whether there is any.
func (s *Shy) watch(key string, now time.Time) (shyWatch, bool) {
	w, known := s.watched.get(key)
	if !known || !lately(w.since, now) {
		return shyWatch{since: now}, false
	}
	return w, true
}

// mayName reports whether a network may bring another domain under watch, and counts it.
func (s *Shy) mayName(network string, now time.Time) bool {
	names, known := s.names.get(network)
	if !known || !lately(names.since, now) {
		names = shyNames{since: now}
	}
	if names.n >= ShyNames {
		return false
	}
	names.n++
	s.names.put(network, names)
	return true
}

func lately(since, now time.Time) bool {
	passed := now.Sub(since)
	return passed >= 0 && passed < ShyWithin
}

// Withhold reports whether a client is better given no ticket. hello is its EHLO name, empty where it has said none.
func (s *Shy) Withhold(addr netip.Addr, hello string) bool {
	if MatchHello(s.patterns, hello) {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.withheld.len() == 0 {
		return false
	}
	now, withheld := s.now(), false
	for _, key := range shyKeys(addr, hello) {
		term, ok := s.withheld.get(key)
		switch {
		case !ok:
		case now.Before(term.until):
			withheld = true
		default:
			s.withheld.remove(key)
		}
	}
	return withheld
}

// A Withheld is a network or a domain that tickets are withheld from.
type Withheld struct {
	Name  string
	Until time.Time
}

// Withheld returns why tickets are withheld from a client, of what was learned: for its network, its domain or both.
func (s *Shy) Withheld(addr netip.Addr, hello string) (why []Withheld) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	for _, key := range shyKeys(addr, hello) {
		if term, ok := s.withheld.get(key); ok && now.Before(term.until) {
			_, name, _ := strings.Cut(key, " ")
			why = append(why, Withheld{name, term.until})
		}
	}
	return why
}

// Len returns how many networks and domains tickets are withheld from.
func (s *Shy) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, now := 0, s.now()
	s.withheld.each(func(_ string, term shyTerm) {
		if now.Before(term.until) {
			n++
		}
	})
	return n
}

// shyKeys are the names that a client is remembered under: its network and its domain, as far as it has them.
func shyKeys(addr netip.Addr, hello string) []string {
	var keys []string
	if network := shyNetwork(addr); network != "" {
		keys = append(keys, network)
	}
	if domain := helloDomain(hello); domain != "" {
		keys = append(keys, "ehlo "+domain)
	}
	return keys
}

// shyNetwork is the name that a client's network is remembered under; "" where it has none.
func shyNetwork(addr netip.Addr) string {
	addr = addr.Unmap().WithZone("")
	if !addr.IsValid() {
		return ""
	}
	bits := 48
	if addr.Is4() {
		bits = 24
	}
	network, _ := addr.Prefix(bits) // both are within the address
	return "net " + network.String()
}

// helloDomain is the domain that an EHLO name is in; none for an address literal and for what is no name.
func helloDomain(hello string) string {
	hello = cleanHello(hello)
	if hello == "" || len(hello) > maxShyHello || strings.ContainsAny(hello, "[]: \t") ||
		hello[0] == '.' || strings.Contains(hello, "..") {
		return ""
	}
	if _, parent, _ := strings.Cut(hello, "."); strings.Contains(parent, ".") {
		return parent
	}
	return hello
}

// MatchHello reports whether an EHLO name is one of the patterns: a name, or "*." and a domain, which means every name
// below that, however deep, and not the domain itself; "*" is every name. Case and a final dot do not matter.
func MatchHello(patterns []string, hello string) bool {
	hello = cleanHello(hello)
	if hello == "" {
		return false
	}
	for _, pattern := range patterns {
		if pattern != "*." { // a slip, and not everyone
			pattern = cleanHello(pattern)
		}
		domain, below := strings.CutPrefix(pattern, "*")
		switch {
		case pattern == "*":
			return true
		case below && strings.HasPrefix(domain, ".") && len(domain) > 1:
			if len(hello) > len(domain) && strings.HasSuffix(hello, domain) {
				return true
			}
		case hello == pattern:
			return true
		}
	}
	return false
}

func cleanHello(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

package auth

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Limits of what a domain may publish for SPF.
const (
	// maxSPFRecord is the length of one record. https://www.rfc-editor.org/rfc/rfc7208#section-3.4 asks for answers of
	// at most 512 octets; what is published in the field goes to some 4000.
	maxSPFRecord = 8192
	// maxSPFNames is the number of names of the client's address that are looked at,
	// https://www.rfc-editor.org/rfc/rfc7208#section-4.6.4
	maxSPFNames = 10
)

// errSPFSyntax marks the error that stands for a record of no meaning.
var errSPFSyntax = errors.New("syntax error in an SPF record")

// spfResolver stands between the library and a Resolver and repairs what the library gets wrong, one record at a time:
// it hands out records only once they keep the whole grammar, which is to be checked before anything is evaluated
// (https://www.rfc-editor.org/rfc/rfc7208#section-4.6), puts in the names that %{p} stands for, and hides the "/" of
// names.
type spfResolver struct {
	r    Resolver
	ip   netip.Addr
	lost atomic.Bool // a look-up failed for want of an answer

	reverse map[string]bool // names that ip is said to have
	named   map[string]bool // names of records: what is silent about them is not the client's doing
	until   time.Time       // for as long as the former may be asked about; zero: nobody has

	validated []string // names of ip that were confirmed
	asked     bool     // validated is filled in
}

// spfSlash stands for "/" where one is part of a domain name in a record: the library knows "/" only before a prefix
// length. No record holds this octet, since it is none that the grammar allows.
const spfSlash = "\x01"

func spfName(name string) string { return strings.ReplaceAll(name, spfSlash, "/") }

// heard notes whether err leaves the question open.
func (s *spfResolver) heard(err error) error {
	if dnsTemporary(err) {
		s.lost.Store(true)
	}
	return err
}

func (s *spfResolver) LookupTXT(ctx context.Context, name string) ([]string, error) {
	txts, err := s.r.LookupTXT(ctx, spfName(name))
	if err != nil {
		return nil, s.heard(err)
	}
	var records []string
	for _, txt := range txts {
		if isSPFRecord(txt) {
			records = append(records, txt)
		}
	}
	if len(records) != 1 {
		return records, nil // none, or too many: the library knows what to say
	}
	terms, ok := parseSPFRecord(records[0])
	if !ok {
		return nil, &net.DNSError{Err: errSPFSyntax.Error(), Name: name, UnwrapErr: errSPFSyntax}
	}
	s.names(name)
	for _, t := range terms {
		s.names(t.spec)
	}
	return []string{s.rewrite(ctx, terms, name)}, nil
}

// rewrite writes the record down again in a way that the library reads correctly.
func (s *spfResolver) rewrite(ctx context.Context, terms []spfTerm, domain string) string {
	b := []byte("v=spf1")
	for _, t := range terms {
		if t.ignored {
			continue
		}
		b = append(b, ' ')
		b = append(b, t.head...)
		spec := t.spec
		if containsSPFMacro(spec, 'p') {
			spec = expandSPFNames(spec, s.name(ctx, spfName(domain)))
		}
		b = append(b, strings.ReplaceAll(spec, "/", spfSlash)...)
		b = append(b, t.cidr...)
	}
	return string(b)
}

// name is what %{p} stands for in a record of domain, https://www.rfc-editor.org/rfc/rfc7208#section-7.3
func (s *spfResolver) name(ctx context.Context, domain string) string {
	if !s.asked {
		s.asked = true
		names, _ := s.LookupAddr(ctx, s.ip.String())
		for _, name := range names[:min(len(names), maxSPFNames)] {
			plain, ok := CanonicalDomain(name)
			if !ok {
				continue
			}
			addrs, _ := s.LookupIPAddr(ctx, name)
			if slices.ContainsFunc(addrs, func(a net.IPAddr) bool { return sameAddr(a.IP, s.ip) }) {
				s.validated = append(s.validated, plain)
			}
		}
	}
	domain = strings.ToLower(strings.TrimSuffix(domain, "."))
	best := "unknown"
	for _, name := range s.validated {
		switch {
		case name == domain:
			return name
		case strings.HasSuffix(name, "."+domain) && !strings.HasSuffix(best, "."+domain), best == "unknown":
			best = name
		}
	}
	return best
}

func (s *spfResolver) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	mxs, err := s.r.LookupMX(ctx, spfName(name))
	for _, mx := range mxs {
		s.names(mx.Host)
	}
	return mxs, s.heard(err)
}

// names notes a name that a record has.
func (s *spfResolver) names(name string) {
	if s.named == nil {
		s.named = make(map[string]bool)
	}
	s.named[plainName(name)] = true
}

// LookupIPAddr asks for what a client of that family needs. For one with an IPv4 address every mechanism wants A records
// (https://www.rfc-editor.org/rfc/rfc7208#section-5.3), and name servers that fail for AAAA are common. For one with an
// IPv6 address "exists" wants A and the others AAAA (https://www.rfc-editor.org/rfc/rfc7208#section-5.7), and which of
// them asks is not known here: both are asked for.
func (s *spfResolver) LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error) {
	if plain := plainName(host); s.reverse[plain] && !s.named[plain] {
		ctx, cancel := s.reverseTime(ctx)
		defer cancel()
		addrs, err := s.lookupFamily(ctx, host)
		return addrs, noMatch(err)
	}
	addrs, err := s.lookupFamily(ctx, host)
	return addrs, s.heard(err)
}

func (s *spfResolver) lookupFamily(ctx context.Context, host string) ([]net.IPAddr, error) {
	family, ok := s.r.(FamilyResolver)
	if !ok || !s.ip.Is4() {
		return s.r.LookupIPAddr(ctx, spfName(host))
	}
	found, err := family.LookupNetIP(ctx, "ip4", spfName(host))
	addrs := make([]net.IPAddr, 0, len(found))
	for _, a := range found {
		addrs = append(addrs, net.IPAddr{IP: a.AsSlice()})
	}
	return addrs, err
}

// LookupAddr asks for the names of the client, which are the client's own to answer for, as are their addresses. So that
// silence there does not leave open what a sender's record says, all of it has a time of its own, and no answer means
// no such name: https://www.rfc-editor.org/rfc/rfc7208#section-5.5
func (s *spfResolver) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	ctx, cancel := s.reverseTime(ctx)
	defer cancel()
	names, err := s.r.LookupAddr(ctx, addr)
	if s.reverse == nil {
		s.reverse = make(map[string]bool, len(names))
	}
	for _, name := range names {
		s.reverse[plainName(name)] = true
	}
	return names, noMatch(err)
}

// maxReverseTime is how long the names of a client may be asked about, all in all.
const maxReverseTime = time.Second

func (s *spfResolver) reverseTime(ctx context.Context) (context.Context, context.CancelFunc) {
	if s.until.IsZero() {
		s.until = time.Now().Add(maxReverseTime)
	}
	return context.WithDeadline(ctx, s.until)
}

// plainName is a name as it is compared.
func plainName(name string) string { return strings.ToLower(strings.TrimSuffix(spfName(name), ".")) }

// noMatch turns a temporary error into a clear no.
func noMatch(err error) error {
	if !dnsTemporary(err) {
		return err
	}
	return &net.DNSError{Err: "no answer in time", IsNotFound: true}
}

// sameAddr compares addresses, IPv4 ones in whatever form.
func sameAddr(ip net.IP, addr netip.Addr) bool {
	a, ok := netip.AddrFromSlice(ip)
	return ok && a.Unmap() == addr.Unmap()
}

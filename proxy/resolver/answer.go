package resolver

import (
	"cmp"
	"context"
	"errors"
	"math"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"
)

// status is what an answer says.
type status int

const (
	found  status = iota
	noData        // the name exists, without a record of this type
	noName        // the name does not exist
)

// answer is the outcome of a look-up that the servers answered, "no" included. It never changes once it is made.
type answer struct {
	status  status
	rrs     []dns.RR // at most maxRecords, all of the type asked for
	name    string   // canonical; where the aliases end
	secure  bool
	expires time.Time
	size    int // estimate of what it costs to keep
}

// denial is the error for an answer that holds no record of use.
func (a *answer) denial(q question) *net.DNSError {
	if a.status == noName {
		return notFound(plainName(q.name), "NXDOMAIN: no such domain", true)
	}
	return notFound(plainName(q.name), "no "+typeName(q.qtype)+" record", false)
}

// lifetimes bound how long answers are remembered.
type lifetimes struct{ max, minNegative, maxNegative time.Duration }

// of gives the time for which what was read holds.
// A denial holds for the lesser of the SOA record's TTL and its MINIMUM field, and without that record not at all:
// https://www.rfc-editor.org/rfc/rfc2308#section-5
func (l lifetimes) of(rd reading) time.Duration {
	ttl := time.Duration(rd.ttl) * time.Second
	if rd.status == found {
		return min(ttl, l.max)
	}
	if rd.soa == nil {
		return 0
	}
	negative := time.Duration(min(ttlOf(rd.soa), rd.soa.Minttl)) * time.Second
	return min(ttl, min(max(negative, l.minNegative), l.maxNegative), l.max)
}

var errAliases = errors.New("too many aliases, or a loop of them")

// resolve asks until the aliases end. It looks into the cache for every name but the first.
func (r *Resolver) resolve(ctx context.Context, q question) (*answer, error) {
	a := &answer{name: q.name, secure: true}
	for links := 0; ; {
		part := question{a.name, q.qtype}
		if known := r.cache.get(part, time.Now()); known != nil && part != q { // never a stale one
			a.status, a.rrs, a.name = known.status, known.rrs, known.name
			a.secure = a.secure && known.secure
			a.expires = earlier(a.expires, known.expires)
			a.measure(q)
			return a, nil
		}
		m, sv, err := r.ask(ctx, part)
		if err != nil {
			return nil, err
		}
		rd, rerr := read(m, part, links)
		if rerr != nil {
			return nil, failed(q, sv.addr.String(), rerr.Error())
		}
		links = rd.links
		a.name = rd.name
		a.secure = a.secure && m.AuthenticatedData && sv.loopback
		a.expires = earlier(a.expires, time.Now().Add(r.life.of(rd)))
		if !rd.cut {
			a.status, a.rrs = rd.status, rd.rrs
			a.measure(q)
			return a, nil
		}
	}
}

// earlier is the earlier of two times, of which zero means none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// measure estimates what it costs to keep a. Records in memory take about twice their octets on the wire.
func (a *answer) measure(q question) {
	a.size = 512 + 2*(len(q.name)+len(a.name))
	for _, rr := range a.rrs {
		a.size += 128 + 2*dns.Len(rr)
	}
}

// reading is what one message says to a question.
type reading struct {
	status status
	cut    bool     // the aliases end in name, of which the message says nothing: it must be asked for by itself
	name   string   // canonical; where the aliases end
	links  int      // aliases followed so far
	rrs    []dns.RR // found
	ttl    uint32   // seconds; the least of the aliases and records
	soa    *dns.SOA // of a denial; nil: none
}

// read picks from m what answers q: the records whose name is the end of the chain of aliases that begins at q. Whatever else
// the message holds is not looked at. links is the number of aliases followed before.
func read(m *dns.Msg, q question, links int) (reading, error) {
	rd := reading{name: q.name, links: links, ttl: math.MaxInt32}
	for {
		rd.rrs = records(m.Answer, rd.name, q.qtype)
		if len(rd.rrs) > 0 {
			for _, rr := range rd.rrs {
				rd.ttl = min(rd.ttl, ttlOf(rr))
			}
			rd.rrs = pick(rd.rrs)
			return rd, nil
		}
		alias := records(m.Answer, rd.name, dns.TypeCNAME)
		if len(alias) == 0 {
			break
		}
		if rd.links++; rd.links > maxAliases {
			return rd, errAliases
		}
		rd.ttl = min(rd.ttl, ttlOf(alias[0]))
		rd.name = dns.CanonicalName(alias[0].(*dns.CNAME).Target)
	}
	rd.soa = authority(m.Ns, rd.name)
	switch {
	case m.Rcode == dns.RcodeNameError:
		rd.status = noName // of the last name in the chain: https://www.rfc-editor.org/rfc/rfc2308#section-2.1
	case rd.name != q.name && rd.soa == nil:
		rd.cut, rd.status = true, found
	default:
		rd.status = noData
	}
	return rd, nil
}

// records are those of rrs that belong to name and are of the type.
func records(rrs []dns.RR, name string, qtype uint16) []dns.RR {
	var list []dns.RR
	for _, rr := range rrs {
		h := rr.Header()
		if h.Rrtype == qtype && h.Class == dns.ClassINET && dns.CanonicalName(h.Name) == name {
			list = append(list, rr)
		}
	}
	return list
}

// pick drops what is too many: of mail exchangers the worst, else the last.
func pick(rrs []dns.RR) []dns.RR {
	if len(rrs) <= maxRecords {
		return rrs
	}
	slices.SortStableFunc(rrs, func(a, b dns.RR) int {
		x, ok1 := a.(*dns.MX)
		y, ok2 := b.(*dns.MX)
		if !ok1 || !ok2 {
			return 0
		}
		return cmp.Compare(x.Preference, y.Preference)
	})
	return slices.Clone(rrs[:maxRecords])
}

// authority finds the SOA record of a zone that name is in.
func authority(ns []dns.RR, name string) *dns.SOA {
	for _, rr := range ns {
		if soa, ok := rr.(*dns.SOA); ok && soa.Hdr.Class == dns.ClassINET && dns.IsSubDomain(soa.Hdr.Name, name) {
			return soa
		}
	}
	return nil
}

// ttlOf is the record's TTL in seconds; one beyond 31 bits counts as zero, https://www.rfc-editor.org/rfc/rfc2181#section-8
func ttlOf(rr dns.RR) uint32 {
	if ttl := rr.Header().Ttl; ttl <= math.MaxInt32 {
		return ttl
	}
	return 0
}

// localhost answers for "localhost" and the names below it, which no server is to be asked about.
func localhost(q question, now time.Time) *answer {
	a := &answer{name: q.name, secure: true, expires: now.Add(24 * time.Hour)}
	hdr := dns.RR_Header{Name: q.name, Rrtype: q.qtype, Class: dns.ClassINET}
	switch q.qtype {
	case dns.TypeA:
		a.rrs = []dns.RR{&dns.A{Hdr: hdr, A: netip.MustParseAddr("127.0.0.1").AsSlice()}}
	case dns.TypeAAAA:
		a.rrs = []dns.RR{&dns.AAAA{Hdr: hdr, AAAA: netip.IPv6Loopback().AsSlice()}}
	default:
		a.status = noData
	}
	return a
}

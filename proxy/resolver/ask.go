package resolver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/miekg/dns"
)

// ask puts q to the servers in turn until one answers yes or no. A server that answered otherwise (SERVFAIL, REFUSED) is not
// asked again; one that did not answer is, as long as tries are left. On failure the error is the last one seen.
func (r *Resolver) ask(ctx context.Context, q question) (*dns.Msg, *server, error) {
	order := r.servers.order(time.Now())
	refused := make(map[*server]bool, len(order))
	last := failed(q, "", "no server answered")
	for n, tries := 0, 0; tries < r.attempts && len(refused) < len(order); n++ {
		sv := order[n%len(order)]
		if refused[sv] {
			continue
		}
		tries++
		select {
		case r.slots <- struct{}{}:
		case <-ctx.Done():
			return nil, nil, stopped(ctx, q)
		}
		m, err := r.try(ctx, sv, q)
		<-r.slots
		if err == nil {
			return m, sv, nil
		}
		if ctx.Err() != nil {
			return nil, nil, stopped(ctx, q)
		}
		last = failed(q, sv.addr.String(), err.Error())
		last.IsTimeout = errors.Is(err, errTimeout)
		if errors.As(err, new(rcodeError)) {
			refused[sv] = true
		}
	}
	return nil, nil, last
}

var errTimeout = errors.New("timed out")

// rcodeError is an answer that is neither yes nor no.
type rcodeError string

func (e rcodeError) Error() string { return string(e) }

// try puts q to one server, once, within the time for one try.
func (r *Resolver) try(ctx context.Context, sv *server, q question) (*dns.Msg, error) {
	try, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	m, err := r.exchange(try, sv, q, true)
	if err == nil && (m.Rcode == dns.RcodeFormatError || m.Rcode == dns.RcodeNotImplemented || m.Rcode == dns.RcodeBadVers) {
		// An old server that stumbles over EDNS: https://www.rfc-editor.org/rfc/rfc6891#section-7
		m, err = r.exchange(try, sv, q, false)
	}
	switch {
	case err == nil:
		r.servers.report(sv, answered, time.Now())
		return m, judge(m)
	case ctx.Err() != nil: // ended from outside; this says nothing about the server
		return nil, err
	case try.Err() != nil, errors.Is(err, os.ErrDeadlineExceeded):
		r.servers.report(sv, missed, time.Now())
		return nil, fmt.Errorf("%w after %v", errTimeout, r.timeout)
	}
	if errors.As(err, new(*net.OpError)) {
		r.servers.report(sv, unreachable, time.Now())
	}
	return nil, err
}

// judge tells answers that are yes or no from all others.
func judge(m *dns.Msg) error {
	switch m.Rcode {
	case dns.RcodeNameError:
		return nil
	case dns.RcodeSuccess:
		if len(m.Answer) == 0 && !m.Authoritative && !m.RecursionAvailable && !hasSOA(m.Ns) {
			return rcodeError("lame: the server refers to others")
		}
		return nil
	}
	if s, ok := dns.RcodeToString[m.Rcode]; ok {
		return rcodeError(s)
	}
	return rcodeError(fmt.Sprintf("response code %d", m.Rcode))
}

func hasSOA(rrs []dns.RR) bool {
	for _, rr := range rrs {
		if rr.Header().Rrtype == dns.TypeSOA {
			return true
		}
	}
	return false
}

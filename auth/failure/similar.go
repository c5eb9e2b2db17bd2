package failure

import (
	"net/netip"
	"sync"
	"time"

	"slipstream/auth"
)

// maxSimilar is how many failures are remembered to compare with: some hundred octets each.
const maxSimilar = 4096

// sweepEvery is how often they are all looked through, at most: a flood of mail must not cost that each time.
const sweepEvery = time.Minute

// similar counts failures that are alike. What is wanted is to hear of different ways to fail, not of each failure:
// https://www.rfc-editor.org/rfc/rfc9991#section-8.1
type similar struct {
	window time.Duration

	mu    sync.Mutex
	seen  map[alike]*counted
	swept time.Time // when it was last searched for what is past
}

// Failures are alike that come from one network for one author domain in one way.
type alike struct {
	kind    Kind
	author  string
	network netip.Prefix
	spf     string // result and domain
	dkim    string // of the signature that is told about
	dmarc   string // result and what is aligned
	action  auth.Action
}

type counted struct {
	since time.Time // the last that was told
	more  int       // how many there were after it
}

// Networks that belong to one sender, as a rule: https://www.rfc-editor.org/rfc/rfc6177#section-2
const (
	network4 = 24
	network6 = 64
)

func similarity(r *auth.Report, kind Kind) alike {
	a := alike{
		kind: kind, author: r.DMARC.Domain, action: r.Decision.Action,
		spf: r.SPF.Value + " " + r.SPF.Domain, dmarc: identityAlignment(r),
	}
	if d, ok := failedSignature(r); ok {
		a.dkim = d.Value + " " + d.Selector + " " + d.Domain
	}
	client, bits := r.Envelope.Client.Unmap().WithZone(""), network6
	if client.Is4() {
		bits = network4
	}
	if client.IsValid() {
		a.network = netip.PrefixFrom(client, bits).Masked()
	}
	return a
}

// count returns how many failures a report tells of if it is written now, and whether it is to be written.
func (s *similar) count(a alike, now time.Time) (n int, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.seen[a]
	switch {
	case c == nil:
		s.remember(a, now)
		return 1, true
	case now.Sub(c.since) < s.window:
		c.more++
		return 0, false
	}
	n = c.more + 1
	*c = counted{since: now}
	return n, true
}

// remember makes room where it can. Where it cannot the failure is told like a new one: the rates hold.
func (s *similar) remember(a alike, now time.Time) {
	if len(s.seen) >= maxSimilar && now.Sub(s.swept) >= sweepEvery {
		s.swept = now
		for other, c := range s.seen {
			if now.Sub(c.since) >= s.window {
				delete(s.seen, other)
			}
		}
	}
	if s.seen == nil {
		s.seen = make(map[alike]*counted)
	}
	if len(s.seen) < maxSimilar {
		s.seen[a] = &counted{since: now}
	}
}

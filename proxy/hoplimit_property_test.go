package proxy

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// A placesModel is many transactions that share few places.
type placesModel struct {
	t      *testing.T
	p      *hopPlaces
	max    int
	rnd    *rand.Rand
	mu     sync.Mutex
	served int
}

// Whatever transactions there are, with however many hops, alive or dead, and
// whatever the places: there are never more connections than places, nobody who
// may have no more of them gets one, and every transaction comes to its end. There
// is no clock but that of the dead, which are given up after a while: where
// transactions waited for one another, the bubble would report that nobody can
// move.
func TestPlacesProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		max := rapid.IntRange(1, 40).Draw(rt, "places")
		clients := rapid.IntRange(1, 40).Draw(rt, "transactions")
		hops := rapid.IntRange(1, 50).Draw(rt, "hops")
		domains := rapid.IntRange(1, 30).Draw(rt, "destinations")
		dead := rapid.IntRange(0, domains).Draw(rt, "dead")
		late := rapid.IntRange(0, 100).Draw(rt, "late, of 100")
		seed := rapid.Uint64().Draw(rt, "seed")
		synctest.Test(t, func(t *testing.T) {
			m := &placesModel{t: t, p: newHopPlaces(max), max: max, rnd: rand.New(rand.NewPCG(seed, 0))}
			var wg sync.WaitGroup
			for range clients {
				n, isLate := 1+m.rnd.IntN(hops), m.rnd.IntN(100) < late
				var to []int
				for range n {
					to = append(to, m.rnd.IntN(domains))
				}
				begin := time.Duration(m.rnd.IntN(5000)) * time.Millisecond
				wg.Go(func() {
					time.Sleep(begin)
					if isLate {
						m.late(to, dead)
						return
					}
					m.ordinary(to, dead)
				})
			}
			wg.Wait()
			m.check()
			if m.served == 0 && dead == 0 {
				t.Error("nobody was served")
			}
			idlePlaces(t, m.p)
		})
	})
}

// connect takes a place and waits for an answer. The dead never give one.
func (m *placesModel) connect(ctx context.Context, c *claim, to, dead int) *hopPlace {
	ctx, over := m.p.patient(ctx, c)
	defer over()
	_, place, err := m.p.enter(ctx, placeKey(fmt.Sprint(to)), asking{claim: c})
	m.check()
	if err != nil {
		return nil
	}
	if to < dead {
		time.Sleep(30 * time.Second)
		place.leave()
		return nil
	}
	time.Sleep(50 * time.Millisecond)
	place.heard()
	m.mu.Lock()
	m.served++
	m.mu.Unlock()
	return place
}

// ordinary asks all hops before it has a text for any.
func (m *placesModel) ordinary(to []int, dead int) {
	c := m.p.newClaim(nil)
	places := make([]*hopPlace, len(to))
	var wg sync.WaitGroup
	for i := range to {
		work := func() {
			if places[i] = m.connect(m.t.Context(), c, to[i], dead); places[i] != nil {
				m.p.hold(c)
			}
		}
		if i%3 == 0 {
			work() // some recipients come one by one
			continue
		}
		wg.Go(work)
	}
	wg.Wait()
	time.Sleep(time.Second) // the client sends its text
	for _, place := range places {
		if place != nil {
			m.p.drop(c)
			place.leave()
		}
	}
}

// late has the text before it asks anybody: no hop waits for another.
func (m *placesModel) late(to []int, dead int) {
	var wg sync.WaitGroup
	for _, one := range to {
		wg.Go(func() {
			if place := m.connect(m.t.Context(), m.p.newClaim(nil), one, dead); place != nil {
				time.Sleep(time.Second)
				place.leave()
			}
		})
	}
	wg.Wait()
}

// check looks at the bounds.
func (m *placesModel) check() {
	p := m.p
	p.mu.Lock()
	defer p.mu.Unlock()
	open, silent, queued := 0, 0, 0
	for _, a := range p.known {
		open, silent, queued = open+a.open, silent+a.silent, queued+a.line.Len()
		if a.silent > share(m.max, silentShare) {
			m.t.Errorf("%d of %d places without an answer", a.silent, m.max)
		}
	}
	if p.open > m.max || open != p.open || queued != p.queued ||
		p.doubtful > share(m.max, doubtfulShare) || p.doubtful > silent {
		m.t.Errorf("of %d places %d are taken (%d), %d doubtful (%d silent); %d wait (%d)",
			m.max, p.open, open, p.doubtful, silent, p.queued, queued)
	}
	if next := p.next(); next != nil && p.sated(next) {
		for _, a := range p.known {
			if a.line.Len() > 0 && !p.sated(a) && p.mayHave(a) {
				m.t.Errorf("%s has %d of %d places and comes before %s", next.at.route, next.open, m.max, a.at.route)
			}
		}
	}
	if p.queued > 0 && p.open < m.max && p.next() != nil {
		m.t.Error("somebody waits though he need not")
	}
}

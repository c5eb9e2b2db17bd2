package proxy

import (
	"container/list"
	"context"
	"fmt"
	"sync"
	"time"
)

// A destination is what recipients must have in common to share a transaction, as
// one door knows it. Its name outlives a reload, and so do those of doors.
type destination struct {
	door  string
	route string // Route.Key
}

// hopPlaces bounds how many connections to next hops are open at once, over all
// doors. A connection has a place from before it is dialled until it is closed.
// There is one in a [Proxy].
//
// Where there is none left, whoever needs one stands in line, and who came first
// is served first, with two exceptions so that the living do not wait for the
// dead:
//
//   - of one destination, one part in four of all places at most may have no answer yet;
//   - of all destinations that have not answered lately, taken together, a half;
//     those that the configuration names do not count there.
//
// Who is behind somebody that may not have a place for that reason goes first. And
// where a destination has a half of all places already, whether it answers or not,
// the others that stand in line and may have one go first: one that greets and
// then takes its time gets no further place while anybody else can use it.
//
// Nobody waits for ever for those who wait for him: see [claim].
type hopPlaces struct {
	mu       sync.Mutex
	max      int
	open     int
	doubtful int // places without an answer, of destinations that had not answered lately
	queued   int // who stands in line
	seq      uint64
	known    map[destination]*footing
	trusted  ranked[*footing]    // those that may have a place, by whose turn it is; they have answered lately
	strange  ranked[*footing]    // the same, of the others
	recent   list.List           // of *footing: nobody has or wants a place, but they have answered lately
	greedy   map[*claim]struct{} // those that have connections and wait for more
	elder    *claim              // who may do so while others wait
	told     time.Time           // when it was last said that there are no places left

	// evict ends a connection that nobody uses, if there is one; waited hears of
	// each that has to wait, and crowded that there are no places left, once a
	// minute at most. nil: nobody does. None is called with mu held.
	evict   func()
	waited  func(door string)
	crowded func(max, waiting int)
}

// Shares of all places.
const (
	silentShare   = 4 // of one destination that has not answered: one part in so many
	doubtfulShare = 2 // of all destinations that have not answered lately
	claimShare    = 2 // of one transaction that waits for more
	hopShare      = 2 // of one destination, before others that stand in line
)

const (
	// trustedFor is how long a destination that has answered is taken for one that
	// does, unless it does not.
	trustedFor = 10 * time.Minute
	// maxTrusted bounds how many such destinations are remembered that have no
	// connection. The one that was first to lose its last makes room.
	maxTrusted = 4096
	// crowdedEvery bounds how often it is said that there are no places left.
	crowdedEvery = time.Minute
)

// A footing is what one destination has of the places.
type footing struct {
	at       destination
	open     int
	silent   int       // those on which nobody has answered yet
	answered time.Time // when somebody last did; zero: an attempt since then had no answer
	chosen   bool      // it is named in the configuration
	line     list.List // of *queued
	ranks    *ranked[*footing]
	rank     int
	resting  *list.Element // in recent
}

// A queued stands in line.
type queued struct {
	seq uint64
	key poolKey
	got chan placeGrant // holds one
}

// A placeGrant is a place, a connection with one, or the reason why there will be
// none.
type placeGrant struct {
	place *hopPlace
	peer  *peer
	err   error
}

// A hopPlace is one connection's.
type hopPlace struct {
	all      *hopPlaces
	of       *footing
	doubtful bool
	answered bool
	left     bool
}

func newHopPlaces(max int) *hopPlaces {
	p := &hopPlaces{max: max, known: make(map[destination]*footing), greedy: make(map[*claim]struct{})}
	first := func(a *footing) uint64 { return a.line.Front().Value.(*queued).seq }
	byTurn := ranked[*footing]{
		before: func(a, b *footing) bool {
			if x, y := p.sated(a), p.sated(b); x != y {
				return y
			}
			return first(a) < first(b)
		},
		rank: func(a *footing) *int { return &a.rank },
	}
	p.trusted, p.strange = byTurn, byTurn
	return p
}

// resize sets how many places there are. Who has one keeps it.
func (p *hopPlaces) resize(max int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range p.known { // their order depends on it
		if a.ranks != nil {
			p.unrank(a)
		}
	}
	p.max = max
	for _, a := range p.known {
		p.line(a)
	}
	p.serve()
}

// share is one part in so many of all places, but one at least.
func share(all, part int) int { return max(1, all/part) }

// A crowdedError is trouble of our own: there was no place for a connection. It
// says nothing about the hop.
type crowdedError struct {
	why string
	err error // why it was not waited for any longer
}

func (e *crowdedError) Error() string {
	if e.err == nil {
		return e.why
	}
	return fmt.Sprintf("%s: %v", e.why, e.err)
}

func (e *crowdedError) Unwrap() error { return e.err }

// enter takes a place for one more connection. Where there is none for this
// destination it waits, until ctx ends; a connection that is kept is ended to make
// room. Instead of a place it may give a connection of the key that came free, in
// good order and the caller's as from [pool.get].
func (p *hopPlaces) enter(ctx context.Context, k poolKey, by asking) (*peer, *hopPlace, error) {
	if p == nil {
		return nil, nil, nil // a connection outside of the service: nobody counts it
	}
	p.mu.Lock()
	a := p.footing(destination{k.door, k.route})
	a.chosen = a.chosen || by.chosen
	if a.line.Len() == 0 && p.open < p.max && p.mayHave(a) {
		place := p.give(a)
		p.mu.Unlock()
		return nil, place, nil
	}
	if err := p.mayWait(by.claim); err != nil {
		why := p.reason(a)
		p.rest(a)
		p.mu.Unlock()
		return nil, nil, &crowdedError{why, err}
	}
	q := &queued{seq: p.turn(), key: k, got: make(chan placeGrant, 1)}
	a.line.PushBack(q)
	p.queued++
	p.line(a)
	p.giveWay()
	room := p.open >= p.max && p.next() != nil // would help somebody
	p.mu.Unlock()
	if p.waited != nil {
		p.waited(k.door)
	}
	if room {
		p.makeRoom(by.claim)
	}
	return p.await(ctx, a, q, by)
}

// turn gives a number to who comes next. p.mu is held.
func (p *hopPlaces) turn() uint64 {
	p.seq++
	return p.seq
}

// makeRoom ends connections that nobody uses, of whose claim it is first.
func (p *hopPlaces) makeRoom(c *claim) {
	c.yield()
	if p.evict != nil {
		p.evict()
	}
	p.mu.Lock()
	all, waiting := p.max, p.queued
	say := waiting > 0 && p.crowded != nil && (p.told.IsZero() || time.Since(p.told) >= crowdedEvery)
	if say {
		p.told = time.Now()
	}
	p.mu.Unlock()
	if say {
		p.crowded(all, waiting)
	}
}

// await waits until q is served, or ctx ends.
func (p *hopPlaces) await(ctx context.Context, a *footing, q *queued, by asking) (*peer, *hopPlace, error) {
	for {
		select {
		case g := <-q.got:
			if g.err != nil {
				if by.giveUp != nil {
					by.giveUp(g.err)
				}
				return nil, nil, &crowdedError{"there was no place for a connection", g.err}
			}
			if g.peer == nil || g.peer.quiet() {
				return g.peer, g.place, nil
			}
			p.again(a, q)
			g.peer.close() // its place is for who comes first now
		case <-ctx.Done():
			why := p.withdraw(a, q)
			select {
			case g := <-q.got: // at the same moment: the next one may have it
				if g.peer != nil {
					g.peer.leave()
				}
				g.place.leave()
			default:
			}
			return nil, nil, &crowdedError{why, context.Cause(ctx)}
		}
	}
}

// reason says why somebody has to wait.
func (p *hopPlaces) reason(a *footing) string {
	switch {
	case p.open >= p.max:
		return fmt.Sprintf("all %d connections to next hops that there may be (limits.max_hop_connections) are in use", p.max)
	case a.silent >= share(p.max, silentShare):
		return fmt.Sprintf("%d connections there have no answer yet, and no more are tried at a time", a.silent)
	case a.line.Len() > 0:
		return "others wait to be connected there"
	}
	return fmt.Sprintf("%d connections to destinations that have not answered lately have no answer yet, "+
		"and no more are tried at a time", p.doubtful)
}

// footing finds what a destination has. p.mu is held.
func (p *hopPlaces) footing(at destination) *footing {
	a := p.known[at]
	if a == nil {
		a = &footing{at: at}
		p.known[at] = a
	}
	if a.resting != nil {
		p.recent.Remove(a.resting)
		a.resting = nil
	}
	return a
}

// trusts tells whether a destination has answered lately.
func (p *hopPlaces) trusts(a *footing) bool {
	return a.chosen || !a.answered.IsZero() && time.Since(a.answered) < trustedFor
}

// mayHave tells whether a destination may have another place, if there is one.
// p.mu is held.
func (p *hopPlaces) mayHave(a *footing) bool {
	return a.silent < share(p.max, silentShare) && (p.trusts(a) || p.doubtful < share(p.max, doubtfulShare))
}

// sated tells whether others come before a destination, since it has so many
// places already.
func (p *hopPlaces) sated(a *footing) bool { return a.open >= share(p.max, hopShare) }

// give gives a place away. p.mu is held.
func (p *hopPlaces) give(a *footing) *hopPlace {
	place := &hopPlace{all: p}
	p.open++
	place.count(a)
	p.giveWay()
	return place
}

// count puts a place on which nobody has answered down to a destination. p.mu is
// held.
func (l *hopPlace) count(a *footing) {
	l.of, l.doubtful = a, !l.all.trusts(a)
	a.open++
	a.silent++
	if l.doubtful {
		l.all.doubtful++
	}
}

// heard notes that somebody has answered.
func (l *hopPlace) heard() {
	if l == nil || l.answered {
		return
	}
	p := l.all
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.left {
		return
	}
	l.of.answered = time.Now()
	l.speaks()
	p.line(l.of)
	p.serve()
}

// speaks ends the silence of a connection, or the connection. p.mu is held.
func (l *hopPlace) speaks() {
	l.answered = true
	l.of.silent--
	if l.doubtful {
		l.all.doubtful--
	}
}

// leave gives the place up. It may be called more than once, and on nil.
func (l *hopPlace) leave() { l.end(true) }

// end is leave. Where nobody was asked for an answer, that there was none says
// nothing about the destination.
func (l *hopPlace) end(asked bool) {
	if l == nil {
		return
	}
	p := l.all
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.left {
		return
	}
	l.left = true
	p.open--
	l.of.open--
	if !l.answered {
		if asked {
			l.of.answered = time.Time{}
		}
		l.speaks()
	}
	p.line(l.of)
	p.serve()
	p.rest(l.of)
}

// rest forgets a destination that nobody has or wants a place of, unless it is
// worth remembering. p.mu is held.
func (p *hopPlaces) rest(a *footing) {
	if a.open > 0 || a.line.Len() > 0 || a.resting != nil {
		return
	}
	if a.chosen || !p.trusts(a) {
		delete(p.known, a.at)
		return
	}
	a.resting = p.recent.PushBack(a)
	if p.recent.Len() > maxTrusted {
		old := p.recent.Remove(p.recent.Front()).(*footing)
		delete(p.known, old.at)
	}
}

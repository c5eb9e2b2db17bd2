package proxy

import (
	"context"
	"errors"
)

// A claim is what one transaction has of the places. A transaction that has
// connections to some hops and waits for more could wait for one that waits for
// it. So where there are no places left and anybody stands in line:
//
//   - of the transactions that have connections and wait for more only one goes on
//     waiting, the one that began first; the others are told at once that there is
//     no place, and their recipients to come again;
//   - it waits no longer once it has half of all places itself.
//
// The rest of the places is then with connections that wait for nobody in line:
// they come free in their own time, and who stands in line gets them. What is
// asked after the text is here has no part in this, since each hop then has its
// message whatever becomes of the others.
type claim struct {
	born  uint64
	never bool   // it does not wait: it is made ahead of who will
	kept  func() // ends what its session keeps for later; nil: nothing

	held  int // connections that it keeps until the end of the transaction
	waits map[*wait]struct{}
}

// A wait is for one place, or for one of those to one hop.
type wait struct{ cancel context.CancelCauseFunc }

var (
	errNotAhead = errors.New("none is made ahead")
	errOwnShare = errors.New("this transaction has its share of them already")
	errGiveWay  = errors.New("this transaction has some already, and another one that has was first")
)

// newClaim makes the claim of a transaction. kept ends the connections that its
// session keeps and does not use now.
func (p *hopPlaces) newClaim(kept func()) *claim {
	c := &claim{kept: kept, waits: make(map[*wait]struct{})}
	if p != nil {
		p.mu.Lock()
		c.born = p.turn()
		p.mu.Unlock()
	}
	return c
}

func (c *claim) yield() {
	if c != nil && c.kept != nil {
		c.kept()
	}
}

// mayWait tells why a claim may not stand in line. p.mu is held.
func (p *hopPlaces) mayWait(c *claim) error {
	switch {
	case c == nil:
		return nil
	case c.never:
		return errNotAhead
	case p.open >= p.max && c.held >= share(p.max, claimShare):
		return errOwnShare
	}
	return nil
}

// patient returns the context of a wait, which ends with an error as its cause
// when the claim must not wait any longer. Whoever calls it says when the wait is
// over.
func (p *hopPlaces) patient(ctx context.Context, c *claim) (_ context.Context, over func()) {
	if p == nil || c == nil || c.never {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	w := &wait{cancel}
	p.mu.Lock()
	defer p.mu.Unlock()
	c.waits[w] = struct{}{}
	p.weigh(c)
	return ctx, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(c.waits, w)
		p.weigh(c)
		cancel(nil)
	}
}

// hold notes that a claim has one more connection until the end of its
// transaction.
func (p *hopPlaces) hold(c *claim) { p.holds(c, 1) }

// drop notes that it has one less.
func (p *hopPlaces) drop(c *claim) { p.holds(c, -1) }

func (p *hopPlaces) holds(c *claim, by int) {
	if p == nil || c == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c.held += by
	p.weigh(c)
}

// weigh sees whether a claim has connections and waits for more, and has those
// wait no longer that must not. p.mu is held.
func (p *hopPlaces) weigh(c *claim) {
	if c.held == 0 || len(c.waits) == 0 {
		delete(p.greedy, c)
		if p.elder == c {
			p.elder = nil
		}
		return
	}
	p.greedy[c] = struct{}{}
	p.giveWay()
}

// giveWay has all but one of those wait no longer that have connections and wait
// for more, if anybody stands in line for want of places. Who waits for another
// reason waits for answers, which come, or do not, in their own time. p.mu is held.
func (p *hopPlaces) giveWay() {
	if p.queued == 0 || p.open < p.max || len(p.greedy) == 0 {
		return
	}
	if p.elder == nil {
		for c := range p.greedy {
			if p.elder == nil || c.born < p.elder.born {
				p.elder = c
			}
		}
	}
	for c := range p.greedy {
		switch {
		case c != p.elder:
			c.giveUp(errGiveWay)
		case c.held >= share(p.max, claimShare):
			c.giveUp(errOwnShare)
		}
	}
}

// giveUp ends the waits of a claim.
func (c *claim) giveUp(why error) {
	for w := range c.waits {
		w.cancel(why)
	}
}

// An asking is who asks for a connection.
type asking struct {
	claim  *claim                  // nil: nobody's
	giveUp context.CancelCauseFunc // ends all that is done to connect; nil: nothing does
	chosen bool                    // the configuration names the destination
}

// askingKey is where a context has it.
type askingKey struct{}

func withAsking(ctx context.Context, by asking) context.Context {
	return context.WithValue(ctx, askingKey{}, by)
}

func askingOf(ctx context.Context) asking {
	by, _ := ctx.Value(askingKey{}).(asking)
	return by
}

// aheadOfAll is for connections that are made before anybody asks for them: they
// take a place that is free, and wait for none.
func aheadOfAll(ctx context.Context, chosen bool) context.Context {
	return withAsking(ctx, asking{claim: &claim{never: true}, chosen: chosen})
}

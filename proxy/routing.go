package proxy

import (
	"context"
	"slices"
	"strings"
	"sync"

	"slipstream/proxy/route"
)

// route finds the leg of each recipient, opening legs as the door allows, and
// refuses those that cannot share the transaction.
func (t *transaction) route(ctx context.Context, b *batch, asked []int) []group {
	routes := t.lookUp(ctx, b, asked)
	var groups []group
	for _, i := range asked {
		found, ok := routes[i]
		if !ok {
			continue // refused: its domain has no route
		}
		l := t.legFor(found, groups)
		switch {
		case l == nil && len(t.legs) >= maxLegs:
			b.fill(i, t.tooMany())
			continue
		case l == nil:
			b.fill(i, t.oneDestination())
			continue
		}
		groups = addTo(groups, l, i)
	}
	return groups
}

func addTo(groups []group, l *leg, slot int) []group {
	for i := range groups {
		if groups[i].leg == l {
			groups[i].slots = append(groups[i].slots, slot)
			return groups
		}
	}
	return append(groups, group{leg: l, slots: []int{slot}})
}

// legFor returns the leg of a route; nil: there is no room for it. Where there may
// be one at a time, or there are many, one that nobody was accepted on makes room
// for another.
func (t *transaction) legFor(r route.Route, wanted []group) *leg {
	for _, l := range t.legs {
		if l.route.Key == r.Key {
			return l
		}
	}
	most := 1
	if t.manyLegs() {
		most = maxLegs
	}
	if len(t.legs) >= most && !t.dropIdle(wanted) {
		return nil
	}
	l := &leg{tx: t, route: r, lead: t.leadFor(r.Key)}
	t.legs = append(t.legs, l)
	return l
}

// dropIdle lets go of a leg that was asked and accepted nobody, and is not about
// to be asked again.
func (t *transaction) dropIdle(wanted []group) bool {
	i := slices.IndexFunc(t.legs, func(l *leg) bool {
		again := slices.ContainsFunc(wanted, func(g group) bool { return g.leg == l })
		return len(l.accepted) == 0 && (l.begun || l.err != nil) && !again
	})
	if i < 0 {
		return false
	}
	t.release(t.legs[i])
	t.legs = slices.Delete(t.legs, i, i+1)
	return true
}

// maxLegs bounds the destinations, and so the connections, of one transaction.
const maxLegs = 50

// asciiLower folds what every domain may be folded by. More (sharp s and its
// like) is for the route to say, which knows the rules for such names.
func asciiLower(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, s)
}

// maxLookUps bounds how many destinations of one flight are looked up at a time.
const maxLookUps = 16

// lookUp finds the routes of a flight's recipients, each domain once, and
// refuses those that have none.
func (t *transaction) lookUp(ctx context.Context, b *batch, asked []int) map[int]route.Route {
	type answer struct {
		r   route.Route
		err error
	}
	byDomain := make(map[string]*answer)
	slotDomain := make(map[int]string)
	var wg sync.WaitGroup
	turn := make(chan struct{}, maxLookUps)
	for _, i := range asked {
		to := b.cmds[i].Path
		domain := asciiLower(to.Domain)
		slotDomain[i] = domain
		if byDomain[domain] != nil {
			continue
		}
		a := &answer{}
		byDomain[domain] = a
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			a.err = within(ctx, "the route", t.s.times.Setup, func(ctx context.Context) (err error) {
				a.r, err = t.router().Route(ctx, t.mail.Path, to)
				return err
			})
		})
	}
	wg.Wait()
	routes := make(map[int]route.Route)
	for _, i := range asked {
		a := byDomain[slotDomain[i]]
		if a.err != nil {
			t.note(a.err)
			b.fill(i, t.failed(a.err))
			continue
		}
		routes[i] = a.r
	}
	return routes
}

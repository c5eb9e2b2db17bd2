package proxy

import (
	"context"
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
		l := t.legFor(found)
		if l == nil && t.s.door.lmtp {
			b.fill(i, composed(452, "4.5.3", "too many destinations in one transaction: send this recipient again"))
			continue
		}
		if l == nil {
			b.fill(i, oneDestination())
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

// legFor returns the leg of a route. The SMTP door has one at a time (RFC 9422:
// RCPTDOMAINMAX=1); one that nobody was accepted on makes room for another.
// https://www.rfc-editor.org/rfc/rfc9422#section-4.3
func (t *transaction) legFor(r route.Route) *leg {
	for _, l := range t.legs {
		if l.route.Key == r.Key {
			return l
		}
	}
	if !t.s.door.lmtp && len(t.legs) > 0 {
		old := t.legs[len(t.legs)-1]
		if len(old.accepted) > 0 || !old.begun && old.err == nil {
			return nil
		}
		t.release(old)
		t.legs = t.legs[:len(t.legs)-1]
	}
	if len(t.legs) >= maxLegs {
		return nil
	}
	l := &leg{tx: t, route: r, supply: t.leadFor(r.Key)}
	t.legs = append(t.legs, l)
	return l
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
				a.r, err = t.s.door.router.Route(ctx, t.mail.Path, to)
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

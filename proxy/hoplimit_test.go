package proxy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// placeKey is what a destination's connections would be kept under.
func placeKey(route string) poolKey { return poolKey{door: "out", route: route} }

func takePlace(t *testing.T, p *hopPlaces, ctx context.Context, route string, by asking) *hopPlace {
	t.Helper()
	_, place, err := p.enter(ctx, placeKey(route), by)
	if err != nil {
		t.Fatal(err)
	}
	return place
}

// idlePlaces checks that nothing is left behind.
func idlePlaces(t *testing.T, p *hopPlaces) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open != 0 || p.doubtful != 0 || p.queued != 0 || len(p.greedy) != 0 || p.elder != nil ||
		len(p.trusted.items)+len(p.strange.items) != 0 || len(p.known) != p.recent.Len() {
		t.Errorf("left over: %+v", p)
	}
}

// Who came first is served first, and the end of a context is the end of a wait.
func TestPlacesInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHopPlaces(8)
		var have []*hopPlace
		for i := range 8 {
			place := takePlace(t, p, t.Context(), fmt.Sprint("d", i), asking{})
			place.heard()
			have = append(have, place)
		}
		var mu sync.Mutex
		var order []int
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if i == 2 {
					ctx, cancel = context.WithTimeout(ctx, time.Second)
					defer cancel()
				}
				_, place, err := p.enter(ctx, placeKey("d0"), asking{})
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					order = append(order, -i)
					var crowded *crowdedError
					if !errors.As(err, &crowded) || !strings.Contains(err.Error(), "all 8 connections to next hops") {
						t.Error(err)
					}
					return
				}
				order = append(order, i)
				place.leave()
			})
			synctest.Wait()
		}
		time.Sleep(2 * time.Second)
		for _, place := range have {
			place.leave()
			place.leave() // once is enough
			synctest.Wait()
		}
		wg.Wait()
		if fmt.Sprint(order) != "[-2 0 1 3 4]" {
			t.Errorf("served in the order %v", order)
		}
		idlePlaces(t, p)
	})
}

// A destination without an answer has a quarter of all places at most, and all
// such destinations have a half. Who may have none for that reason holds nobody up.
func TestPlacesOfTheDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHopPlaces(40)
		alive := takePlace(t, p, t.Context(), "alive", asking{})
		alive.heard()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		held := make(map[string]int)
		var mu sync.Mutex
		for d := range 5 {
			for range 30 {
				wg.Go(func() {
					dead := fmt.Sprint("dead", d)
					_, place, err := p.enter(ctx, placeKey(dead), asking{})
					if err != nil {
						return
					}
					mu.Lock()
					held[dead]++
					mu.Unlock()
					<-ctx.Done()
					place.leave()
				})
				synctest.Wait()
			}
		}
		if fmt.Sprint(held) != "map[dead0:10 dead1:10]" {
			t.Errorf("the dead have %v", held)
		}
		chosen := takePlace(t, p, t.Context(), "named in the configuration", asking{chosen: true})
		chosen.leave()
		began := time.Now()
		var more []*hopPlace
		for range 19 {
			place := takePlace(t, p, t.Context(), "alive", asking{})
			place.heard()
			more = append(more, place)
		}
		if time.Since(began) != 0 || p.open != 40 {
			t.Errorf("the living waited %v, and %d places are taken", time.Since(began), p.open)
		}
		alive.leave()
		for _, place := range more {
			place.leave()
		}
		cancel()
		wg.Wait()
		idlePlaces(t, p)
	})
}

// One that had answered and does not any more is trusted no longer.
func TestPlacesTrust(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHopPlaces(8)
		trusted := func() bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			a := p.known[destination{"out", "d"}]
			return a != nil && p.trusts(a)
		}
		takePlace(t, p, t.Context(), "d", asking{}).leave()
		if trusted() || len(p.known) != 0 {
			t.Error("who has not answered is remembered")
		}
		place := takePlace(t, p, t.Context(), "d", asking{})
		place.heard()
		place.leave()
		if !trusted() {
			t.Error("who has answered is not trusted")
		}
		time.Sleep(trustedFor)
		if trusted() {
			t.Error("trusted for too long")
		}
		place = takePlace(t, p, t.Context(), "d", asking{})
		place.heard()
		place.leave()
		takePlace(t, p, t.Context(), "d", asking{}).leave()
		if trusted() {
			t.Error("trusted though the last one had no answer")
		}
		for i := range maxTrusted + 10 {
			place := takePlace(t, p, t.Context(), fmt.Sprint(i), asking{})
			place.heard()
			place.leave()
		}
		if len(p.known) != maxTrusted {
			t.Errorf("%d are remembered", len(p.known))
		}
		idlePlaces(t, p)
	})
}

// Fewer places than are taken: nobody loses one, and nobody gets another until
// there are few enough. More places: who waits has them at once.
func TestPlacesResize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHopPlaces(4)
		var have []*hopPlace
		for i := range 4 {
			place := takePlace(t, p, t.Context(), fmt.Sprint(i), asking{})
			place.heard()
			have = append(have, place)
		}
		p.resize(2)
		var got *hopPlace
		go func() { _, got, _ = p.enter(t.Context(), placeKey("0"), asking{}) }()
		synctest.Wait()
		have[0].leave()
		have[1].leave()
		synctest.Wait()
		if got != nil {
			t.Fatal("a third place of two")
		}
		p.resize(3)
		synctest.Wait()
		if got == nil {
			t.Fatal("no place though there is one")
		}
		got.leave()
		have[2].leave()
		have[3].leave()
		idlePlaces(t, p)
	})
}

// Two transactions of fifty hops each, and room for fifty connections: each takes
// what it can before either has what it needs. One goes on, the other's recipients
// are told to come again; nobody waits for the other for ever. There is no clock in
// this test: were both to wait, the bubble would report that nobody can move.
func TestPlacesNoDeadlock(t *testing.T) {
	for _, places := range []int{1, 2, 3, 10, 50, 60, 99, 100} {
		synctest.Test(t, func(t *testing.T) {
			p := newHopPlaces(places)
			var refused, served [2]int
			var all sync.WaitGroup
			for n := range 2 {
				all.Go(func() {
					c := p.newClaim(nil)
					legs := make([]*hopPlace, maxLegs)
					var wg sync.WaitGroup
					for i := range legs {
						wg.Go(func() {
							ctx, over := p.patient(t.Context(), c)
							defer over()
							_, place, err := p.enter(ctx, placeKey(fmt.Sprint(n, i)), asking{claim: c})
							if err == nil {
								time.Sleep(time.Millisecond)
								place.heard()
								p.hold(c)
								legs[i] = place
							}
						})
					}
					wg.Wait() // all hops are asked before the text is sent to any
					for _, place := range legs {
						if place == nil {
							refused[n]++
							continue
						}
						served[n]++
						p.drop(c)
						place.leave()
					}
				})
			}
			all.Wait()
			if served[0] == 0 || served[1] == 0 {
				t.Errorf("%d places: served %v, told to come again %v", places, served, refused)
			}
			if places == 100 && refused != [2]int{} {
				t.Errorf("told to come again though there is room for all: %v", refused)
			}
			idlePlaces(t, p)
		})
	}
}

// What is made ahead of who asks for it takes what is free, and waits for nothing.
func TestPlacesAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHopPlaces(1)
		ahead := askingOf(aheadOfAll(t.Context(), false))
		place := takePlace(t, p, t.Context(), "a", ahead)
		if _, _, err := p.enter(t.Context(), placeKey("b"), ahead); !errors.Is(err, errNotAhead) {
			t.Errorf("waited for a place: %v", err)
		}
		place.leave()
		idlePlaces(t, p)
	})
}

// Those in line for a destination are let go when it is known that it cannot be
// reached, and all that they try ends.
func TestPlacesAbandon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHopPlaces(4)
		place := takePlace(t, p, t.Context(), "dead", asking{})
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				ctx, cancel := context.WithCancelCause(t.Context())
				_, _, err := p.enter(ctx, placeKey("dead"), asking{giveUp: cancel})
				var paused *pausedError
				if !errors.As(err, &paused) || !errors.As(context.Cause(ctx), &paused) || !noFault(err) {
					t.Errorf("%v, %v", err, context.Cause(ctx))
				}
			})
		}
		synctest.Wait()
		p.abandon(destination{"out", "dead"}, &pausedError{"dead"})
		p.abandon(destination{"out", "unknown"}, &pausedError{"unknown"})
		wg.Wait()
		place.leave()
		idlePlaces(t, p)
	})
}

// A quarter of the descriptors is for connections to hops in any case, and what
// the clients leave if that is more.
func TestHopConnections(t *testing.T) {
	limits := DefaultConfig().Limits
	for _, tt := range []struct {
		files uint64
		max   int // configured
		want  int
	}{
		{0, 0, 1_000_000},
		{0, 7, 7},
		{1 << 19, 0, 1<<19 - 20_000 - filesBeside},
		{1 << 30, 0, 1_000_000},
		{31_980, 0, 31_980 - 20_000 - filesBeside},
		{1024, 0, 256},
		{3, 0, 1},
		{1024, 5000, 5000},
	} {
		limits.MaxHopConnections = tt.max
		if got := limits.hopConnections(tt.files); got != tt.want {
			t.Errorf("%d files, %d configured: %d, want %d", tt.files, tt.max, got, tt.want)
		}
	}
}

// Who is trusted when it gets in line may be trusted no longer when its turn comes.
func TestPlacesTrustEndsInLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHopPlaces(4)
		var have []*hopPlace
		for range 3 {
			place := takePlace(t, p, t.Context(), "old", asking{})
			place.heard()
			have = append(have, place)
		}
		have = append(have, takePlace(t, p, t.Context(), "strange", asking{}))
		var wg sync.WaitGroup
		for i := range 3 {
			to := []string{"old", "strange too", "strange, the third"}[i]
			wg.Go(func() {
				place := takePlace(t, p, t.Context(), to, asking{})
				time.Sleep(time.Hour)
				place.leave()
			})
			synctest.Wait()
		}
		time.Sleep(trustedFor)
		for _, place := range have[:3] {
			place.leave()
			synctest.Wait()
			if p.doubtful > 2 {
				t.Errorf("%d of 4 places are for those that have not answered", p.doubtful)
			}
		}
		have[3].leave()
		wg.Wait()
		idlePlaces(t, p)
	})
}

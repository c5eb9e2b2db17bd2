package proxy

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A place that is taken ahead is put down to the destination that it turns out to
// be for, if that may have it, and says nothing of those that were not asked.
func TestPlacesMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHopPlaces(8)
		at := func(route string) destination { return destination{"out", route} }
		have := func(route string) int {
			p.mu.Lock()
			defer p.mu.Unlock()
			if a := p.known[at(route)]; a != nil {
				return a.open
			}
			return 0
		}
		spare := func() *hopPlace {
			place, ok := p.spare(at("address"))
			if !ok {
				t.Fatal("there is none")
			}
			return place
		}
		first, second := spare(), spare()
		if _, ok := p.spare(at("address")); ok {
			t.Error("three of eight places without an answer")
		}
		first.move(at("name"))
		second.move(at("name"))
		third := spare()
		third.move(at("name")) // has a quarter already
		if have("name") != 2 || have("address") != 1 {
			t.Errorf("%d and %d", have("name"), have("address"))
		}
		first.heard()
		first.move(at("address")) // it is known by now
		third.move(at("name"))
		if have("name") != 3 || have("address") != 0 || p.doubtful != 1 {
			t.Errorf("%d and %d, %d doubtful", have("name"), have("address"), p.doubtful)
		}
		third.end(false)
		if !p.trusts(p.known[at("name")]) {
			t.Error("trusted no longer, though nobody was asked")
		}
		second.leave()
		second.move(at("address"))
		first.leave()
		idlePlaces(t, p)
		var none *hopPlaces
		place, ok := none.spare(at("address"))
		place.move(at("name"))
		place.end(false)
		if !ok {
			t.Error("who counts nothing has none")
		}
	})
}

// A destination that answers and then takes its time gets no further place while
// others that may have one stand in line, however late they came; nobody else's
// wait keeps a place free.
func TestPlacesOfTheSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const all = 40
		p := newHopPlaces(all)
		var mu sync.Mutex
		slow := 0
		var wg sync.WaitGroup
		for range 3 * all { // it greets at once
			wg.Go(func() {
				place := takePlace(t, p, t.Context(), "slow", asking{})
				place.heard()
				mu.Lock()
				slow++
				length := time.Duration(240+slow) * time.Second
				mu.Unlock()
				time.Sleep(length)
				place.leave()
			})
		}
		synctest.Wait()
		if slow != all {
			t.Fatalf("%d of %d places though nobody else wants any", slow, all)
		}
		var got []time.Duration
		began := time.Now()
		for i := range 30 { // they stand behind 80 of the slow
			wg.Go(func() {
				place := takePlace(t, p, t.Context(), fmt.Sprint("other", i), asking{})
				place.heard()
				mu.Lock()
				got = append(got, time.Since(began))
				mu.Unlock()
				time.Sleep(time.Hour)
				place.leave()
			})
			synctest.Wait()
		}
		time.Sleep(265*time.Second + time.Millisecond - time.Since(began))
		mu.Lock()
		if len(got) != 20 || slow != all+5 { // below a half the slow have their turn, as they came first
			t.Errorf("%d of the others have a place, and the slow had %d more", len(got), slow-all)
		}
		mu.Unlock()
		wg.Wait()
		idlePlaces(t, p)
	})
}

// Who has more than a half is another one when the number of places changes.
func TestPlacesOfTheSlowResize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHopPlaces(40)
		have := make(map[string][]*hopPlace)
		for i := range 40 {
			to := fmt.Sprint("d", i%4)
			place := takePlace(t, p, t.Context(), to, asking{})
			place.heard()
			have[to] = append(have[to], place)
		}
		leave := func(to string, n int) {
			for _, place := range have[to][:n] {
				place.leave()
			}
			have[to] = have[to][n:]
		}
		var mu sync.Mutex
		var order []string
		var wg sync.WaitGroup
		for _, to := range []string{"d0", "d1", "new", "d2", "newer"} {
			wg.Go(func() {
				place := takePlace(t, p, t.Context(), to, asking{})
				mu.Lock()
				order = append(order, to)
				mu.Unlock()
				place.heard()
				place.leave()
			})
			synctest.Wait()
		}
		p.resize(16)
		leave("d1", 4)
		leave("d2", 10)
		leave("d3", 10)
		synctest.Wait()
		if len(order) != 0 {
			t.Fatalf("served %v, and 16 of 16 places are taken", order)
		}
		leave("d1", 1)
		wg.Wait()
		if got := fmt.Sprint(order); got != "[d1 new d2 newer d0]" {
			t.Errorf("served %v", got)
		}
		leave("d0", 10)
		leave("d1", 5)
		idlePlaces(t, p)
	})
}

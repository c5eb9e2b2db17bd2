package proxy

import (
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/refpeer"
)

// openAt counts the connections that a hop has.
func openAt(s *refpeer.Server) (n int) {
	for _, c := range s.Connections() {
		if c.End.IsZero() {
			n++
		}
	}
	return n
}

// placesOpen counts the places that are taken.
func (w *world) placesOpen() int {
	p := w.proxy.pool.places
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open
}

// What is connected before the greeting takes a place, and is not made where there
// is none: clients that say nothing take no more than there are, and those for so
// long only as it is good for something.
func TestFootholdsHavePlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := originalWorld(t, mxAddr)
		places := w.proxy.pool.places
		places.resize(8)
		s := w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern()})
		var idle []*dialog
		for range 20 {
			d := w.client(outboundAt)
			d.ask("EHLO a", "250")
			idle = append(idle, d)
		}
		synctest.Wait()
		if n := w.placesOpen(); n != 2 || openAt(s) != n { // a quarter, as nobody has answered
			t.Errorf("%d connections have %d places", openAt(s), n)
		}
		time.Sleep(maxFoothold)
		synctest.Wait()
		if n := w.placesOpen(); n != 0 || openAt(s) != 0 {
			t.Errorf("nobody asked for anything, and %d connections have %d places", openAt(s), n)
		}
		for _, d := range idle {
			d.ask("QUIT", "221")
		}
		idlePlaces(t, places)
	})
}

// The place goes with the connection: where there is but one, the message does not
// wait for itself.
func TestFootholdHandsItsPlaceOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := originalWorld(t, mxAddr)
		w.proxy.pool.places.resize(1)
		s := w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern()})
		began := time.Now()
		first, second := w.client(outboundAt), w.client(outboundAt)
		first.ask("EHLO a", "250")
		second.ask("EHLO a", "250")
		synctest.Wait()
		if n := w.placesOpen(); n != 1 || openAt(s) != 1 {
			t.Errorf("%d connections have %d places", openAt(s), n)
		}
		for _, d := range []*dialog{first, second} { // the second has no foothold
			d.ask("MAIL FROM:<a@a.example>", "250")
			d.ask("RCPT TO:<b@example.org>", "250")
			if n := w.placesOpen(); n != 1 || openAt(s) != 1 {
				t.Errorf("%d connections have %d places", openAt(s), n)
			}
			d.ask("DATA", "354")
			d.say("x: y", "", ".")
			d.want("250")
			d.ask("QUIT", "221")
			synctest.Wait()
		}
		if took := time.Since(began); took > time.Minute {
			t.Errorf("it took %v", took)
		}
		if s.Accepted() != 2 || len(s.Messages()) != 2 {
			t.Errorf("%d connections, %d messages", s.Accepted(), len(s.Messages()))
		}
		time.Sleep(time.Minute)
		idlePlaces(t, w.proxy.pool.places)
	})
}

// A place that nobody could be connected with is given back.
func TestFootholdRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := originalWorld(t, mxAddr)
		d := w.connect(outboundAt)
		d.want("421 4.4.1")
		d.wantClosed()
		synctest.Wait()
		idlePlaces(t, w.proxy.pool.places)
	})
}

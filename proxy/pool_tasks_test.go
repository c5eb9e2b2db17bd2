package proxy

import (
	"context"
	"slices"
	"testing"
	"time"

	"slipstream/bench/refpeer"
	"slipstream/smtpwire"
)

// What may be open on a connection is reset before it is kept, and whoever gives
// it back does not wait for that.
func TestPoolReset(t *testing.T) {
	inHarbour(t, 100, func(h *harbour) {
		c := h.connect("a")
		mail := smtpwire.ParseCommand([]byte("MAIL FROM:<a@example.com>"))
		if _, err := c.one(duringEnvelope, time.Minute, mail); err != nil {
			t.Fatal(err)
		}
		c.open = true
		start := time.Now()
		h.put("a", c)
		if d := time.Since(start); d != 0 {
			t.Errorf("put took %v", d)
		}
		h.idle(0)
		h.wait(20 * time.Millisecond) // a trip
		h.idle(1)
		h.heard(0, "MAIL FROM:<a@example.com>", "RSET")
		h.get("a", c)
		if c.open || c.counted != c.wire.trips {
			t.Errorf("open %v, %d of %d trips are counted", c.open, c.counted, c.wire.trips)
		}
		h.put("a", c)
	})
}

func TestPoolResetFails(t *testing.T) {
	for _, tt := range []struct {
		name string
		on   refpeer.Action
		ends time.Duration
	}{
		{"refused", refpeer.Say("421 4.3.2 no"), 20 * time.Millisecond},
		{"not known", refpeer.Say("500 5.5.1 what?"), 20 * time.Millisecond},
		{"closed", refpeer.Action{Close: true}, 20 * time.Millisecond},
		{"reset", refpeer.Action{Reset: true}, 20 * time.Millisecond},
		{"twice", refpeer.Action{Twice: true}, 20 * time.Millisecond},
		{"never answered", refpeer.Action{Stall: true}, resetWait},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inHarbour(t, 100, func(h *harbour) {
				h.hop.Behave = func(ev refpeer.Event) refpeer.Action {
					if ev.Verb == "RSET" {
						return tt.on
					}
					return refpeer.Action{}
				}
				c := h.connect("a")
				c.open = true
				h.put("a", c)
				h.wait(tt.ends - time.Millisecond)
				h.open(1)
				h.wait(time.Millisecond)
				h.open(0)
				h.idle(0)
				h.get("a", nil)
				if got := h.hop.Connections()[0].Commands[1:]; !slices.Equal(got, []string{"RSET"}) {
					t.Errorf("heard %q", got)
				}
			})
		})
	}
}

func TestPoolForget(t *testing.T) {
	inHarbour(t, 100, func(h *harbour) {
		h.warm("a")
		h.warm("b")
		busy := h.connect("a")
		h.pool.forget(new(caller))
		h.idle(2)
		h.pool.forget(h.caller)
		h.idle(0)
		h.heard(0, "QUIT")
		h.heard(1, "QUIT")
		h.put("a", busy) // of a session from before
		h.get("a", busy)
		h.put("a", busy)
		h.wait(h.limits.idle)
		h.heard(2, "QUIT")
	})
}

// close says QUIT on all, and takes no longer than it may.
func TestPoolClose(t *testing.T) {
	inHarbour(t, 100, func(h *harbour) {
		h.warm("a")
		h.warm("b")
		busy := h.connect("b")
		h.pool.close(h.t.Context())
		h.idle(0)
		h.heard(0, "QUIT")
		h.heard(1, "QUIT")
		h.put("b", busy)
		h.heard(2, "QUIT")
	})
	inHarbour(t, 100, func(h *harbour) {
		h.hop.Behave = func(ev refpeer.Event) refpeer.Action { return refpeer.Action{Silent: ev.Verb == "RSET"} }
		c := h.connect("a")
		c.open = true
		h.put("a", c)
		ctx, cancel := context.WithTimeout(h.t.Context(), 100*time.Millisecond)
		defer cancel()
		start := time.Now()
		h.pool.close(ctx)
		if d := time.Since(start); d != 100*time.Millisecond {
			t.Errorf("closed after %v", d)
		}
		h.open(0)
	})
}

// No more is done at a time than may be.
func TestPoolTasks(t *testing.T) {
	inHarbour(t, 1000, func(h *harbour) {
		h.limits.size = 1000
		h.limits.idle = time.Minute
		var all []*peer
		for range maxPoolTasks + 10 {
			all = append(all, h.connect("a"))
		}
		for _, c := range all {
			h.put("a", c)
		}
		h.hop.Behave = nil
		h.pool.forget(h.caller)
		h.wait(time.Second)
		polite := 0
		for _, conn := range h.hop.Connections() {
			if conn.End.IsZero() {
				t.Errorf("connection %d is open", conn.ID)
			}
			if slices.Contains(conn.Commands, "QUIT") {
				polite++
			}
		}
		if polite != maxHopTasks {
			t.Errorf("%d connections heard QUIT, want %d", polite, maxHopTasks)
		}
	})
}

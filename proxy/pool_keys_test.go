package proxy

import (
	"fmt"
	"testing"
	"time"
)

func TestPoolHandsOutTheNewest(t *testing.T) {
	inHarbour(t, 100, func(h *harbour) {
		h.get("a", nil)
		one, two := h.connect("a"), h.connect("a")
		h.put("a", one)
		h.put("a", two)
		h.idle(2)
		h.get("b", nil)
		h.get("a", two)
		h.get("a", one)
		h.get("a", nil)
		h.idle(0)
		h.counted(poolHit, 2)
		h.counted(poolMiss, 3)
		h.put("a", one)
		h.put("a", two)
	})
}

// What transactions must have in common is all of the key.
func TestPoolKey(t *testing.T) {
	inHarbour(t, 100, func(h *harbour) {
		h.warm("a")
		for _, k := range []poolKey{
			{caller: new(caller), door: "outbound", route: "a"},
			{caller: h.caller, door: "outbound", route: "b"},
			{caller: h.caller, door: "outbound", route: "a", announced: "client.example"},
		} {
			if h.pool.get(k, h.limits) != nil {
				t.Errorf("%v shares a connection", k)
			}
		}
	})
}

func TestPoolEnds(t *testing.T) {
	for _, tt := range []struct {
		name   string
		limits func(l *poolLimits)
		after  time.Duration // of idleness; a moment before it is still there
	}{
		{"idle", func(l *poolLimits) { l.idle = 7 * time.Second }, 7 * time.Second},
		// Three trips to connect count.
		{"age", func(l *poolLimits) { l.age = 9 * time.Second }, 9*time.Second - 60*time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inHarbour(t, 100, func(h *harbour) {
				tt.limits(&h.limits)
				h.warm("a")
				h.wait(tt.after - time.Millisecond)
				h.idle(1)
				h.wait(time.Millisecond)
				h.idle(0)
				h.get("a", nil)
				h.heard(0, "QUIT")
				h.counted(poolExpired, 1)
			})
		})
	}
}

// The age of a connection counts however often it is used.
func TestPoolAge(t *testing.T) {
	inHarbour(t, 100, func(h *harbour) {
		h.limits.age = time.Minute
		c := h.warm("a")
		for range 5 {
			h.wait(10 * time.Second)
			h.get("a", c)
			h.put("a", c)
		}
		h.wait(5 * time.Second)
		h.get("a", c)
		h.wait(10 * time.Second) // in use
		h.put("a", c)
		h.idle(0)
		h.heard(0, "QUIT")
	})
}

func TestPoolMessages(t *testing.T) {
	for _, tt := range []struct {
		offer    string
		messages int
		want     int
	}{
		{"X", 3, 3},
		{"LIMITS MAILMAX=2", 3, 2},
		{"LIMITS RCPTMAX=1 mailmax=2", 3, 2},
		{"LIMITS MAILMAX=20", 3, 3},
		{"LIMITS MAILMAX=2", 0, 2},
		{"LIMITS MAILMAX=0 MAILMAX=1000000 MAILMAX=-1", 3, 3},
		{"LIMITS MAILMAX", 3, 3},
		{"LIMITS MAILMAX=1", 3, 1},
	} {
		t.Run(fmt.Sprintf("%s of %d", tt.offer, tt.messages), func(t *testing.T) {
			inHarbour(t, 100, func(h *harbour) {
				h.limits.messages = tt.messages
				h.hop.Keywords.Extra = []string{tt.offer}
				c := h.warm("a")
				for range tt.want - 1 {
					h.get("a", c)
					h.put("a", c)
				}
				h.get("a", nil)
				h.heard(0, "QUIT")
			})
		})
	}
}

// A door that keeps nothing ends what it is given.
func TestPoolOff(t *testing.T) {
	inHarbour(t, 100, func(h *harbour) {
		h.limits.idle = 0
		h.warm("a")
		h.idle(0)
		h.heard(0, "QUIT")
	})
}

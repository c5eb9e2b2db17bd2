package proxy

import (
	"testing"
	"time"
)

func TestPoolSizeOfAKey(t *testing.T) {
	inHarbour(t, 100, func(h *harbour) {
		h.limits.size = 2
		one, two, three := h.connect("a"), h.connect("a"), h.connect("a")
		for _, c := range []*peer{one, two, three} {
			h.put("a", c)
			h.wait(time.Second)
		}
		h.idle(2)
		h.counted(poolEvicted, 1)
		h.heard(0, "QUIT")
		h.heard(1)
		h.get("a", three)
		h.get("a", two)
		h.put("a", two)
		h.put("a", three)
	})
}

// Where all is full, whoever has most gives way: a destination with much mail
// does not drive out those with little.
func TestPoolFairness(t *testing.T) {
	inHarbour(t, 5, func(h *harbour) {
		h.warm("little") // 0, the longest idle of all
		for _, c := range []*peer{h.connect("much"), h.connect("much"), h.connect("much"), h.connect("much")} {
			h.wait(time.Second)
			h.put("much", c) // 1 to 4
		}
		h.idle(5)
		h.warm("new") // 5, against 1
		h.heard(1, "QUIT")
		fresh := []*peer{h.connect("much"), h.connect("much")}
		h.put("much", fresh[0]) // 6, against 2
		h.heard(2, "QUIT")
		h.put("much", fresh[1]) // 7, against 3
		h.heard(3, "QUIT")
		h.idle(5)
		h.heard(0)
		h.heard(4)
		h.warm("newer") // 8, against 4: three of "much"
		h.heard(4, "QUIT")
		h.warm("newest") // 9, against 6: two of "much"
		h.heard(6, "QUIT")
		h.warm("very newest") // 10: all have one, and 0 has been there for longest
		h.heard(0, "QUIT")
		h.counted(poolEvicted, 6)
		h.idle(5)
	})
}

package once

import (
	"fmt"
	"testing"

	"slipstream/tlsstore"
)

// filled has so many outcomes, of messages to ten recipients each.
func filled(b *testing.B, n int) *Memory {
	b.Helper()
	m := openTest(b, tlsstore.Memory(), Options{})
	for i := range n / 10 {
		text := fmt.Sprint(i)
		mustRemember(b, m, append(many(9, text), refused("bad@rcpt.example", text))...)
	}
	b.Cleanup(func() { mustClose(b, m) })
	return m
}

// BenchmarkAsk is what an ordinary message costs.
func BenchmarkAsk(b *testing.B) {
	for _, n := range []int{0, 10_000} {
		m := filled(b, n)
		k := key("nobody@rcpt.example", "text")
		for name, ask := range map[string]func(){
			"Ready":   func() { _ = m.Ready(4) },
			"Refused": func() { m.Refused(mta, sender, "nobody@rcpt.example") },
			"Awaits":  func() { m.Awaits(mta, sender, "to1@rcpt.example") },
			"Recall":  func() { m.Recall(k) },
			"Heard":   func() { m.Heard([]Key{k}) },
		} {
			b.Run(fmt.Sprintf("%s/outcomes=%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					ask()
				}
			})
		}
	}
}

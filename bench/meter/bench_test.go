package meter_test

import (
	"strings"
	"testing"
	"time"
)

// What it takes to read a message of 16 MB off its segments.
func BenchmarkLedger(b *testing.B) {
	turns := after(turn{150, 'S', "220 mx\r\n", ""}, turn{200, 'C', "EHLO c\r\n", ""}, turn{250, 'S', ok, ""},
		turn{300, 'C', mailLine + rcptLine + "DATA\r\n", ""}, turn{350, 'S', ok + ok + "354 go\r\n", ""})
	part := strings.Repeat(strings.Repeat("x", 71)+"\r\n", 20)
	now := 400
	for n := 0; n < 16<<20; n += len(part) {
		turns = append(turns, turn{now, 'C', part, ""})
		now++
	}
	conn := only(b, play(append(turns, turn{now, 'C', ".\r\n", ""}, turn{now + 50, 'S', ok, ""})...))
	b.SetBytes(16 << 20)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := conn.Ledger(time.Time{}); err != nil {
			b.Fatal(err)
		}
	}
}

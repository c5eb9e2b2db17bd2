package wan_test

import (
	"io"
	"net"
	"testing"
	"time"

	"slipstream/bench/wan"
)

// BenchmarkTransfer sends 16 MiB per operation over one connection, with the kernel's own congestion control. It
// reports what arrived and how much of a processor the link took for it, the receiving kernel's work included.
func BenchmarkTransfer(b *testing.B) {
	const rate = 100e6
	for _, v := range []struct {
		name  string
		shape wan.Shape
		least float64 // Mbit/s of data, with headers about 4 % more
	}{
		{"100Mbit", wan.Shape{Delay: 10 * time.Millisecond, Rate: rate}, 90},
		{"unlimited", wan.Shape{Delay: 10 * time.Millisecond}, 90},
	} {
		b.Run(v.name, func(b *testing.B) {
			const size = 16 << 20
			l := open(b, wan.Config{Shape: v.shape, Snap: 1})
			address := listen(b, l.Far(), l.Far().Addr(), func(conn net.Conn) {
				for {
					if _, err := io.CopyN(io.Discard, conn, size); err != nil {
						return
					}
					if _, err := conn.Write([]byte{1}); err != nil {
						return
					}
				}
			})
			conn := dial(b, l.Near(), l.Near().Addr(), address)
			send(b, conn, size) // past slow start
			before, begun := l.Carried(), time.Now()
			b.SetBytes(size)
			for b.Loop() {
				l.Reset()
				send(b, conn, size)
			}
			took, after := time.Since(begun), l.Carried()
			mbits := float64(b.N) * size * 8 / 1e6 / took.Seconds()
			b.ReportMetric(mbits, "Mbit/s")
			b.ReportMetric(float64(after.CPU-before.CPU)/float64(took)*100, "cpu-%")
			b.ReportMetric(float64(after.CPU-before.CPU)/float64(after.Packets-before.Packets), "cpu-ns/packet")
			b.ReportMetric(float64(after.Late)/1e6, "late-ms")
			b.ReportMetric(float64(after.Dropped-before.Dropped+after.Missed-before.Missed), "drops")
			if mbits < v.least {
				b.Errorf("%.1f Mbit/s, less than %.0f", mbits, v.least)
			}
		})
	}
}

// send sends size octets and waits for the answer to them.
func send(b *testing.B, conn net.Conn, size int) {
	b.Helper()
	block := make([]byte, 64<<10)
	for ; size > 0; size -= len(block) {
		if _, err := conn.Write(block); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := io.ReadFull(conn, block[:1]); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkRoundTrip sends a line and waits for the answer. It reports what the round trip took beyond that of the
// link, which is what the kernel and the programs at both ends take, and how late the link was at worst.
func BenchmarkRoundTrip(b *testing.B) {
	shape := wan.Shape{Delay: 5 * time.Millisecond}
	l := open(b, wan.Config{Shape: shape})
	conn := dial(b, l.Near(), l.Near().Addr(), listen(b, l.Far(), l.Far().Addr(), echo))
	l.Reset()
	begun, before := time.Now(), l.Carried()
	for b.Loop() {
		say(b, conn, "NOOP\r\n")
	}
	took := time.Since(begun)
	beyond := took/time.Duration(b.N) - shape.RTT()
	b.ReportMetric(float64(beyond)/1e3, "beyond-µs")
	b.ReportMetric(float64(l.Carried().Late)/1e6, "late-ms")
	b.ReportMetric(float64(l.Carried().CPU-before.CPU)/float64(took)*100, "cpu-%")
}

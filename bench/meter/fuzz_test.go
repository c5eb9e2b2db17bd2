package meter_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"slipstream/bench/meter"
)

// phrases are what the sides of a made up conversation say.
var phrases = [...]turn{
	{from: 'S', what: "220 mx\r\n"}, {from: 'S', what: ok}, {from: 'S', what: "250-mx\r\n250 CHUNKING\r\n"},
	{from: 'S', what: "354 go\r\n"}, {from: 'S', what: "550-no\r\n550 no\r\n"}, {from: 'S', what: "353 each\r\n"},
	{from: 'S', what: "221 bye\r\n"}, {from: 'S', what: "nonsense"}, {from: 'S', what: "FIN"},
	{from: 'C', what: "EHLO c\r\n"}, {from: 'C', what: "LHLO c\r\n"}, {from: 'C', what: "STARTTLS\r\n"},
	{from: 'C', what: mailLine}, {from: 'C', what: rcptLine}, {from: 'C', what: "DATA\r\n"}, {from: 'C', what: textEnd},
	{from: 'C', what: "BDAT 7 LAST\r\nhello\r\n"}, {from: 'C', what: flight}, {from: 'C', what: "QUIT\r\n"},
	{from: 'C', what: "FIN"}, {from: 'C', what: "RST"}, {from: 'C', what: "ACK"},
	{from: 'C', what: clientHello}, {from: 'C', what: record(change, 1)}, {from: 'C', what: record(data, 53)},
	{from: 'C', what: record(data, 300)}, {from: 'C', what: record(data, 23)},
	{from: 'C', what: record(handshakes, 40)},
	{from: 'S', what: helloOf(aes128of13, someRandom, true)}, {from: 'S', what: helloOf(gcmOf12, someRandom, false)},
	{from: 'S', what: record(data, 60)}, {from: 'S', what: record(alerting, 2)},
}

// said turns octets into a conversation: five bits are a phrase, two how long the sides wait before it, and one says
// that it is lost at first.
func said(octets []byte) []turn {
	turns := slices.Clone(opening)
	now := 150
	for _, b := range octets[:min(len(octets), 100)] {
		now += [...]int{0, 7, 50, 100}[b>>5&3]
		u := phrases[b&31]
		u.ms = now
		if b&128 == 0 || u.what == "ACK" || u.what == "RST" {
			turns = append(turns, u)
			continue
		}
		u.how = "lost"
		turns = append(turns, u)
		u.ms, u.how = now+3, "again"
		turns = append(turns, u)
		now = u.ms
	}
	return turns
}

// phrase returns the octet for one of the phrases, after one of the waits.
func phrase(what string, wait byte) byte {
	return byte(slices.IndexFunc(phrases[:], func(u turn) bool { return u.what == what })) | wait<<5
}

// disturb cuts segments in two at any octet, has some of them come twice, and turns the order of those around that
// entered at the same time. None of that changes what was said, and when.
func disturb(r *rand.Rand, segments []meter.Segment) []meter.Segment {
	var all []meter.Segment
	for _, s := range segments {
		for s.Len > 1 && r.IntN(2) == 0 {
			n := 1 + r.IntN(s.Len-1)
			first := s
			first.Len, first.Data, first.FIN = n, s.Data[:n], false
			all = append(all, first)
			s.Seq += uint32(n)
			if s.SYN {
				s.Seq, s.SYN, s.ACK = s.Seq+1, false, true
			}
			s.Len, s.Data = s.Len-n, s.Data[n:]
		}
		all = append(all, s)
	}
	for _, s := range all {
		if r.IntN(4) == 0 {
			late := time.Duration(r.IntN(300)) * time.Millisecond
			s.At = s.At.Add(late)
			if !s.Lost() {
				s.Arrives = s.Arrives.Add(late)
			}
			all = append(all, s)
		}
	}
	r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	slices.SortStableFunc(all, func(a, b meter.Segment) int { return a.At.Compare(b.At) })
	return all
}

// told is all that the meter tells of a connection, save for the number of packets.
func told(c meter.Conn) string {
	var b strings.Builder
	for _, bounds := range [][2]time.Time{{}, {ms(300)}, {{}, ms(600)}, {ms(300), ms(900)}} {
		l, err := c.LedgerBetween(bounds[0], bounds[1])
		fmt.Fprintln(&b, l.Start.Sub(begin), l.Final.Sub(begin), l.Elapsed, l.FirstByte, l.FastOpen, err)
		for _, f := range c.FlightsBetween(bounds[0], bounds[1]) {
			f.Packets = 0
			fmt.Fprintln(&b, show(f))
		}
		fmt.Fprintln(&b, c.GrowthBetween(bounds[0], bounds[1]))
	}
	fmt.Fprintln(&b, c.Growth())
	yes, known := c.Resumed()
	fmt.Fprintln(&b, yes, known)
	return b.String()
}

// decode(any chunking) == decode(whole)
func FuzzConversation(f *testing.F) {
	const soon, trip = 0, 3
	f.Add(uint64(1), []byte{phrase("220 mx\r\n", soon), phrase("EHLO c\r\n", trip), phrase(ok, trip),
		phrase(mailLine, trip),
		phrase(rcptLine, soon), phrase("DATA\r\n", soon), phrase(ok, trip), phrase(ok, soon),
		phrase("354 go\r\n", soon),
		phrase(textEnd, trip), phrase(ok, trip) | 128, phrase("QUIT\r\n", trip), phrase("221 bye\r\n", trip)})
	f.Add(uint64(2), []byte{phrase("220 mx\r\n", soon), phrase("STARTTLS\r\n", trip), phrase("220 mx\r\n", trip),
		phrase(clientHello, trip), phrase(helloOf(aes128of13, someRandom, true), trip), phrase(record(data, 60), soon),
		phrase(record(data, 53), trip), phrase(record(data, 300), soon), phrase(record(data, 60), trip),
		phrase(record(data, 23), trip), phrase(record(alerting, 2), trip)})
	f.Add(uint64(3), []byte{phrase("220 mx\r\n", soon), phrase("LHLO c\r\n", trip), phrase(ok, trip),
		phrase(flight, trip) | 128,
		phrase(flight, soon), phrase(ok, trip), phrase(ok, soon), phrase("353 each\r\n", soon), phrase(ok, soon),
		phrase("FIN", trip), phrase("RST", trip)})
	f.Add(uint64(4), []byte{phrase(clientHello, soon), phrase(helloOf(gcmOf12, someRandom, false), trip),
		phrase(record(change, 1), trip), phrase(record(handshakes, 40), soon), phrase(record(data, 300), soon)})
	f.Fuzz(func(t *testing.T, seed uint64, octets []byte) {
		whole := play(said(octets)...)
		want := told(only(t, whole))
		r := rand.New(rand.NewPCG(seed, 0))
		for range 3 {
			if got := told(only(t, disturb(r, whole))); got != want {
				t.Fatalf("of pieces:\n%s\nof the whole:\n%s", got, want)
			}
		}
	})
}

// Whatever a link saw, the meter does not panic, and keeps its limits.
func FuzzSegments(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00" + "\x0B\x00\x00\x00\x00\x01\x00\x00\x00\x00"))
	f.Add([]byte(strings.Repeat("\x04\x16\x03\x01\x00\x05\x01\x02\x03\x04", 30)))
	f.Fuzz(func(t *testing.T, octets []byte) {
		segments := slices.Clone(play(said(octets)...))
		for len(octets) >= 10 && len(segments) < 300 {
			b, seq, n := octets[0], binary.BigEndian.Uint32(octets[1:]), int(int16(binary.BigEndian.Uint16(octets[5:])))
			s := meter.Segment{From: clientEnd, To: serverEnd, Seq: seq, Len: n,
				SYN: b&1 != 0, ACK: b&2 != 0, FIN: b&4 != 0, RST: b&16 != 0}
			if b&32 != 0 {
				s.Seq = 0xFFFF_FFE1 + seq%64
			}
			if b&8 != 0 {
				s.From, s.To = s.To, s.From
			}
			if b&64 != 0 {
				s.At = ms(int(octets[7]))
			}
			if b&128 != 0 {
				s.Arrives = ms(int(octets[8]))
			}
			octets = octets[9:]
			s.Data = octets[:min(len(octets), int(octets[0]))]
			segments = append(segments, s)
		}
		segments = append(segments, meter.Segment{From: netip.AddrPort{}, SYN: true, Len: -1 << 62},
			meter.Segment{From: netip.AddrPort{}, Seq: 1, Len: 1<<63 - 1, Data: []byte("EHLO")})
		for _, c := range meter.Conns(segments) {
			told(c)
			if n := len(c.Growth()); n > 200 {
				t.Errorf("%d points", n)
			}
			for _, f := range c.Flights() {
				if n := len([]rune(f.Label)); n > 40 || f.Octets < 0 {
					t.Errorf("%d octets, label %q of %d characters", f.Octets, f.Label, n)
				}
			}
		}
	})
}

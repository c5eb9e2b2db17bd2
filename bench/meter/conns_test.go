package meter_test

import (
	"net/netip"
	"strings"
	"testing"

	"slipstream/bench/meter"
)

// Segments belong to the connection whose SYN came before them.
func TestConns(t *testing.T) {
	other := func(segments []meter.Segment, later int) []meter.Segment {
		for i := range segments {
			s := &segments[i]
			s.At, s.Arrives = s.At.Add(ms(later).Sub(begin)), s.Arrives.Add(ms(later).Sub(begin))
			if s.From == clientEnd {
				s.From = netip.AddrPortFrom(clientEnd.Addr(), 50_000)
			} else {
				s.To = netip.AddrPortFrom(clientEnd.Addr(), 50_000)
			}
		}
		return segments
	}
	conversation := after(turn{150, 'S', "220 mx\r\n", ""}, turn{200, 'C', "EHLO c\r\n", ""}, turn{250, 'S', ok, ""},
		turn{300, 'C', flight, ""}, turn{350, 'S', ok + ok + ok, ""})
	n := len(conversation)

	again := play(conversation...)
	for i := range again {
		again[i].Seq += 5_000_000
		again[i].At, again[i].Arrives = again[i].At.Add(9*rtt), again[i].Arrives.Add(9*rtt)
	}
	twice := []turn{{0, 'C', "SYN", ""}, {50, 'S', "SYN", "lost"}, {1000, 'C', "SYN", "again"},
		{1050, 'S', "SYN", "again"}}
	back := play(conversation...)
	for i := range back {
		back[i].From, back[i].To = back[i].To, back[i].From
		back[i].At, back[i].Arrives = back[i].At.Add(9*rtt), back[i].Arrives.Add(9*rtt)
	}

	for _, tt := range []struct {
		name     string
		segments []meter.Segment
		want     []int // segments of each
	}{
		{"none", nil, nil},
		{"two at once", append(other(play(conversation...), 30), play(conversation...)...), []int{n, n}},
		{"one after the other between the same ports", append(play(conversation...), again...), []int{n, n}},
		{"one in each direction between the same ports", append(play(conversation...), back...), []int{n, n}},
		{"SYN and SYN-ACK are sent again", play(twice...), []int{4}},
		{"the SYN was not seen", play(conversation...)[1:], nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conns := meter.Conns(tt.segments)
			if len(conns) != len(tt.want) {
				t.Fatalf("%d connections, want %d", len(conns), len(tt.want))
			}
			for i, c := range conns {
				if len(c.Segments) != tt.want[i] || c.Client != c.Segments[0].From || c.Server != c.Segments[0].To {
					t.Errorf("connection %d from %v to %v has %d segments, want %d", i, c.Client, c.Server,
						len(c.Segments), tt.want[i])
				}
				if l, err := c.Ledger(ms(0)); i < 2 && len(c.Segments) == n && (err != nil || l.Trips(rtt) != 4) {
					t.Errorf("connection %d: %v trips, %v; want 4", i, l.Trips(rtt), err)
				}
			}
		})
	}
}

// What a session began with is told where it can be seen.
func TestResumed(t *testing.T) {
	hello := func(server ...string) []turn {
		turns := after(turn{100, 'C', clientHello, ""})
		for i, s := range server {
			turns = append(turns, turn{150 + i, 'S', s, ""})
		}
		return turns
	}
	certificate := recordOf(handshakes, handshake(11, strings.Repeat("c", 3000))+handshake(14, ""))
	hidden := hello(helloOf(gcmOf12, someRandom, false), certificate, record(change, 1))
	hidden[len(hidden)-2].what = certificate[:5]
	hidden = append(hidden[:len(hidden)-1], turn{155, 'S', certificate[5:], "cut"}, turn{156, 'S', record(change, 1),
		""})

	for _, tt := range []struct {
		name       string
		turns      []turn
		yes, known bool
	}{
		{"in clear", after(turn{150, 'S', "220 mx\r\n", ""}, turn{200, 'C', "EHLO c\r\n", ""}), false, false},
		{"no answer", hello(), false, false},
		{"1.3", hello(helloOf(aes128of13, someRandom, false)), false, true},
		{"1.3, resumed", hello(helloOf(aes128of13, someRandom, true)), true, true},
		{"1.3, in two segments", hello(helloOf(aes128of13, someRandom, true)[:20],
			helloOf(aes128of13, someRandom, true)[20:]), true, true},
		{"1.3, asked for another hello", hello(helloOf(aes128of13, retryRandom, false)), false, false},
		{"1.3, resumed after another hello", hello(helloOf(aes128of13, retryRandom, false), record(change, 1),
			helloOf(aes128of13, someRandom, true)), true, true},
		{"1.2", hello(helloOf(gcmOf12, someRandom, false), certificate, record(change, 1)), false, true},
		{"1.2, resumed", hello(helloOf(gcmOf12, someRandom, false), recordOf(handshakes, handshake(4, "t")),
			record(change, 1)),
			true, true},
		{"1.2, broken off", hello(helloOf(gcmOf12, someRandom, false)), false, false},
		{"1.2, hidden", hidden, false, false},
		{"an alert", hello(record(alerting, 2)), false, false},
		{"an empty hello", hello(recordOf(handshakes, handshake(2, ""))), false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if yes, known := only(t, play(tt.turns...)).Resumed(); yes != tt.yes || known != tt.known {
				t.Errorf("%v, %v; want %v, %v", yes, known, tt.yes, tt.known)
			}
		})
	}
}

package meter

import (
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// scene is a connection as hostile peers make it. Each segment enters the link long enough after the one before that
// it has arrived: if the other side sends, it begins a flight.
type scene struct {
	segments []Segment
	next     [2]uint32
}

func newScene() *scene {
	s := new(scene)
	s.send(client, Segment{SYN: true})
	s.send(server, Segment{SYN: true, ACK: true})
	return s
}

func (s *scene) send(side int, seg Segment) {
	ends := [2]netip.AddrPort{netip.MustParseAddrPort("198.51.100.7:49152"), netip.MustParseAddrPort("192.0.2.1:25")}
	seg.From, seg.To = ends[side], ends[1-side]
	seg.At = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(len(s.segments)) * 2 * time.Millisecond)
	seg.Arrives, seg.Seq = seg.At.Add(time.Millisecond), s.next[side]
	s.next[side] += uint32(seg.Len)
	if seg.SYN {
		s.next[side]++
	}
	s.segments = append(s.segments, seg)
}

func (s *scene) say(side int, data string) { s.send(side, Segment{Len: len(data), Data: []byte(data)}) }

// hide is to say something that the link does not keep.
func (s *scene) hide(side, n int) { s.send(side, Segment{Len: n}) }

// cut says something in segments of n octets.
func (s *scene) cut(side int, data string, n int) {
	for len(data) > 0 {
		m := min(n, len(data))
		s.say(side, data[:m])
		data = data[m:]
	}
}

// emptyParts is a record of n times two parts of a handshake with nothing in them, each of them worth a word.
func emptyParts(n int) string {
	body := strings.Repeat("\x02\x00\x00\x00\x0b\x00\x00\x00", n)
	return string([]byte{recordHandshake, 3, 3, byte(len(body) >> 8), byte(len(body))}) + body
}

// scenes are what peers can do to have the same read again and again, in a size that the caller chooses.
var scenes = []struct {
	name  string
	size  int
	build func(s *scene, n int)
}{
	{"a reply without end", 500, func(s *scene, n int) {
		s.cut(server, strings.Repeat("250-\n", n), 1000)
		s.cut(client, strings.Repeat("\n", n), 1000)
	}},
	{"many kinds of commands in one flight", 2000, func(s *scene, n int) {
		s.cut(client, strings.Repeat("NOOP\nRSET\n", n), 1000)
	}},
	{"many kinds of replies in one flight", 2000, func(s *scene, n int) {
		s.cut(client, strings.Repeat("NOOP\n", 2*n), 1000)
		s.cut(server, strings.Repeat("250 x\n550 x\n", n), 1000)
	}},
	{"segments that overlap", 1000, func(s *scene, n int) {
		data := []byte(strings.Repeat("x", 65_000))
		for range n {
			s.send(client, Segment{Len: len(data), Data: data})
			s.next[client] -= uint32(len(data)) - 1
		}
	}},
	{"lock-step", 1000, func(s *scene, n int) {
		for range n {
			s.say(client, "NOOP\r\n")
			s.say(server, "250 x\r\n")
		}
	}},
	{"texts before one dot behind what is hidden", 1000, func(s *scene, n int) {
		s.say(server, "220 x\n")
		for range n {
			s.say(client, "DATA\n")
			s.say(server, "354 x\n")
			s.say(client, "x\n")
			s.say(server, "250 x\n")
		}
		s.hide(client, 1)
		s.say(client, "\r\n.\r\n")
	}},
	{"texts hidden in part, and no dot", 1000, func(s *scene, n int) {
		s.say(server, "220 x\n")
		for range n {
			s.say(client, "DATA\n")
			s.say(server, "354 x\n")
			s.hide(client, 10)
			s.say(server, "250 x\n")
		}
	}},
	{"texts hidden in part, and a dot each", 1000, func(s *scene, n int) {
		s.say(server, "220 x\n")
		for range n {
			s.say(client, "DATA\n")
			s.say(server, "354 x\n")
			s.hide(client, 10)
			s.say(client, "\r\n.\r\n")
			s.say(server, "250 x\n")
		}
	}},
	{"hidden texts, and replies to them without end", 1000, func(s *scene, n int) {
		s.cut(server, "220 x\n"+strings.Repeat("354 x\n", n)+strings.Repeat("250-\n", n), 1000)
		for range n {
			s.say(client, "DATA\n")
			s.hide(client, 10)
			s.say(client, "\r\n.\r\n")
		}
	}},
	{"parts of a handshake, and a flight for each octet of them", 250, func(s *scene, n int) {
		record := emptyParts(n)
		s.say(client, "\x16\x03\x03\x00\x00")
		for i := range len(record) {
			s.say(server, record[i:i+1])
			s.say(client, "\x16")
		}
	}},
	{"parts of a handshake in one flight", 1000, func(s *scene, n int) {
		s.say(client, "\x16\x03\x03\x00\x00")
		s.cut(server, strings.Repeat(emptyParts(100), n/100), 1000)
	}},
	{"records of one octet under TLS", 1000, func(s *scene, n int) {
		for range n {
			s.say(client, "\x16\x03\x03\x00\x00\x17\x03\x03\x00\x01x")
			s.say(server, "\x17\x03\x03\x00\x01x")
		}
	}},
}

// effort is what it takes to tell all of a connection: steps, and octets of memory, all told.
func effort(t *testing.T, build func(*scene, int), n int) (steps, octets int) {
	s := newScene()
	build(s, n)
	conns := Conns(s.segments)
	if len(conns) != 1 {
		t.Fatalf("%d connections, want 1", len(conns))
	}
	c := conns[0]
	var start, end runtime.MemStats
	runtime.ReadMemStats(&start)
	talk := c.read()
	flights := c.flights(talk, time.Time{}, time.Time{})
	c.LedgerBetween(time.Time{}, time.Time{})
	c.Growth()
	runtime.ReadMemStats(&end)
	for _, f := range flights {
		if utf8.RuneCountInString(f.Label) > maxLabel {
			t.Errorf("label %q is too long", f.Label)
		}
	}
	return talk.streams[client].steps + talk.streams[server].steps, int(end.TotalAlloc - start.TotalAlloc)
}

// What hostile peers say costs no more, for its length, the more there is of it.
func TestWorkGrowsAsTheInput(t *testing.T) {
	for _, tt := range scenes {
		t.Run(tt.name, func(t *testing.T) {
			// Of four times the input: 4 if in proportion, 16 if by the square.
			const times, limit = 4, 7
			steps, octets := effort(t, tt.build, tt.size)
			moreSteps, moreOctets := effort(t, tt.build, times*tt.size)
			t.Logf("%d and %d steps, %d and %d octets of memory", steps, moreSteps, octets, moreOctets)
			if steps == 0 || moreSteps > limit*steps {
				t.Errorf("%d steps for %d times the input of %d", moreSteps, times, steps)
			}
			if moreOctets > limit*octets {
				t.Errorf("%d octets of memory for %d times the input of %d", moreOctets, times, octets)
			}
		})
	}
}

// A label takes no more memory, however many words there are to choose from.
func TestShortenAllocates(t *testing.T) {
	words := strings.Split(strings.Repeat("NOOP RSET ", 10_000), " ")
	for _, n := range []int{0, 1, 2, 8, 9, 100, 20_000} {
		got := shorten(words[:n])
		want := strings.Join(words[:min(n, 8)], " ")
		if n > 8 {
			want = strings.Join(words[:7], " ") + " …"
		}
		if allocs := testing.AllocsPerRun(10, func() { shorten(words[:n]) }); got != want || allocs > 2 {
			t.Errorf("of %d words: %q with %v allocations, want %q with at most 2", n, got, allocs, want)
		}
	}
}

// Parts of a handshake are told as far as there is room, and the one that ends them always.
func TestHandshakeLabels(t *testing.T) {
	for _, tt := range []struct{ parts, want string }{
		{"ServerHello", "ServerHello"},
		{"ServerHello Certificate", "ServerHello Certificate"},
		{"ServerHello Certificate Done", "ServerHello Certificate…Done"},
		{"HelloRetryRequest ServerHello Finished", "HelloRetryRequest ServerHello…Finished"},
		{"HelloRetryRequest ServerHello Certificate", "HelloRetryRequest ServerHello…"},
		{"HelloRetryRequest ServerHello Certificate Done", "HelloRetryRequest ServerHello…Done"},
		{"ServerHello Certificate ServerHello Finished", "ServerHello Certificate…Finished"},
		{strings.Repeat("ServerHello Certificate ", 1000) + "Done", "ServerHello Certificate…Done"},
	} {
		var tokens []token
		for part := range strings.FieldsSeq(tt.parts) {
			tokens = append(tokens, token{kind: handshake, word: part, n: 1})
		}
		if got := shorten(render(tokens)); got != tt.want {
			t.Errorf("%.60q: got %q, want %q", tt.parts, got, tt.want)
		}
	}
}

// What is told of one side has a limit; the rest is counted.
func TestItemsAreLimited(t *testing.T) {
	s := newScene()
	for range 2 {
		s.say(server, "220 x\n")
		s.say(client, strings.Repeat("\n", maxItems))
	}
	talk := Conns(s.segments)[0].read()
	if n := len(talk.items[client]); n != maxItems {
		t.Errorf("%d items, want %d", n, maxItems)
	}
	if _, err := talk.wait(time.Time{}, time.Time{}); err == nil {
		t.Error("a message was found where there is none")
	}
	if got := talk.label(client, 1+maxItems, 1+2*maxItems); got != "1 MB" {
		t.Errorf("label %q behind the limit, want its octets", got)
	}
}

// Where a text is hidden, the next can begin before the dot that was found.
func TestDots(t *testing.T) {
	s := newScene()
	s.say(client, "a\r\n.\r\n.\r\nbc\r\n.\r\r\n.")
	s.hide(client, 2)
	s.say(client, "\n.\r\n.\r\n")
	s.say(client, "x")
	c := Conns(s.segments)[0]
	stream := newStream(c.place(client))
	text := "?a\r\n.\r\n.\r\nbc\r\n.\r\r\n.??\n.\r\n.\r\nx"
	var all dots
	for from := int64(1); from <= stream.end(); from++ {
		at := from
		if i := strings.Index("\r\n"+text[from:], textEnd); i >= 0 {
			at += int64(i + len(textEnd) - 2)
		} else {
			at = stream.end()
		}
		wantHidden, wantFound := strings.Contains(text[from:at], "?"), at != stream.end()
		got := stream.cursor(from)
		if hidden, found := all.follow(&got); got.pos != at || hidden != wantHidden || found != wantFound ||
			got != stream.cursor(at) {
			t.Errorf("from %d: to %d, hidden %v, found %v; want %d, %v, %v", from, got.pos, hidden, found, at,
				wantHidden, wantFound)
		}
	}
}

// Of spans that overlap, what left first tells the data and when it left, what arrived first when it arrived.
func TestJoin(t *testing.T) {
	at := func(n int) time.Time { return time.Unix(int64(n), 0) }
	got := join([]span{
		{0, 1, nil, at(10), at(11)},
		{1, 5, []byte("abcd"), at(13), at(19)},
		{3, 7, nil, at(12), at(15)},
		{3, 6, []byte("xyz"), at(14), time.Time{}},
		{6, 8, []byte("pq"), at(11), time.Time{}},
		{9, 10, []byte("-"), at(1), at(2)},
	})
	want := []piece{
		{0, 1, nil, at(10), at(11), time.Time{}},
		{1, 3, []byte("ab"), at(13), at(19), at(13)},
		{3, 5, []byte("cd"), at(12), at(19), at(13)},
		{5, 6, []byte("z"), at(12), at(19), at(13)},
		{6, 7, []byte("p"), at(11), at(19), at(13)},
		{7, 8, []byte("q"), at(11), time.Time{}, at(13)},
	}
	if len(got.pieces) != len(want) {
		t.Fatalf("got %v, want %v", got.pieces, want)
	}
	for i, w := range want {
		g := got.pieces[i]
		if g.pos != w.pos || g.end != w.end || string(g.data) != string(w.data) || (g.data == nil) != (w.data == nil) ||
			!g.left.Equal(w.left) || !g.arrives.Equal(w.arrives) || !g.latest.Equal(w.latest) {
			t.Errorf("piece %d: got %v, want %v", i, g, w)
		}
	}
	if n := len(join([]span{{1, 2, nil, at(1), at(2)}}).pieces); n != 0 {
		t.Errorf("%d pieces without a SYN", n)
	}
}

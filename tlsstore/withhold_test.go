package tlsstore

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestMatchHello(t *testing.T) {
	tests := []struct {
		pattern, hello string
		want           bool
	}{
		{"*.outlook.com", "EUR05-DB8-obe.outbound.protection.outlook.com", true},
		{"*.outlook.com", "mail.outlook.com", true},
		{"*.outlook.com", "mail.OUTLOOK.com.", true},
		{"*.Outlook.Com.", "mail.outlook.com", true},
		{"*.outlook.com", "outlook.com", false},
		{"*.outlook.com", ".outlook.com", false},
		{"*.outlook.com", "notoutlook.com", false},
		{"*.outlook.com", "mail.outlook.com.example.org", false},
		{"outlook.com", "outlook.com", true},
		{"outlook.com", "mail.outlook.com", false},
		{"[192.0.2.1]", "[192.0.2.1]", true},
		{"*", "anything", true},
		{"*", "", false},
		{"*.", "a.", false},
		{"", "", false},
		{"", "a", false},
		{"*outlook.com", "notoutlook.com", false},
		{"mail.*.com", "mail.outlook.com", false},
	}
	for _, tt := range tests {
		if got := MatchHello([]string{"no.example", tt.pattern}, tt.hello); got != tt.want {
			t.Errorf("%q, %q: %v, want %v", tt.pattern, tt.hello, got, tt.want)
		}
	}
	if MatchHello(nil, "a") {
		t.Error("no pattern, and yet a match")
	}
}

func TestShyPatterns(t *testing.T) {
	patterns := []string{"*.outlook.com"}
	s := NewShy(ShyOptions{Patterns: patterns})
	patterns[0] = "*"
	if !s.Withhold(netip.Addr{}, "a.outlook.com") || s.Withhold(netip.Addr{}, "a.example.org") {
		t.Error("the patterns are not those that were given")
	}
}

func TestShyKeys(t *testing.T) {
	tests := []struct {
		addr, hello string
		want        string
	}{
		{"192.0.2.77", "EUR05-DB8-obe.outbound.protection.outlook.com",
			"net 192.0.2.0/24, ehlo outbound.protection.outlook.com"},
		{"::ffff:192.0.2.77", "mail.example.org.", "net 192.0.2.0/24, ehlo example.org"},
		{"2001:db8:1:2::3", "example.org", "net 2001:db8:1::/48, ehlo example.org"},
		{"fe80::1%eth0", "localhost", "net fe80::/48, ehlo localhost"},
		{"192.0.2.1", "mail.example.co.uk", "net 192.0.2.0/24, ehlo example.co.uk"},
		{"192.0.2.1", "[192.0.2.1]", "net 192.0.2.0/24"},
		{"192.0.2.1", "", "net 192.0.2.0/24"},
		{"192.0.2.1", "a b.example.org", "net 192.0.2.0/24"},
		{"192.0.2.1", strings.Repeat("a", maxShyHello+1), "net 192.0.2.0/24"},
		{"", "a..b", ""}, {"", ".b.example", ""},
		{"", "", ""},
	}
	for _, tt := range tests {
		addr, _ := netip.ParseAddr(tt.addr)
		keys := shyKeys(addr, tt.hello)
		if got := strings.Join(keys, ", "); got != tt.want {
			t.Errorf("%s, %s: %q, want %q", tt.addr, tt.hello, got, tt.want)
		}
		for _, key := range keys {
			if !validShyKey(key) {
				t.Errorf("%q is no key", key)
			}
		}
	}
}

// A shyStep is something a client does, after a while.
type shyStep struct {
	after  time.Duration
	addr   string
	hello  string
	stayed int // so many times; 0: it left
}

func TestShyLearns(t *testing.T) {
	const a, b, far = "192.0.2.1", "192.0.2.200", "198.51.100.1"
	tests := []struct {
		name  string
		steps []shyStep
		addr  string
		hello string
		later time.Duration
		want  bool
	}{
		{"once is chance", []shyStep{{0, a, "m1.x.example", 0}}, a, "m1.x.example", 0, false},
		{"twice is not", []shyStep{{0, a, "m1.x.example", 0}, {time.Minute, a, "m1.x.example", 0}},
			a, "m1.x.example", 0, true},
		{"another address of its network", []shyStep{{0, a, "", 0}, {0, b, "", 0}}, "192.0.2.7", "", 0, true},
		{"another network", []shyStep{{0, a, "", 0}, {0, b, "", 0}}, far, "", 0, false},
		{"another name of its domain, from elsewhere", []shyStep{{0, a, "m1.x.example", 0}, {0, far, "M2.x.example", 0}},
			"203.0.113.9", "m3.x.example.", 0, true},
		{"one of each", []shyStep{{0, a, "m1.x.example", 0}, {0, far, "m1.y.example", 0}},
			"203.0.113.9", "m1.x.example", 0, false},
		{"deeper in its domain", []shyStep{{0, a, "m1.x.example", 0}, {0, far, "m2.x.example", 0}},
			"203.0.113.9", "a.b.x.example", 0, false},
		{"a day apart", []shyStep{{0, a, "", 0}, {ShyWithin, a, "", 0}}, a, "", 0, false},
		{"not quite a day apart", []shyStep{{0, a, "", 0}, {ShyWithin - time.Second, a, "", 0}}, a, "", 0, true},
		{"still, days later", []shyStep{{0, a, "", 0}, {0, a, "", 0}}, a, "", ShyFor - time.Second, true},
		{"tried again after that", []shyStep{{0, a, "", 0}, {0, a, "", 0}}, a, "", ShyFor, false},
		{"a large sender loses two", []shyStep{{0, a, "", 0}, {0, b, "", 1000}, {0, a, "", 0}}, a, "", 0, false},
		{"a large sender loses too many", []shyStep{{0, a, "", 0}, {0, a, "", 100}, {0, a, "", 0}}, a, "", 0, true},
		{"what went well before does not count", []shyStep{{0, a, "", 1000}, {0, a, "", 0}, {0, a, "", 0}},
			a, "", 0, true},
		{"yesterday's good ones do not count", []shyStep{{0, a, "", 0}, {0, a, "", 1000}, {ShyWithin, a, "", 0},
			{0, a, "", 0}}, a, "", 0, true},
		{"others in its name do not speak for it", []shyStep{{0, a, "m1.x.example", 0},
			{0, far, "m2.x.example", 5000}, {0, "203.0.113.1", "m3.x.example", 0}}, "", "m4.x.example", 0, true},
		{"nor do they if one of them left, too", []shyStep{{0, far, "m2.x.example", 0}, {0, far, "m2.x.example", 5000},
			{0, a, "m1.x.example", 0}, {0, "203.0.113.1", "m3.x.example", 0}}, "", "m4.x.example", 0, true},
		{"a large sender from two networks", []shyStep{{0, a, "m1.x.example", 0}, {0, a, "m1.x.example", 500},
			{0, far, "m2.x.example", 0}, {0, far, "m2.x.example", 500}}, "", "m1.x.example", 0, false},
		{"no one", []shyStep{{0, "", "", 0}, {0, "", "", 0}}, "", "", 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			clock := newTicketClock()
			s := NewShy(ShyOptions{Now: clock.now})
			for _, step := range tt.steps {
				clock.pass(step.after)
				addr, _ := netip.ParseAddr(step.addr)
				for range step.stayed {
					s.Stayed(addr, step.hello)
				}
				if step.stayed == 0 {
					s.Left(addr, step.hello)
				}
			}
			clock.pass(tt.later)
			addr, _ := netip.ParseAddr(tt.addr)
			if got := s.Withhold(addr, tt.hello); got != tt.want {
				t.Errorf("withheld: %v, want %v", got, tt.want)
			}
		})
	}
}

// Left says when something was learned, once.
func TestShySaysWhatIsNew(t *testing.T) {
	s := NewShy(ShyOptions{})
	addr := netip.MustParseAddr("192.0.2.1")
	for i, want := range []bool{false, true, false} {
		if got := s.Left(addr, "a.example.org"); got != want {
			t.Errorf("time %d: %v, want %v", i+1, got, want)
		}
	}
	if s.Len() != 2 {
		t.Errorf("%d are withheld from, want a network and a domain", s.Len())
	}
}

func TestShyIsBounded(t *testing.T) {
	clock := newTicketClock()
	s := NewShy(ShyOptions{Now: clock.now})
	hello := func(i int) string { return fmt.Sprintf("m.d%d.example", i) }
	from := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}) }
	s.Left(from(0), hello(0))
	s.Left(from(0), hello(0)) // withheld: those that only come and go do not push it out
	for i := 1; i <= 3*MaxShy; i++ {
		s.Left(from(i), hello(i))
	}
	if n := s.watched.len(); n != MaxShy || s.watched.order.Len() != n || !s.Withhold(netip.Addr{}, hello(0)) {
		t.Errorf("%d under watch, %d in order", n, s.watched.order.Len())
	}
	if n := s.names.len(); n != MaxShy {
		t.Errorf("the names of %d networks are counted", n)
	}
	for i := 1; i <= MaxShy; i++ {
		s.Left(from(i), hello(i))
		s.Left(from(i), hello(i))
	}
	if n := s.Len(); n != MaxShy || s.Withhold(from(0), hello(0)) || !s.Withhold(netip.Addr{}, hello(MaxShy)) {
		t.Errorf("%d are withheld from", n)
	}
}

// One network cannot make others forgotten, however many names it has, nor hide what a client does.
func TestShyIsNotFlushed(t *testing.T) {
	clock := newTicketClock()
	s := NewShy(ShyOptions{Now: clock.now})
	victim, evil := netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("198.51.100.66")
	flood := func() {
		for i := range 2 * MaxShy {
			hello := fmt.Sprintf("h.d%d.example", i)
			s.Stayed(evil, hello)
			s.Left(evil, hello)
			s.Left(evil, hello)
		}
	}
	s.Left(victim, "mta7.out.big.example")
	flood()
	if n := s.watched.len() + s.Len(); n > ShyNames+4 {
		t.Errorf("%d networks and domains, want no more than %d and those of two clients", n, ShyNames)
	}
	if !s.Left(victim, "mta8.out.big.example") {
		t.Error("the second time was taken for the first")
	}
	flood()
	if !s.Withhold(victim, "") || !s.Withhold(netip.Addr{}, "mta9.out.big.example") {
		t.Error("what was learned was flushed")
	}
	clock.pass(ShyWithin)
	if s.Left(evil, "h.x.example"); len(s.names.entries) == 0 || s.watched.len() == 0 {
		t.Error("a day later it may not bring up another")
	}
}

// Clients that went on leave no trace, unless one of them had left.
func TestShyWatchesThoseThatLeft(t *testing.T) {
	s := NewShy(ShyOptions{})
	for i := range 100 {
		s.Stayed(netip.AddrFrom4([4]byte{10, 0, byte(i), 1}), fmt.Sprintf("h.d%d.example", i))
	}
	if n := s.watched.len(); n != 0 {
		t.Errorf("%d under watch", n)
	}
}

// A domain's watch tells a few networks apart. Those that it went well with make room first.
func TestShyShares(t *testing.T) {
	var w shyWatch
	for i := range maxShyNetworks {
		w.left(fmt.Sprint(i))
	}
	for range ShyShare + 1 {
		w.stayed("5")
		w.stayed("elsewhere")
	}
	if left, stayed := w.sum(); left != maxShyNetworks-1 || stayed != 0 {
		t.Errorf("%d left, %d stayed", left, stayed)
	}
	for i, gone := range []string{"5", "0", "1"} {
		w.left(fmt.Sprint("new", i))
		if w.find(gone) >= 0 || len(w.shares) != maxShyNetworks {
			t.Errorf("%d networks, and %s is still there", len(w.shares), gone)
		}
	}
}

// When there is not room for all that was saved, networks go first.
func TestShyLoadsNetworksFirst(t *testing.T) {
	clock := newTicketClock()
	kv := MemoryAt(clock.now)
	defer kv.Close()
	term := shyTerm{since: clock.now(), until: clock.now().Add(time.Hour), left: 2}
	keys := []string{"net 203.0.113.0/24", "net 2001:db8::/48"}
	for i := range MaxShy {
		keys = append(keys, fmt.Sprintf("ehlo d%d.example", i))
	}
	for _, key := range keys {
		if err := kv.Set([]byte(shyPrefix+key), shyRecord(key, term), time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	s := NewShy(ShyOptions{Now: clock.now})
	if err := s.Load(kv); err != nil || s.Len() != MaxShy {
		t.Errorf("%v, %d loaded", err, s.Len())
	}
	for _, addr := range []string{"203.0.113.9", "2001:db8::9"} {
		if !s.Withhold(netip.MustParseAddr(addr), "") {
			t.Errorf("%s was left out", addr)
		}
	}
	if clock.pass(time.Hour); s.Len() != 0 {
		t.Errorf("%d are counted after their time", s.Len())
	}
}

// Whoever writes a log is told what was learned, and until when.
func TestShyWithheld(t *testing.T) {
	clock := newTicketClock()
	s := NewShy(ShyOptions{Now: clock.now})
	addr := netip.MustParseAddr("192.0.2.1")
	if s.Left(addr, "m1.x.example"); len(s.Withheld(addr, "m1.x.example")) != 0 {
		t.Error("once is enough")
	}
	s.Left(addr, "m1.x.example")
	until := clock.now().Add(ShyFor)
	want := []Withheld{{"192.0.2.0/24", until}, {"x.example", until}}
	if got := s.Withheld(addr, "m2.x.example"); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if clock.pass(ShyFor); len(s.Withheld(addr, "m2.x.example")) != 0 {
		t.Error("it is told after its time")
	}
}

func TestShySavesAndLoads(t *testing.T) {
	clock := newTicketClock()
	kv := MemoryAt(clock.now)
	defer kv.Close()
	counted := &countingKV{KV: kv}
	s := NewShy(ShyOptions{Now: clock.now})
	addr := netip.MustParseAddr("2001:db8::1")
	for range 2 {
		s.Left(addr, "m1.x.example")
	}
	for i, want := range []int{2, 2} { // the second time there is nothing new
		if err := s.Save(counted); err != nil || counted.sets != want {
			t.Fatalf("save %d: %v, %d written, want %d", i, err, counted.sets, want)
		}
	}
	s.Left(netip.MustParseAddr("192.0.2.1"), "")
	s.Left(netip.MustParseAddr("192.0.2.1"), "")
	if err := s.Save(counted); err != nil || counted.sets != 3 {
		t.Fatalf("%v, %d written, want one more", err, counted.sets)
	}

	clock.pass(ShyFor - time.Minute)
	again := NewShy(ShyOptions{Now: clock.now})
	if err := again.Load(kv); err != nil || again.Len() != 3 {
		t.Fatalf("%v, %d loaded", err, again.Len())
	}
	if !again.Withhold(addr, "") || !again.Withhold(netip.Addr{}, "m2.x.example") {
		t.Error("what was learned is lost")
	}
	if err := again.Save(counted); err != nil || counted.sets != 3 {
		t.Errorf("%v, %d written: what was loaded is saved again", err, counted.sets)
	}
	clock.pass(time.Minute)
	if again.Withhold(addr, "m2.x.example") || again.Withhold(netip.MustParseAddr("192.0.2.1"), "") || again.Len() != 0 {
		t.Error("it outlives its time after a restart")
	}
	late := NewShy(ShyOptions{Now: clock.now})
	if err := late.Load(kv); err != nil || late.Len() != 0 {
		t.Errorf("%v, %d loaded after their time", err, late.Len())
	}
}

// countingKV counts writes and can refuse them.
type countingKV struct {
	KV
	sets int
	err  error
}

func (kv *countingKV) Set(key, value []byte, ttl time.Duration) error {
	if kv.err != nil {
		return kv.err
	}
	kv.sets++
	return kv.KV.Set(key, value, ttl)
}

func (kv *countingKV) Iterate(prefix []byte, f func(key, value []byte) bool) error {
	if kv.err != nil {
		return kv.err
	}
	return kv.KV.Iterate(prefix, f)
}

func TestShyOnABadDisk(t *testing.T) {
	kv := &countingKV{KV: Memory(), err: errors.New("the disk is full")}
	defer kv.Close()
	s := NewShy(ShyOptions{})
	addr := netip.MustParseAddr("192.0.2.1")
	s.Left(addr, "")
	s.Left(addr, "")
	if err := s.Save(kv); !errors.Is(err, kv.err) {
		t.Error(err)
	}
	if err := s.Load(kv); !errors.Is(err, kv.err) || !s.Withhold(addr, "") {
		t.Error(err, "what is known is lost")
	}
	kv.err = nil
	if err := s.Save(kv); err != nil || kv.sets != 1 {
		t.Errorf("%v, %d written: it was not tried again", err, kv.sets)
	}
}

func TestShyRecordDamaged(t *testing.T) {
	clock := newTicketClock()
	const key = "net 192.0.2.0/24"
	term := shyTerm{since: clock.now(), until: clock.now().Add(time.Hour), left: 2, stayed: 70, saved: true}
	whole := shyRecord(key, term)
	if got, err := parseShyRecord(key, whole); err != nil || !got.since.Equal(term.since) ||
		!got.until.Equal(term.until) || got.left != 2 || got.stayed != 70 || !got.saved {
		t.Fatal(got, err)
	}
	for i := range whole {
		for bit := range 8 {
			b := bytes.Clone(whole)
			b[i] ^= 1 << bit
			if _, err := parseShyRecord(key, b); err == nil {
				t.Errorf("bit %d of octet %d", bit, i)
			}
		}
		if _, err := parseShyRecord(key, whole[:i]); err == nil {
			t.Errorf("cut to %d", i)
		}
	}
	if _, err := parseShyRecord("net 192.0.3.0/24", whole); err == nil {
		t.Error("another's record is taken")
	}
	for _, key := range []string{"", "net", "net x", "net 192.0.2.1/24", "ehlo ", "ehlo A", "ehlo a.", "other a"} {
		if _, err := parseShyRecord(key, shyRecord(key, term)); err == nil {
			t.Errorf("%q is taken for a key", key)
		}
	}

	kv := MemoryAt(clock.now)
	defer kv.Close()
	for name, value := range map[string][]byte{
		key: whole, "net 198.51.100.0/24": whole, "net 203.0.113.0/24": nil,
		"ehlo far.example": shyRecord("ehlo far.example", shyTerm{until: clock.now().Add(1000 * time.Hour)}),
	} {
		if err := kv.Set([]byte(shyPrefix+name), value, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	s := NewShy(ShyOptions{Now: clock.now})
	if err := s.Load(kv); err != nil || s.Len() != 2 {
		t.Errorf("%v, %d loaded, want the good ones", err, s.Len())
	}
	if clock.pass(ShyFor); s.Withhold(netip.Addr{}, "far.example") {
		t.Error("a record outlives its time")
	}
}

func FuzzShyRecord(f *testing.F) {
	f.Add("net 192.0.2.0/24", shyRecord("net 192.0.2.0/24", shyTerm{until: time.Unix(1<<31, 0), left: 2}))
	f.Add("ehlo example.org", []byte{})
	f.Fuzz(func(t *testing.T, key string, b []byte) {
		term, err := parseShyRecord(key, b)
		if err == nil && !bytes.Equal(shyRecord(key, term), b) {
			t.Fatalf("%q, % x", key, b)
		}
	})
}

func FuzzMatchHello(f *testing.F) {
	f.Add("*.outlook.com", "mail.outlook.com")
	f.Fuzz(func(t *testing.T, pattern, hello string) {
		if MatchHello([]string{pattern}, hello) != MatchHello([]string{strings.ToUpper(pattern)}, hello+".") &&
			!strings.HasSuffix(hello, ".") && isASCII(pattern) && isASCII(hello) && hello != "" {
			t.Errorf("%q, %q: case or a final dot matters", pattern, hello)
		}
		for _, key := range shyKeys(netip.Addr{}, hello) {
			if len(key) > maxShyHello+len("ehlo ") {
				t.Errorf("a key of %d octets", len(key))
			}
		}
	})
}

func isASCII(s string) bool { return strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 }) < 0 }

func TestShyConcurrently(t *testing.T) {
	s := NewShy(ShyOptions{})
	kv := Memory()
	defer kv.Close()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 200 {
				addr := netip.AddrFrom4([4]byte{byte(i), byte(j), 2, 1})
				s.Stayed(addr, "m.example.org")
				s.Left(addr, "m.example.net")
				s.Withhold(addr, "m.example.net")
				if j%50 == 0 {
					_ = s.Save(kv)
					_ = s.Load(kv)
					_ = s.List(kv, "192.0.2.1", func(Entry) bool { return true })
					_, _ = s.Drop(kv, "192.0.2.1")
				}
			}
		})
	}
	wg.Wait()
	if !s.Withhold(netip.Addr{}, "x.example.net") || s.Withhold(netip.Addr{}, "x.example.org") {
		t.Error("what was learned is not what was seen")
	}
}

func BenchmarkShyWithhold(b *testing.B) {
	s := NewShy(ShyOptions{Patterns: []string{"*.outlook.com"}})
	for i := range MaxShy / 2 {
		addr := netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1})
		s.Left(addr, "")
		s.Left(addr, "")
	}
	addr := netip.MustParseAddr("192.0.2.1")
	for b.Loop() {
		s.Withhold(addr, "mail.example.org")
	}
}

package tlsstore

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
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
		{"a large sender loses two", []shyStep{{0, a, "", 1000}, {0, a, "", 0}, {0, a, "", 0}}, a, "", 0, false},
		{"a large sender loses too many", []shyStep{{0, a, "", 100}, {0, a, "", 0}, {0, a, "", 0}}, a, "", 0, true},
		{"yesterday's good ones do not count", []shyStep{{0, a, "", 1000}, {ShyWithin, a, "", 0}, {0, a, "", 0}},
			a, "", 0, true},
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
	s.Left(netip.Addr{}, hello(0))
	s.Left(netip.Addr{}, hello(0)) // withheld: those that only come and go do not push it out
	for i := 1; i <= 3*MaxShy; i++ {
		s.Left(netip.Addr{}, hello(i))
	}
	if n := s.watched.len(); n != MaxShy || s.watched.order.Len() != n || !s.Withhold(netip.Addr{}, hello(0)) {
		t.Errorf("%d under watch, %d in order", n, s.watched.order.Len())
	}
	for i := 1; i <= MaxShy; i++ {
		s.Left(netip.Addr{}, hello(i))
		s.Left(netip.Addr{}, hello(i))
	}
	if n := s.Len(); n != MaxShy || s.Withhold(netip.Addr{}, hello(0)) || !s.Withhold(netip.Addr{}, hello(MaxShy)) {
		t.Errorf("%d are withheld from", n)
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
	whole := shyRecord(key, clock.now().Add(time.Hour))
	if until, err := parseShyRecord(key, whole); err != nil || !until.Equal(clock.now().Add(time.Hour)) {
		t.Fatal(until, err)
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
		if _, err := parseShyRecord(key, shyRecord(key, clock.now())); err == nil {
			t.Errorf("%q is taken for a key", key)
		}
	}

	kv := MemoryAt(clock.now)
	defer kv.Close()
	for name, value := range map[string][]byte{
		key: whole, "net 198.51.100.0/24": whole, "net 203.0.113.0/24": nil,
		"ehlo far.example": shyRecord("ehlo far.example", clock.now().Add(1000*time.Hour)),
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
	f.Add("net 192.0.2.0/24", shyRecord("net 192.0.2.0/24", time.Unix(1<<31, 0)))
	f.Add("ehlo example.org", []byte{})
	f.Fuzz(func(t *testing.T, key string, b []byte) {
		until, err := parseShyRecord(key, b)
		if err == nil && !bytes.Equal(shyRecord(key, until), b) {
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

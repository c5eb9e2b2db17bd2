package tlsstore

import (
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/smtpwire"
)

// A testClock is set by hand.
type testClock struct{ nanos atomic.Int64 }

func (c *testClock) now() time.Time       { return time.Unix(0, c.nanos.Load()) }
func (c *testClock) pass(d time.Duration) { c.nanos.Add(int64(d)) }

// clocked returns a store over Memory that goes by the returned clock.
func clocked(t testing.TB) (*Store, *testClock) {
	clock := new(testClock)
	clock.pass(56 * 365 * 24 * time.Hour) // 2026, about
	s := New(MemoryAt(clock.now), Options{Now: clock.now})
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s, clock
}

func TestKnownIsWhatWasLearned(t *testing.T) {
	s, _ := clocked(t)
	long := make([]smtpwire.Param, 100)
	for i := range long {
		long[i] = offer(fmt.Sprintf("X-%d", i), strings.Repeat("v", 100))
	}
	hello := smtpwire.NewEHLO
	tests := []struct {
		name        string
		learn, want smtpwire.EHLO
	}{
		{"usual", testEHLO, testEHLO},
		{"old spelling", hello("h", offer("X_PIPE_CONNECT", "")), hello("h", offer("X_PIPE_CONNECT", ""))},
		{"arguments", hello("h", offer("AUTH", "PLAIN LOGIN")), hello("h", offer("AUTH", "PLAIN LOGIN"))},
		{"LIMITS hold for one session", testEHLO.With(offer("LIMITS", "RCPTMAX=1")), testEHLO},
		{"no name", hello("", offer("SIZE", "")), hello("", offer("SIZE", ""))},
		{"many", hello("h", long...), hello("h", long...)},
		{"nothing offered", hello("h"), smtpwire.EHLO{}},
		{"only LIMITS", hello("h", offer("LIMITS", "")), smtpwire.EHLO{}},
		{"too large", hello("h", offer("X", strings.Repeat("v", maxHello))), smtpwire.EHLO{}},
		{"zero", smtpwire.EHLO{}, smtpwire.EHLO{}},
	}
	for _, test := range tests {
		s.Learn(testPeer, testEHLO.With(offer("X-OLD", "")))
		s.Learn(testPeer, test.learn)
		got, ok := s.Known(testPeer)
		if !got.Equal(test.want) || ok == test.want.IsZero() {
			t.Errorf("%s: %v, %v; want %v", test.name, got, ok, test.want)
		}
		if !test.want.IsZero() && !Lasting(test.learn).Equal(got) {
			t.Errorf("%s: Lasting and Known differ", test.name)
		}
	}
}

func TestKnownIsOfOnePeer(t *testing.T) {
	s, _ := clocked(t)
	s.Learn(testPeer, testEHLO)
	others := map[string]func(*PeerKey){
		"address": func(k *PeerKey) { k.Addr = netip.MustParseAddrPort("192.0.2.8:25") },
		"port":    func(k *PeerKey) { k.Addr = netip.MustParseAddrPort("192.0.2.7:587") },
		"hello":   func(k *PeerKey) { k.Hello = "other.example.org" },
		"source":  func(k *PeerKey) { k.Source = netip.MustParseAddr("198.51.100.1") },
		"phase":   func(k *PeerKey) { k.Phase = Secured },
	}
	for name, change := range others {
		k := testPeer
		change(&k)
		if e, ok := s.Known(k); ok {
			t.Errorf("another %s: %v is known", name, e)
		}
	}
	k := testPeer
	k.Hello, k.Addr = "RELAY.example.org", netip.MustParseAddrPort("[::ffff:192.0.2.7]:25")
	wantKnown(t, s, k, true)
	s.Forget(k)
	wantKnown(t, s, testPeer, false)
}

func TestKnownForATime(t *testing.T) {
	s, clock := clocked(t)
	s.Learn(testPeer, testEHLO)
	for range 6 {
		clock.pass(HelloLife / 7)
		wantKnown(t, s, testPeer, true) // which does not make it younger
	}
	clock.pass(HelloLife/7 - time.Second)
	wantKnown(t, s, testPeer, true)
	clock.pass(time.Second)
	wantKnown(t, s, testPeer, false)
	if st := s.Stats(); st.Expired != 1 {
		t.Errorf("%+v, want one expired", st)
	}
	wantKnown(t, s, testPeer, false)

	s.Learn(testPeer, testEHLO)
	clock.pass(-maxSkew)
	wantKnown(t, s, testPeer, true)
	clock.pass(-time.Second) // the clock was put back: who knows how old it is
	wantKnown(t, s, testPeer, false)
}

// What is heard again is written again, but not every time.
func TestLearnAgain(t *testing.T) { synctest.Test(t, testLearnAgain) }

func testLearnAgain(t *testing.T) {
	s, clock := clocked(t)
	written := func() uint64 { st := s.Stats(); return st.Writes + uint64(st.Pending) }
	s.Learn(testPeer, testEHLO)
	synctest.Wait()
	clock.pass(helloFresh - 1)
	s.Learn(testPeer, testEHLO)
	if n := written(); n != 1 {
		t.Errorf("%d writes, want 1", n)
	}
	clock.pass(1)
	s.Learn(testPeer, testEHLO)
	synctest.Wait()
	if n := written(); n != 2 {
		t.Errorf("%d writes, want 2", n)
	}
	clock.pass(HelloLife - 1)
	wantKnown(t, s, testPeer, true)
	other := testEHLO.With(offer("CHUNKING", ""))
	s.Learn(testPeer, other)
	if e, _ := s.Known(testPeer); !e.Equal(other) {
		t.Errorf("what changed is not what is known: %v", e)
	}
}

package tlsstore

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// madeUp returns sessions that crypto/tls would not take.
func madeUp(now time.Time, tickets ...string) (all []session) {
	for _, ticket := range tickets {
		all = append(all, session{
			ticket: []byte(ticket), state: []byte("not a state"), origin: now, expires: now.Add(time.Hour),
		})
	}
	return all
}

func TestSessionChoice(t *testing.T) { synctest.Test(t, testSessionChoice) }

func testSessionChoice(t *testing.T) {
	s, clock := clocked(t)
	w := &sessionWorld{t: t, store: s}
	w.keep(sessionScope, madeUp(clock.now(), "newest", "second", "third")...)
	var got []string
	for range 5 {
		got = append(got, string(w.store.Sessions(sessionScope).choose().ticket))
	}
	if want := []string{"newest", "second", "third", "newest", "newest"}; !slices.Equal(got, want) {
		t.Errorf("offered %q, want %q", got, want)
	}
	synctest.Wait()
	written := s.Stats().Writes
	w.store.Sessions(sessionScope).choose()
	synctest.Wait()
	if s.Stats().Writes != written {
		t.Error("a session that was used before is written for nothing")
	}
}

func TestSessionsKept(t *testing.T) {
	tests := []struct {
		name string
		have []session
		want string
	}{
		{"first", nil, "new"},
		{"room", madeUp(time.Time{}, "a", "b", "c"), "new a b c"},
		{"full", madeUp(time.Time{}, "a", "b", "c", "d"), "new a b c"},
		{"used", used(madeUp(time.Time{}, "a", "b", "c", "d"), 1), "new a c d"},
		{"two used", used(madeUp(time.Time{}, "a", "b", "c", "d"), 0, 2), "new a b d"},
		{"all used", used(madeUp(time.Time{}, "a", "b", "c", "d"), 0, 1, 2, 3), "new a b c"},
		{"again", madeUp(time.Time{}, "a", "new", "c", "d"), "new a c d"},
		{"large", large(madeUp(time.Time{}, "a", "b", "c", "d")), "new a"},
	}
	for _, test := range tests {
		fresh := madeUp(time.Time{}, "new")[0]
		if test.name == "large" {
			fresh = large([]session{fresh})[0]
		}
		var got []byte
		for _, s := range with(test.have, fresh) {
			got = append(append(got, s.ticket...), ' ')
		}
		if string(bytes.TrimSpace(got)) != test.want {
			t.Errorf("%s: %s are kept, want %s", test.name, got, test.want)
		}
	}
}

func used(all []session, which ...int) []session {
	for _, i := range which {
		all[i].used = true
	}
	return all
}

// large makes sessions of which two fit a record.
func large(all []session) []session {
	for i := range all {
		all[i].state = make([]byte, maxSessions/2-100)
	}
	return all
}

// The largest sessions of the largest scope make a record that can be read back.
func TestSessionRecordHasRoom(t *testing.T) {
	now := time.Now()
	big := bytes.Repeat([]byte("n"), maxWords/2)
	addr := netip.MustParseAddrPort("[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535")
	sc := Scope{Host: string(big), ServerName: string(big), Addr: addr, Source: addr.Addr()}
	one := madeUp(now, string(make([]byte, maxTicket)))[0]
	one.state = make([]byte, maxState)
	key := sc.key()
	if value := encodeSessions(key, sc, with(nil, one), now); !sc.fits() || check(key, value) != nil {
		t.Errorf("%d octets are too many, fits: %v", len(value), sc.fits())
	}
	sc.Level = "x"
	if sc.fits() {
		t.Error("a scope that is too large fits")
	}
}

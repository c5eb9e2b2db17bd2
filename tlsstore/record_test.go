package tlsstore

import (
	"bytes"
	"testing"
	"time"
)

// goodRecords returns a record of each kind with its key.
func goodRecords() map[recordKey][]byte {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	hello, quirk, sessions := testPeer.key(), quirkKey(testAddr, QuirkNoEarly), sessionScope.key()
	b := newRecord(kindQuirk, now, now.Add(time.Hour))
	return map[recordKey][]byte{
		hello:    encodeHello(hello, testPeer, testEHLO, now),
		quirk:    seal(quirk, appendText(appendAddrPort(b, testAddr), string(QuirkNoEarly))),
		sessions: encodeSessions(sessions, sessionScope, used(madeUp(now, "one", "two"), 1), now),
	}
}

func TestRecord(t *testing.T) {
	all := goodRecords()
	for key, value := range all {
		if err := check(key, value); err != nil {
			t.Errorf("%s: %v", kind(key[0]), err)
		}
		if e, ok := entryOf(value); !ok || e.Addr != testAddr {
			t.Errorf("%s: %+v, %v", kind(key[0]), e, ok)
		}
		for other := range all {
			if other != key && check(other, value) == nil {
				t.Errorf("a record of %s passes for one of %s", kind(key[0]), kind(other[0]))
			}
		}
		another := key
		another[keySize-1]++
		if check(another, value) == nil {
			t.Errorf("a record of %s passes under another key", kind(key[0]))
		}
	}
}

// Any damage is noticed.
func TestRecordDamaged(t *testing.T) {
	for key, value := range goodRecords() {
		for i := range value {
			if check(key, value[:i]) == nil {
				t.Errorf("%s: cut to %d octets it passes", kind(key[0]), i)
			}
			for bit := range 8 {
				damaged := bytes.Clone(value)
				damaged[i] ^= 1 << bit
				if check(key, damaged) == nil {
					t.Errorf("%s: bit %d of octet %d makes no difference", kind(key[0]), bit, i)
				}
			}
		}
		if check(key, append(bytes.Clone(value), 0)) == nil {
			t.Errorf("%s: an octet more makes no difference", kind(key[0]))
		}
	}
}

// A record that claims to last longer than its kind may is not believed, whoever sealed it.
func TestRecordLife(t *testing.T) {
	now := time.Now()
	for key, value := range goodRecords() {
		life := kind(key[0]).life()
		for _, test := range []struct {
			lasts time.Duration
			ok    bool
		}{{life, true}, {life + time.Second, false}, {-time.Second, false}} {
			b := append(newRecord(kind(key[0]), now, now.Add(test.lasts)), bodyOf(value)...)
			if err := check(key, seal(key, b)); (err == nil) != test.ok {
				t.Errorf("%s for %v: %v", kind(key[0]), test.lasts, err)
			}
		}
	}
}

// Whatever the body of a sealed record is, it is taken apart or refused, and what is taken apart says the same when it
// is put together again.
func FuzzRecord(f *testing.F) {
	for key, value := range goodRecords() {
		f.Add(key[0], bodyOf(value))
	}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, of byte, body []byte) {
		key := newKey(kind(of), []byte("fuzz"))
		value := seal(key, append(newRecord(kind(of), now, now.Add(time.Second)), body...))
		if check(key, value) != nil {
			if k := kind(of); (k == kindHello || k == kindQuirk || k == kindSession) && len(value) <= recordLimit {
				t.Fatal("a sealed record is broken")
			}
			return
		}
		if e, ok := entryOf(value); ok {
			_ = e.Peer()
			e.about("192.0.2.7")
		}
		switch kind(of) {
		case kindHello:
			fuzzHello(t, key, body, now)
		case kindSession:
			fuzzSessions(t, key, body, now)
		}
	})
}

func fuzzHello(t *testing.T, key recordKey, body []byte, now time.Time) {
	r, ok := decodeHello(body)
	if !ok {
		return
	}
	again := encodeHello(key, r.key, r.ehlo, now)
	if again == nil {
		return // offers nothing that is well-formed
	}
	r2, ok := decodeHello(bodyOf(again))
	if !ok || !r2.ehlo.Equal(r.ehlo) || r2.key.key() != r.key.key() {
		t.Errorf("%+v becomes %+v", r, r2)
	}
}

func fuzzSessions(t *testing.T, key recordKey, body []byte, now time.Time) {
	r, ok := decodeSessions(body)
	if !ok {
		return
	}
	if n := len(r.sessions); n == 0 || n > SessionsKept {
		t.Fatalf("%d sessions", n)
	}
	for _, s := range r.sessions {
		if state, err := s.resumption(); err == nil {
			if _, _, err := state.ResumptionState(); err != nil {
				t.Error(err)
			}
		}
	}
	r2, ok := decodeSessions(bodyOf(encodeSessions(key, r.scope, r.sessions, now)))
	if !ok || len(r2.sessions) != len(r.sessions) {
		t.Fatalf("%+v becomes %+v", r, r2)
	}
	for i := range r.sessions {
		if a, b := r.sessions[i], r2.sessions[i]; a.String() != b.String() || a.flags() != b.flags() ||
			!bytes.Equal(a.ticket, b.ticket) || !bytes.Equal(a.state, b.state) {
			t.Errorf("%+v becomes %+v", a, b)
		}
	}
}

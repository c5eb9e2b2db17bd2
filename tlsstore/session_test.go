package tlsstore

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestSessionIsResumedAfterARestart(t *testing.T) {
	eachVersion(t, func(t *testing.T, w *sessionWorld) {
		w.mustVisit(sessionScope, false)
		w.mustVisit(sessionScope, true)
		w.restart()
		w.mustVisit(sessionScope, true)
		w.restart()
		w.mustVisit(sessionScope, true)
	})
}

// The names crypto/tls looks sessions up by play no part.
func TestSessionKeyOfCryptoTLSIsIgnored(t *testing.T) {
	eachVersion(t, func(t *testing.T, w *sessionWorld) {
		w.mustVisit(sessionScope, false)
		cache := w.store.Sessions(sessionScope)
		config := w.config(cache)
		config.ServerName = ""
		config.InsecureSkipVerify = true
		if resumed, err := w.connect(config); err != nil || !resumed {
			t.Errorf("resumed: %v, %v", resumed, err)
		}
	})
}

func TestSessionStaysInItsScope(t *testing.T) {
	others := map[string]func(*Scope){
		"host":               func(sc *Scope) { sc.Host = "mx2.example.net" },
		"address":            func(sc *Scope) { sc.Addr = netip.MustParseAddrPort("192.0.2.8:25") },
		"port":               func(sc *Scope) { sc.Addr = netip.MustParseAddrPort("192.0.2.7:465") },
		"no server name":     func(sc *Scope) { sc.ServerName = "" },
		"server name":        func(sc *Scope) { sc.ServerName = "mx.example.org" },
		"level":              func(sc *Scope) { sc.Level = "may" },
		"trust":              func(sc *Scope) { sc.Trust = TrustOf([]byte("3 1 1 …")) },
		"client certificate": func(sc *Scope) { sc.ClientCert[0] = 1 },
		"node":               func(sc *Scope) { sc.Node = "node1.example.net" },
		"source":             func(sc *Scope) { sc.Source = netip.MustParseAddr("198.51.100.1") },
		"host for name": func(sc *Scope) {
			sc.Host, sc.ServerName = sc.Host+sc.ServerName, ""
		},
	}
	eachVersion(t, func(t *testing.T, w *sessionWorld) {
		w.mustVisit(sessionScope, false)
		for name, change := range others {
			sc := sessionScope
			change(&sc)
			if cache, resumed, err := w.visit(sc); resumed || err != nil || cache.Offered() {
				t.Errorf("%s: resumed: %v, offered: %v, %v", name, resumed, cache.Offered(), err)
			}
		}
		same := sessionScope
		same.Host, same.ServerName = "MX.example.NET.", "mx.Example.net"
		same.Addr = netip.MustParseAddrPort("[::ffff:192.0.2.7]:25")
		w.mustVisit(same, true)
	})
}

// Sessions end with their time, by our clock, and are counted.
func TestSessionExpires(t *testing.T) {
	eachVersion(t, func(t *testing.T, w *sessionWorld) {
		life := SessionLife12
		if w.version == tls.VersionTLS13 {
			life = SessionLife13
		}
		w.mustVisit(sessionScope, false)
		time.Sleep(life - time.Minute)
		sc := sessionScope
		sc.Level = "encrypt"
		w.mustVisit(sc, false)
		time.Sleep(time.Minute)
		cache := w.mustVisit(sessionScope, false)
		if cache.Expired() != 1 || w.store.Stats().Expired != 1 {
			t.Errorf("%d expired, %+v; want 1", cache.Expired(), w.store.Stats())
		}
		w.mustVisit(sc, true)
		w.restart()
		time.Sleep(life)
		w.mustVisit(sc, false)
	})
}

// However often a session is resumed, the peer shows its certificate again in time.
func TestSessionChainExpires(t *testing.T) {
	eachVersion(t, func(t *testing.T, w *sessionWorld) {
		life := SessionLife12
		if w.version == tls.VersionTLS13 {
			life = SessionLife13
		}
		for range 2 {
			w.mustVisit(sessionScope, false)
			for range 3 {
				time.Sleep(life / 4)
				w.mustVisit(sessionScope, true)
			}
			time.Sleep(life / 4)
		}
	})
}

func TestSessionLife12Option(t *testing.T) {
	eachVersion(t, func(t *testing.T, w *sessionWorld) {
		w.store.life12 = time.Hour // as New sets it
		w.mustVisit(sessionScope, false)
		time.Sleep(time.Hour)
		w.mustVisit(sessionScope, w.version == tls.VersionTLS13)
	})
	for option, want := range map[time.Duration]time.Duration{
		0: SessionLife12, -1: SessionLife12, time.Hour: time.Hour, 1000 * time.Hour: SessionLife13,
	} {
		s := New(Memory(), Options{SessionLife12: option})
		if s.life12 != want {
			t.Errorf("%v makes %v, want %v", option, s.life12, want)
		}
		mustClose(t, s)
	}
}

// A ticket's own life, as the peer named it, counts too. If a version of Go encodes sessions otherwise, this test says
// so.
func TestSessionTicketLife(t *testing.T) {
	eachVersion(t, func(t *testing.T, w *sessionWorld) {
		w.mustVisit(sessionScope, false)
		s := w.sessionsOf(sessionScope)[0]
		if isTLS13(s.state) != (w.version == tls.VersionTLS13) {
			t.Fatal("the version is not where it was")
		}
		if len(secretOf(s.state)) < 32 {
			t.Fatal("the secret is not where it was")
		}
		if w.version != tls.VersionTLS13 {
			return
		}
		end, ok := useBy(s.state, time.Now())
		if !ok || time.Until(end).Round(time.Minute) != 7*24*time.Hour {
			t.Fatalf("use_by is %v, %v", end, ok)
		}
		short := bytes.Clone(s.state)
		binary.BigEndian.PutUint64(short[len(short)-12:], uint64(time.Now().Add(time.Hour).Unix()))
		cache := w.store.Sessions(sessionScope)
		state, err := (&session{ticket: []byte("short"), state: short}).resumption()
		if err != nil {
			t.Fatal(err)
		}
		cache.Put("", state)
		time.Sleep(time.Hour)
		if cache = w.mustVisit(sessionScope, true); cache.Expired() != 1 {
			t.Errorf("%d expired, want 1", cache.Expired())
		}
	})
}

// What a broken secret breaks is the connection; the next one starts anew.
func TestSessionWithBrokenSecret(t *testing.T) {
	eachVersion(t, func(t *testing.T, w *sessionWorld) {
		w.mustVisit(sessionScope, false)
		s := w.sessionsOf(sessionScope)[0]
		s.state = bytes.Clone(s.state)
		secretOf(s.state)[0] ^= 1
		w.keep(sessionScope, s)
		cache, _, err := w.visit(sessionScope)
		if err == nil || !cache.Offered() {
			t.Fatalf("%v, offered: %v; want an error that a ticket made", err, cache.Offered())
		}
		cache.Drop()
		if n := len(w.sessionsOf(sessionScope)); n != 0 {
			t.Errorf("%d sessions are left", n)
		}
		w.mustVisit(sessionScope, false)
		w.mustVisit(sessionScope, true)
	})
}

// A ticket that the server cannot read costs nothing but itself.
func TestSessionRefused(t *testing.T) {
	eachVersion(t, func(t *testing.T, w *sessionWorld) {
		w.mustVisit(sessionScope, false)
		w.server.SetSessionTicketKeys([][32]byte{{2}})
		cache, resumed, err := w.visit(sessionScope)
		if err != nil || resumed || !cache.Offered() || cache.Stored() != 1 {
			t.Fatalf("resumed: %v, offered: %v, %v", resumed, cache.Offered(), err)
		}
		cache.Drop()
		if n := len(w.sessionsOf(sessionScope)); n != 1 {
			t.Errorf("%d sessions are left, want the new one", n)
		}
		time.Sleep(SessionLife12 / 2) // the new one is as young as its own handshake
		w.mustVisit(sessionScope, true)
	})
}

// The repair of a connection that broke on a ticket offers none, and brings some for the next.
func TestSessionWithheld(t *testing.T) {
	eachVersion(t, func(t *testing.T, w *sessionWorld) {
		w.mustVisit(sessionScope, false)
		cache := w.store.Sessions(sessionScope)
		cache.Withhold()
		if resumed, err := w.connect(w.config(cache)); resumed || err != nil || cache.Offered() || cache.Stored() != 1 {
			t.Errorf("resumed: %v, %v, offered: %v", resumed, err, cache.Offered())
		}
		w.mustVisit(sessionScope, true)
	})
}

// A resumed connection is only as verified as its origin.
func TestSessionIsAsVerifiedAsItsOrigin(t *testing.T) {
	eachVersion(t, func(t *testing.T, w *sessionWorld) {
		visit := func(sc Scope, hook func(*SessionCache)) *SessionCache {
			cache := w.store.Sessions(sc)
			config := w.config(cache)
			config.InsecureSkipVerify = true
			config.VerifyConnection = func(state tls.ConnectionState) error {
				cache.SetResumed(state.DidResume)
				hook(cache)
				return nil
			}
			if _, err := w.connect(config); err != nil {
				t.Fatal(err)
			}
			return cache
		}
		yes := func(c *SessionCache) { c.SetVerified(true) }
		no := func(c *SessionCache) { c.SetVerified(false) }
		unsaid := func(*SessionCache) {}
		tests := []struct {
			name           string
			visits         []func(*SessionCache)
			origin, judged bool
		}{
			{"first", nil, false, false},
			{"verified", []func(*SessionCache){yes}, true, true},
			{"not verified", []func(*SessionCache){no}, false, true},
			{"nobody knows", []func(*SessionCache){unsaid}, false, false},
			{"verified, resumed", []func(*SessionCache){yes, yes}, true, true},
			{"not verified, then it seems so", []func(*SessionCache){no, yes, yes}, false, true},
			{"verified, then not", []func(*SessionCache){yes, no}, false, true},
			{"nobody knew, then it seems so", []func(*SessionCache){unsaid, yes}, false, false},
		}
		for i, test := range tests {
			sc := sessionScope
			sc.Level = fmt.Sprint("may", i)
			for _, hook := range test.visits {
				visit(sc, hook)
				time.Sleep(sessionsEvery) // so that the next is written
			}
			w.restart()
			if origin, known := visit(sc, yes).Verified(); origin != test.origin || known != test.judged {
				t.Errorf("%s: verified: %v, known: %v; want %v, %v", test.name, origin, known, test.origin, test.judged)
			}
		}
	})
}

// What crypto/tls cannot read, and what another version of it has written, is not offered.
func TestSessionThatCannotBeRead(t *testing.T) {
	eachVersion(t, func(t *testing.T, w *sessionWorld) {
		w.mustVisit(sessionScope, false)
		good := w.sessionsOf(sessionScope)[0]
		w.keep(sessionScope, append(madeUp(time.Now(), "bad", "worse"), good)...)
		w.mustVisit(sessionScope, true)
		if n := len(w.sessionsOf(sessionScope)); n != 2 {
			t.Errorf("%d sessions are left, want 2", n)
		}

		key := sessionScope.key()
		record := bytes.Clone(w.store.get(key))
		at := bytes.Index(record, []byte(goVersion()))
		record[at+len(goVersion())-1]++
		w.store.set(key, seal(key, record[:len(record)-sumSize]))
		w.mustVisit(sessionScope, false)
	})
}

func TestSessionsAreDroppedOnlyInPart(t *testing.T) {
	eachVersion(t, func(t *testing.T, w *sessionWorld) {
		w.mustVisit(sessionScope, false)
		good := w.sessionsOf(sessionScope)[0]
		w.keep(sessionScope, append([]session{good}, madeUp(time.Now(), "a", "b")...)...)
		cache := w.store.Sessions(sessionScope)
		cache.Drop() // nothing was offered
		if n := len(w.sessionsOf(sessionScope)); n != 3 {
			t.Errorf("%d sessions are left, want 3", n)
		}
		if _, ok := cache.Get(""); !ok {
			t.Fatal("nothing to offer")
		}
		cache.Put("", nil)
		cache.Drop()
		if n := len(w.sessionsOf(sessionScope)); n != 2 || !cache.Offered() {
			t.Errorf("%d sessions are left, want 2; offered: %v", n, cache.Offered())
		}
	})
}

// Connections that begin at once offer different sessions as long as there are some.
func TestSessionsAtOnce(t *testing.T) {
	eachVersion(t, func(t *testing.T, w *sessionWorld) {
		var caches []*SessionCache
		for range SessionsKept {
			cache := w.store.Sessions(sessionScope)
			cache.Withhold()
			if _, err := w.connect(w.config(cache)); err != nil {
				t.Fatal(err)
			}
		}
		var mu sync.Mutex
		var all sync.WaitGroup
		for range SessionsKept {
			all.Go(func() {
				cache, resumed, err := w.visit(sessionScope)
				if err != nil || !resumed {
					t.Errorf("resumed: %v, %v", resumed, err)
				}
				mu.Lock()
				defer mu.Unlock()
				caches = append(caches, cache)
			})
		}
		all.Wait()
		tickets := make(map[string]bool)
		for _, cache := range caches {
			tickets[string(cache.offered.ticket)] = true
		}
		if len(tickets) != SessionsKept {
			t.Errorf("%d different tickets were offered, want %d", len(tickets), SessionsKept)
		}
		if n := len(w.sessionsOf(sessionScope)); n != SessionsKept {
			t.Errorf("%d sessions are kept, want %d", n, SessionsKept)
		}
	})
}

// With a disk that does not answer, TLS does without.
func TestSessionsWithoutADisk(t *testing.T) {
	eachVersion(t, func(t *testing.T, w *sessionWorld) {
		w.mustVisit(sessionScope, false)
		w.restart()
		release := w.kv.stick()
		w.mustVisit(sessionScope, false)
		w.mustVisit(sessionScope, true)
		release()
		synctest.Wait()
		w.restart()
		w.mustVisit(sessionScope, true)
	})
}

// In TLS 1.2 a session with the old secret is the old session, whatever the caller says.
func TestSessionWithTheOldSecret(t *testing.T) {
	eachVersion(t, func(t *testing.T, w *sessionWorld) {
		w.mustVisit(sessionScope, false)
		origin := w.sessionsOf(sessionScope)[0].origin
		time.Sleep(time.Hour)
		cache := w.store.Sessions(sessionScope)
		config := w.config(cache)
		config.VerifyConnection = func(tls.ConnectionState) error { cache.SetResumed(false); return nil }
		if resumed, err := w.connect(config); !resumed || err != nil {
			t.Fatalf("resumed: %v, %v", resumed, err)
		}
		newest := w.sessionsOf(sessionScope)[0]
		if newest.origin.Equal(origin) != (w.version == tls.VersionTLS12) {
			t.Errorf("it is from %v, the first from %v", newest.origin, origin)
		}
	})
}

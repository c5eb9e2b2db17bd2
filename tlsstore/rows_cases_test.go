package tlsstore

import (
	"crypto/tls"
	"net"
	"testing"
	"time"
)

// What a client's sessions meet with in the field.
func TestSessionCases(t *testing.T) {
	runRows(t, []row{
		{"one address, another server name: not offered", func(r *rowsRig) {
			r.notOffered(func(sc *Scope) { sc.ServerName = "mx2.example.org" })
		}},
		{"one address, another port: not offered", func(r *rowsRig) {
			r.notOffered(func(sc *Scope) { sc.Addr = addrPortOf(*sc, 587) })
		}},
		{"one address, other TLSA records: not offered", func(r *rowsRig) {
			r.notOffered(func(sc *Scope) { sc.Trust = TrustOf([]byte("\x03\x01\x01other")) })
		}},
		{"expired hint", rowExpiredHint},
		{"hint 0", rowHintZero},
		{"two tickets: both are kept, and offered one each", caseTwoTickets},
		{"record corrupted", caseCorrupted},
		{"keys rotate at half of a ticket's life", caseRotation},
	})
}

// notOffered checks that another peer at the same address, which would take it, is not offered the session.
func (r *rowsRig) notOffered(change func(*Scope)) {
	r.t.Helper()
	r.door.scope = "" // whatever the name is, the keys are the same
	r.must(rowsScope, false)
	other := rowsScope
	change(&other)
	v := r.must(other, false)
	if v.cache.Offered() || v.use.Offered() {
		r.t.Error("it was offered")
	}
	r.must(rowsScope, true)
	r.must(other, true)
}

// crypto/tls gives one ticket for each handshake, OpenSSL two.
func caseTwoTickets(r *rowsRig) {
	if r.version() != tls.VersionTLS13 {
		return // TLS 1.2 has room for one
	}
	addr, roots := opensslServer(r.t, "-tls1_3", "-num_tickets", "2")
	talkTo := func(store *Store) (*SessionCache, bool) {
		cache := store.Sessions(sessionScope)
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			r.t.Fatal(err)
		}
		resumed, err := talk(conn, &tls.Config{ServerName: sessionHost, RootCAs: roots, ClientSessionCache: cache})
		if err != nil {
			r.t.Fatal(err)
		}
		return cache, resumed
	}
	store := New(newTestKV(), Options{}) // by the clock of the other server
	defer mustClose(r.t, store)
	if cache, resumed := talkTo(store); resumed || cache.Stored() != 2 {
		r.t.Fatalf("resumed: %v, %d sessions came", resumed, cache.Stored())
	}
	var offered []string
	for range 2 { // as two connections would that begin at once
		cache := store.Sessions(sessionScope)
		if _, ok := cache.Get(""); !ok {
			r.t.Fatal("nothing to offer")
		}
		offered = append(offered, string(cache.offered.ticket))
	}
	if offered[0] == offered[1] {
		r.t.Error("one ticket was offered twice")
	}
	if _, resumed := talkTo(store); !resumed {
		r.t.Error("not resumed")
	}
}

// A record that comes back from the disk with any bit flipped is a miss.
func caseCorrupted(r *rowsRig) {
	r.must(rowsScope, false)
	r.restart()
	key := rowsScope.key()
	good, err := r.kv.Get(key[:])
	if err != nil {
		r.t.Fatal(err)
	}
	for _, at := range []int{0, 1, 9, len(good) / 3, len(good) / 2, len(good) - 20, len(good) - 1} {
		bad := append([]byte(nil), good...)
		bad[at] ^= 0x10
		mustClose(r.t, r.store) // which writes what waits
		if err := r.kv.Set(key[:], bad, time.Hour); err != nil {
			r.t.Fatal(err)
		}
		r.open()
		v := r.must(rowsScope, false)
		if v.cache.Offered() || v.cache.Stored() != 1 {
			r.t.Errorf("octet %d: offered: %v, %d stored", at, v.cache.Offered(), v.cache.Stored())
		}
	}
	r.restart()
	r.must(rowsScope, true) // what came in its place
}

// With one key in a ticket's life, as Exim has it, a ticket of its last minute dies within the next. Ours live on.
func caseRotation(r *rowsRig) {
	r.must(rowsScope, false, noSessions)
	r.must(rowsScope, false) // the key is as old as can be
	first := r.sealedBy(rowsScope)
	r.clock.pass(TicketRotate - time.Second)
	r.must(rowsScope, true)
	if r.sealedBy(rowsScope) != first {
		r.t.Error("the key changed too early")
	}
	r.clock.pass(time.Second)
	r.must(rowsScope, true)
	second := r.sealedBy(rowsScope)
	if second == first {
		r.t.Error("the key did not change")
	}
	r.clock.pass(TicketLife - time.Second)
	r.must(rowsScope, true)
	if third := r.sealedBy(rowsScope); third == first || third == second {
		r.t.Error("an old key was used again")
	}
}

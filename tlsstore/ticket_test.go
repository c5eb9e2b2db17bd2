package tlsstore

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func eachTLS(t *testing.T, f func(t *testing.T, version uint16)) {
	t.Helper()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) { f(t, version) })
	}
}

func TestTicketResumes(t *testing.T) {
	defer goleak.VerifyNone(t)
	secret := bytes.Repeat([]byte{7}, MinTicketSecret)
	eachTLS(t, func(t *testing.T, version uint16) {
		for _, o := range []TicketOptions{{}, {Secret: secret}} {
			for _, plain := range []bool{false, true} {
				t.Run(fmt.Sprintf("fleet=%v,held=%v", o.Secret != nil, !plain), func(t *testing.T) {
					d, client := newTicketDoor(t, o, version)
					d.plain = plain
					first := d.mustVisit(client, false)
					if first.use.Offered() || !first.use.Issued() {
						t.Errorf("first visit: offered %v, issued %v", first.use.Offered(), first.use.Issued())
					}
					if got, want := first.use.Bits(false), 0x0B; got != want { // "client requested new ticket, server provided"
						t.Errorf("first visit: bits %#x, want %#x", got, want)
					}
					for range 3 {
						again := d.mustVisit(client, true)
						if got, want := again.use.Bits(again.resumed), 0x1F; got != want { // "session resumed, also new ticket"
							t.Errorf("later visit: bits %#x, want %#x", got, want)
						}
					}
					got := d.tickets.Stats()
					if got.Issued != 4 || got.Accepted != 3 || got.Foreign+got.Damaged+got.Expired+got.Aged+got.Failed != 0 {
						t.Errorf("stats: %+v", got)
					}
				})
			}
		}
	})
}

func TestTicketExpires(t *testing.T) {
	steps := []struct {
		issue, later time.Duration // issued that long after the key was made; used that long after it was issued
		resumed      bool
	}{
		{0, 0, true},
		{0, TicketLife - time.Second, true},
		{0, TicketLife, false},
		{TicketRotate - time.Second, TicketLife - time.Second, true}, // with a key that seals no more since long
		{TicketRotate - time.Second, TicketLife, false},
		{TicketRotate, TicketLife - time.Second, true},
		{0, 100 * time.Hour, false},
		{0, 1000 * time.Hour, false}, // beyond what crypto/tls would allow
		{0, -time.Minute, true},      // a clock that was set back a little
		{0, -2 * time.Hour, false},   // and a lot
	}
	eachTLS(t, func(t *testing.T, version uint16) {
		for _, secret := range [][]byte{nil, bytes.Repeat([]byte{7}, MinTicketSecret)} {
			for _, step := range steps {
				t.Run(fmt.Sprintf("fleet=%v,%v,%v", secret != nil, step.issue, step.later), func(t *testing.T) {
					clock := newTicketClock()
					d, client := newTicketDoor(t, TicketOptions{Now: clock.now, Secret: secret}, version)
					other := client.Clone()
					other.ClientSessionCache = nil
					d.mustVisit(other, false) // makes the key
					clock.pass(step.issue)
					issued := clock.now()
					client.Time = func() time.Time { return issued } // it offers tickets however old they are
					d.mustVisit(client, false)
					clock.pass(step.later)
					d.mustVisit(client, step.resumed)
				})
			}
		}
	})
}

// A session that is resumed over and over ends a day after its full handshake.
func TestTicketTotalAge(t *testing.T) {
	eachTLS(t, func(t *testing.T, version uint16) {
		clock := newTicketClock()
		d, client := newTicketDoor(t, TicketOptions{Now: clock.now}, version)
		d.mustVisit(client, false)
		const step = 90 * time.Minute
		for age := step; age < MaxSessionAge; age += step {
			clock.pass(step)
			d.mustVisit(client, true)
		}
		clock.pass(step) // 24 h
		d.mustVisit(client, false)
		if got := d.tickets.Stats(); got.Aged != 1 || got.Expired != 0 {
			t.Errorf("stats: %+v", got)
		}
		clock.pass(step)
		d.mustVisit(client, true) // it began anew
	})
}

func TestTicketScope(t *testing.T) {
	eachTLS(t, func(t *testing.T, version uint16) {
		d, client := newTicketDoor(t, TicketOptions{}, version)
		client.ClientSessionCache = &oneSession{LRU: tls.NewLRUClientSessionCache(1)} // offered under every name
		d.mustVisit(client, false)
		d.scope = "other door"
		d.mustVisit(client, false)
		d.scope = "inbound"
		d.mustVisit(client, false) // what it has now is the other door's
		d.mustVisit(client, true)
		client.ServerName = "mx2.example.org"
		d.mustVisit(client, false)
		client.ServerName = "MX2.example.org" // names have no case
		d.mustVisit(client, true)
		if got := d.tickets.Stats(); got.Scope != 3 || got.Accepted != 2 {
			t.Errorf("stats: %+v", got)
		}
	})
}

// oneSession offers its session whatever the server is called.
type oneSession struct{ LRU tls.ClientSessionCache }

func (o *oneSession) Get(string) (*tls.ClientSessionState, bool)    { return o.LRU.Get("") }
func (o *oneSession) Put(_ string, session *tls.ClientSessionState) { o.LRU.Put("", session) }

func TestTicketScopeTagIsUnambiguous(t *testing.T) {
	if scopeTag("a", "bc") == scopeTag("ab", "c") || scopeTag("", "") == scopeTag("\x00", "") {
		t.Error("two scopes have one tag")
	}
}

// The machines of a fleet take each other's tickets, though their clocks differ.
func TestTicketFleet(t *testing.T) {
	secret := []byte("0123456789abcdef0123456789abcdef")
	const slow = 6 * time.Hour
	tests := []struct {
		name    string
		rotate  time.Duration // of the machine that gave the ticket
		o       TicketOptions // of the one that takes it
		off     time.Duration // how far the clock of the latter is ahead
		resumed bool
	}{
		{"same clock", 0, TicketOptions{Secret: secret}, 0, true},
		{"behind", 0, TicketOptions{Secret: secret}, -time.Hour, true},
		{"ahead", 0, TicketOptions{Secret: secret}, time.Hour, true},
		{"nearly a life ahead", 0, TicketOptions{Secret: secret}, TicketLife - time.Second, true},
		{"a life ahead", 0, TicketOptions{Secret: secret}, TicketLife, false},
		{"far behind", 0, TicketOptions{Secret: secret}, -3 * time.Hour, false},
		{"behind, slow rotation", slow, TicketOptions{Secret: secret, Rotate: slow}, -time.Hour, true},
		{"far behind, slow rotation", slow, TicketOptions{Secret: secret, Rotate: slow}, -time.Hour - time.Second, false},
		{"another secret", 0, TicketOptions{Secret: bytes.ToUpper(secret)}, 0, false},
		{"another rotation", 0, TicketOptions{Secret: secret, Rotate: 30 * time.Minute}, 0, false},
		{"no secret", 0, TicketOptions{}, 0, false},
	}
	eachTLS(t, func(t *testing.T, version uint16) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				clock := newTicketClock()
				first := TicketOptions{Secret: secret, Now: clock.now, Rotate: tt.rotate}
				d, client := newTicketDoor(t, first, version)
				d.mustVisit(client, false)
				tt.o.Now = func() time.Time { return clock.now().Add(tt.off) }
				var err error
				if d.tickets, err = NewTickets(tt.o); err != nil {
					t.Fatal(err)
				}
				d.mustVisit(client, tt.resumed)
				d.mustVisit(client, true)
			})
		}
	})
}

// Another process has other keys, and that costs a full handshake and nothing else.
func TestTicketAfterRestart(t *testing.T) {
	eachTLS(t, func(t *testing.T, version uint16) {
		d, client := newTicketDoor(t, TicketOptions{}, version)
		d.mustVisit(client, false)
		d.tickets, _ = NewTickets(TicketOptions{})
		d.mustVisit(client, false)
		if got := d.tickets.Stats(); got.Foreign != 1 {
			t.Errorf("stats: %+v", got)
		}
		d.mustVisit(client, true)
	})
}

// sealedTicket makes a ticket as a handshake would.
func sealedTicket(t testing.TB, o TicketOptions) (*Tickets, *TicketUse, []byte) {
	t.Helper()
	tickets, err := NewTickets(o)
	if err != nil {
		t.Fatal(err)
	}
	ss, err := tls.ParseSessionState(ticketState())
	if err != nil {
		t.Fatal(err)
	}
	use := tickets.Configure(&tls.Config{}, "inbound", nil)
	ticket, err := use.wrap(tls.ConnectionState{Version: tls.VersionTLS13}, ss)
	if err != nil {
		t.Fatal(err)
	}
	return tickets, use, ticket
}

// ticketState is a TLS 1.3 session of a server: version, type, suite, time, secret, no extras, EMS, no early data, no
// certificates, no chains.
func ticketState() []byte {
	b := []byte{3, 4, 1, 0x13, 1, 0, 0, 0, 0, 0x69, 0, 0, 0, 32}
	b = append(b, bytes.Repeat([]byte{5}, 32)...)
	return append(b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
}

func TestTicketDamaged(t *testing.T) {
	tickets, use, ticket := sealedTicket(t, TicketOptions{})
	refused := func(what string, b []byte) {
		t.Helper()
		ss, err := use.unwrap(b, tls.ConnectionState{})
		if ss != nil || err != nil {
			t.Fatalf("%s: session %v, error %v", what, ss, err)
		}
	}
	for i := range ticket {
		for bit := range 8 {
			b := bytes.Clone(ticket)
			b[i] ^= 1 << bit
			refused(fmt.Sprintf("bit %d of octet %d flipped", bit, i), b)
		}
		refused(fmt.Sprintf("cut to %d octets", i), ticket[:i])
	}
	refused("an octet more", append(bytes.Clone(ticket), 0))
	refused("far too long", append(bytes.Clone(ticket), make([]byte, 1<<16)...))
	if got := tickets.Stats(); got.Accepted != 0 || got.Foreign == 0 || got.Damaged == 0 {
		t.Errorf("stats: %+v", got)
	}
	if ss, err := use.unwrap(ticket, tls.ConnectionState{}); ss == nil || err != nil {
		t.Errorf("the ticket as it was: session %v, error %v", ss, err)
	}
	if t.Logf("a TLS 1.3 ticket has %d octets", len(ticket)); len(ticket) > 150 {
		t.Errorf("a ticket of %d octets", len(ticket))
	}
}

func FuzzTicketOpen(f *testing.F) {
	_, use, ticket := sealedTicket(f, TicketOptions{})
	f.Add(ticket)
	f.Add([]byte{})
	f.Add(ticket[:ticketNameSize])
	f.Add(append(bytes.Clone(ticket[:ticketNameSize]), make([]byte, 100)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		ss, err := use.unwrap(b, tls.ConnectionState{})
		if err != nil {
			t.Fatal(err)
		}
		if (ss != nil) != bytes.Equal(b, ticket) {
			t.Fatalf("%d octets: session %v", len(b), ss)
		}
	})
}

// What is sealed may still be nonsense to this release of Go, and is then a full handshake too.
func FuzzTicketState(f *testing.F) {
	tickets, err := NewTickets(TicketOptions{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ticketState())
	f.Fuzz(func(t *testing.T, state []byte) {
		key, err := tickets.keys.sealing(tickets.now())
		if err != nil {
			t.Fatal(err)
		}
		ticket := key.aead.Seal(bytes.Clone(key.name[:]), nil, state, key.name[:])
		ss, _, fault := tickets.open(ticket, scopeTag("", ""), tickets.now())
		if ss == nil == (fault == ticketGood) {
			t.Fatalf("session %v, fault %d", ss, fault)
		}
	})
}

func TestTicketOfClientCertificate(t *testing.T) {
	eachTLS(t, func(t *testing.T, version uint16) {
		for _, tt := range []struct {
			padding int
			resumed bool
		}{{0, true}, {2000, false}} {
			t.Run(fmt.Sprint(tt.padding), func(t *testing.T) {
				d, client := newTicketDoor(t, TicketOptions{}, version)
				cert, _ := ticketCert(t, tt.padding)
				client.Certificates = []tls.Certificate{cert}
				d.config.ClientAuth = tls.RequireAnyClientCert
				d.mustVisit(client, false)
				v := d.mustVisit(client, tt.resumed)
				if got := v.state.PeerCertificates; len(got) != 1 || !bytes.Equal(got[0].Raw, cert.Certificate[0]) {
					t.Errorf("the client's certificate is lost: %d", len(got))
				}
				if got := d.tickets.Stats(); (got.Failed == 0) != tt.resumed {
					t.Errorf("stats: %+v", got)
				}
			})
		}
	})
}

// What we make for a session that does not fit is no ticket, and harms no one.
func TestTicketTooLarge(t *testing.T) {
	tickets, use, _ := sealedTicket(t, TicketOptions{})
	ss, err := tls.ParseSessionState(ticketState())
	if err != nil {
		t.Fatal(err)
	}
	ss.Extra = [][]byte{make([]byte, MaxTicket)}
	ticket, err := use.wrap(tls.ConnectionState{}, ss)
	if err != nil || len(ticket) != ticketNameSize {
		t.Fatalf("%d octets, %v", len(ticket), err)
	}
	if ss, err := use.unwrap(ticket, tls.ConnectionState{}); ss != nil || err != nil {
		t.Errorf("session %v, error %v", ss, err)
	}
	if got := tickets.Stats(); got.Failed != 1 || got.Foreign != 1 {
		t.Errorf("stats: %+v", got)
	}
}

// Without randomness there are no tickets, and mail flows.
func TestTicketWithoutRandomness(t *testing.T) {
	eachTLS(t, func(t *testing.T, version uint16) {
		d, client := newTicketDoor(t, TicketOptions{Rand: strings.NewReader("too short")}, version)
		d.mustVisit(client, false)
		d.mustVisit(client, false)
		if got := d.tickets.Stats(); got.Failed != 2 || got.Issued != 0 {
			t.Errorf("stats: %+v", got)
		}
	})
}

func TestTicketOptions(t *testing.T) {
	for _, tt := range []struct {
		o    TicketOptions
		want string // in the error; "" for none
	}{
		{TicketOptions{}, ""},
		{TicketOptions{Life: time.Hour, Rotate: time.Minute}, ""},
		{TicketOptions{Life: -1}, "cannot live"},
		{TicketOptions{Life: 25 * time.Hour}, "cannot live"},
		{TicketOptions{Rotate: time.Second}, "cannot rotate"},
		{TicketOptions{Rotate: -1}, "cannot rotate"},
		{TicketOptions{Rotate: 25 * time.Hour}, "cannot rotate"},
		{TicketOptions{Life: 24 * time.Hour, Rotate: time.Minute}, "too many"},
		{TicketOptions{Secret: []byte{}}, "too short"},
		{TicketOptions{Secret: make([]byte, 31)}, "too short"},
		{TicketOptions{Secret: make([]byte, 32)}, ""},
	} {
		_, err := NewTickets(tt.o)
		if got := fmt.Sprint(err); (err == nil) != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%+v: %v, want %q", tt.o, err, tt.want)
		}
	}
}

func TestTicketSecretIsCopied(t *testing.T) {
	clock := newTicketClock()
	secret := bytes.Repeat([]byte{1}, 32)
	tickets, use, ticket := sealedTicket(t, TicketOptions{Secret: secret, Now: clock.now})
	clear(secret)
	clock.pass(TicketRotate)
	if ss, err := use.unwrap(ticket, tls.ConnectionState{}); ss == nil || err != nil {
		t.Errorf("session %v, error %v; %+v", ss, err, tickets.Stats())
	}
}

func TestTicketKeysRotateAndDie(t *testing.T) {
	for _, secret := range [][]byte{nil, bytes.Repeat([]byte{7}, MinTicketSecret)} {
		clock := newTicketClock()
		tickets, err := NewTickets(TicketOptions{Now: clock.now, Secret: secret})
		if err != nil {
			t.Fatal(err)
		}
		names := make(map[string]time.Time)
		for range 200 {
			key, err := tickets.keys.sealing(clock.now())
			if err != nil {
				t.Fatal(err)
			}
			if first, ok := names[string(key.name[:])]; !ok {
				names[string(key.name[:])] = clock.now()
			} else if clock.now().Sub(first) >= TicketRotate {
				t.Fatalf("a key seals %v after it was made", clock.now().Sub(first))
			}
			for name, first := range names {
				age, opens := clock.now().Sub(first), tickets.keys.opening([]byte(name), clock.now()) != nil
				if age < TicketLife && !opens || age >= TicketLife+3*TicketRotate && opens {
					t.Fatalf("fleet %v: a key of %v opens: %v", secret != nil, age, opens)
				}
			}
			if n := len(tickets.keys.ring); n > 6 {
				t.Fatalf("%d keys are alive", n)
			}
			clock.pass(7 * time.Minute)
		}
		if len(names) < 20 {
			t.Errorf("%d keys in a day", len(names))
		}
	}
}

func TestTicketsConcurrently(t *testing.T) {
	defer goleak.VerifyNone(t)
	clock := newTicketClock()
	tickets, err := NewTickets(TicketOptions{Now: clock.now})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	errs := make(chan error, 8)
	for range 8 {
		wg.Go(func() {
			ss, err := tls.ParseSessionState(ticketState())
			for range 200 {
				use := tickets.Configure(&tls.Config{}, "inbound", nil)
				ticket, _ := use.wrap(tls.ConnectionState{}, ss)
				clock.pass(4 * time.Second) // in all, more than a rotation and less than a life
				if got, _ := use.unwrap(ticket, tls.ConnectionState{}); got == nil || err != nil {
					errs <- errors.Join(err, errors.New("a ticket is refused at once"))
					return
				}
				tickets.Stats()
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		t.Fatal(err)
	default:
	}
}

func BenchmarkTicketSealOpen(b *testing.B) {
	_, use, _ := sealedTicket(b, TicketOptions{})
	ss, err := tls.ParseSessionState(ticketState())
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		ticket, _ := use.wrap(tls.ConnectionState{}, ss)
		if got, _ := use.unwrap(ticket, tls.ConnectionState{}); got == nil {
			b.Fatal("refused")
		}
	}
}

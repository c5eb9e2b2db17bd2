package once

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"slipstream/smtpwire"
	"slipstream/tlsstore"
)

func TestRememberAndRecall(t *testing.T) {
	defer goleak.VerifyNone(t)
	m := openTest(t, newDisk(), Options{})
	defer mustClose(t, m)
	wantReady(t, m, 4, "")
	a, b, c := delivered("a@one.example", "text"), refused("b@two.example", "text"), delivered("c@one.example", "text")
	mustRemember(t, m, a, b)
	wantRecalled(t, m, a, b)
	wantForgotten(t, m, c.Key, key("a@one.example", "other text"), key("A@one.example", "text"))
	other := a.Key
	other.Sender = ""
	another := a.Key
	another.Client = netip.MustParseAddr("192.0.2.2")
	wantForgotten(t, m, other, another)
	if s := m.Stats(); s.Outcomes != 2 || s.Refused != 1 || s.Unsaved != 0 {
		t.Errorf("%+v", s)
	}
	m.Heard([]Key{a.Key, c.Key})
	wantForgotten(t, m, a.Key)
	wantRecalled(t, m, b)
}

// TestSameKey: what is one client, sender or recipient, and what is not.
func TestSameKey(t *testing.T) {
	k := func(client, sender, to string) Key {
		return Key{Client: netip.MustParseAddr(client), Sender: sender, Recipient: to}
	}
	for _, test := range []struct {
		a, b Key
		same bool
	}{
		{k("127.0.0.1", "s@x", "a@b"), k("127.8.8.8", "s@x", "a@b"), true},
		{k("127.0.0.1", "s@x", "a@b"), k("::1", "s@x", "a@b"), true},
		{k("127.0.0.1", "s@x", "a@b"), k("::ffff:127.0.0.1", "s@x", "a@b"), true},
		{k("192.0.2.1", "s@x", "a@b"), k("::ffff:192.0.2.1", "s@x", "a@b"), true},
		{k("192.0.2.1", "s@x", "a@b"), k("192.0.2.2", "s@x", "a@b"), false},
		{k("192.0.2.1", "s@x", "a@b"), k("127.0.0.1", "s@x", "a@b"), false},
		{k("fe80::1%eth0", "s@x", "a@b"), k("fe80::1%eth1", "s@x", "a@b"), false},
		{k("192.0.2.1", "s@X.example", "a@B.Example"), k("192.0.2.1", "s@x.EXAMPLE", "a@b.example"), true},
		{k("192.0.2.1", "s@x", "a@b"), k("192.0.2.1", "S@x", "a@b"), false},
		{k("192.0.2.1", "s@x", "a@b"), k("192.0.2.1", "s@x", "A@b"), false},
		{k("192.0.2.1", "s@x", `"a@B"@b`), k("192.0.2.1", "s@x", `"a@b"@b`), false},
		{k("192.0.2.1", "s@x", "Postmaster"), k("192.0.2.1", "s@x", "postmaster"), false},
		{k("192.0.2.1", "", "a@b"), k("192.0.2.1", "a@b", ""), false},
		{k("192.0.2.1", "s@x\x03a@b", ""), k("192.0.2.1", "s@x", "a@b"), false},
		{k("192.0.2.1", "s@x", "a@\xc3(B"), k("192.0.2.1", "s@x", "a@\xc3(b"), true},
		{k("192.0.2.1", "s@x", "a@\xc3("), k("192.0.2.1", "s@x", "a@\xef\xbf\xbd("), false},
	} {
		if same := test.a.id() == test.b.id(); same != test.same {
			t.Errorf("%v and %v: same %v", test.a, test.b, same)
		}
	}
	a, b := k("192.0.2.1", "s@x", "a@b"), k("192.0.2.1", "s@x", "a@b")
	if b.Content[31] = 1; a.id() == b.id() {
		t.Error("the content does not count")
	}
}

func TestNothing(t *testing.T) {
	var m *Memory
	wantReady(t, m, 1, ErrOff.Error())
	if err := m.Remember([]Outcome{delivered("a@b", "x")}); !errors.Is(err, ErrOff) {
		t.Error(err)
	}
	wantForgotten(t, m, key("a@b", "x"))
	m.Heard([]Key{key("a@b", "x")})
	if m.Refused(mta, sender, "a@b") || m.Awaits(mta, sender, "a@b") || !m.Turn(mta, sender, []string{"a@b"}) {
		t.Error("nothing knows something")
	}
	if m.Stats() != (Stats{}) || m.Close() != nil {
		t.Error("nothing counts")
	}
	if _, err := Open(nil, Options{}); err == nil {
		t.Error("nothing was opened")
	}
}

// TestNoOutcome: what may still change is not remembered.
func TestNoOutcome(t *testing.T) {
	d := newDisk()
	m := openTest(t, d, Options{})
	defer mustClose(t, m)
	for _, code := range []int{0, 354, 199, 600} {
		o := delivered("a@b", "x")
		o.Reply.Code = code
		if err := m.Remember([]Outcome{delivered("first@b", "x"), o}); err == nil {
			t.Errorf("a reply of %d was remembered", code)
		}
	}
	wantForgotten(t, m, key("a@b", "x"), key("first@b", "x"))
	if err := m.Remember(nil); err != nil {
		t.Error(err)
	}
	if n := d.outcomes(t); n != 0 {
		t.Errorf("%d records", n)
	}
}

// TestStays: what was remembered is there at the next start, and what was heard is not.
func TestStays(t *testing.T) {
	d := newDisk()
	m := openTest(t, d, Options{})
	a, b, c := delivered("a@one.example", "text"), refused("b@two.example", "text"), delivered("c@one.example", "text")
	mustRemember(t, m, a, b, c)
	m.Heard([]Key{c.Key})
	mustClose(t, m)
	mustClose(t, m)
	wantReady(t, m, 1, "closed")
	if err := m.Remember([]Outcome{c}); !errors.Is(err, ErrClosed) {
		t.Errorf("Remember after Close: %v", err)
	}
	for range 2 {
		m = openTest(t, d, Options{})
		wantRecalled(t, m, a, b)
		wantForgotten(t, m, c.Key)
		if !m.Refused(mta, sender, "b@TWO.example") || m.Refused(mta, sender, "a@one.example") ||
			!m.Awaits(mta, sender, "a@one.example") || m.Awaits(mta, sender, "b@two.example") {
			t.Error("who was refused is not known any more")
		}
		mustClose(t, m)
	}
	if _, closed := d.count(); closed != 3 {
		t.Errorf("the disk was closed %d times, want 3", closed)
	}
}

// TestLastWord: of two outcomes for one recipient the last counts, in memory and on the disk.
func TestLastWord(t *testing.T) {
	d := newDisk()
	m := openTest(t, d, Options{})
	a, b := delivered("a@b.example", "text"), refused("a@b.example", "text")
	mustRemember(t, m, b, delivered("c@b.example", "text"))
	mustRemember(t, m, a)
	wantRecalled(t, m, a)
	if m.Refused(mta, sender, "a@b.example") || m.Awaits(mta, sender, "c@b.example") || m.Stats().Outcomes != 2 {
		t.Errorf("the first word is still there: %+v", m.Stats())
	}
	m.Heard([]Key{a.Key})
	mustRemember(t, m, b)
	mustClose(t, m)
	m = openTest(t, d, Options{})
	wantRecalled(t, m, b)
	mustClose(t, m)
}

// TestExpiry: an outcome lasts as long as Keep, over a restart too, and whatever the clocks said.
func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		o := Options{Keep: 10 * time.Hour}
		m := openTest(t, d, o)
		a, b := refused("a@b.example", "text"), delivered("b@b.example", "text")
		mustRemember(t, m, a)
		time.Sleep(6 * time.Hour)
		mustRemember(t, m, b)
		mustClose(t, m)
		m = openTest(t, d, o)
		time.Sleep(4*time.Hour - time.Second)
		wantRecalled(t, m, a, b)
		time.Sleep(time.Second)
		wantForgotten(t, m, a.Key)
		wantRecalled(t, m, b)
		if m.Refused(mta, sender, "a@b.example") || m.Awaits(mta, sender, "b@b.example") {
			t.Error("a refusal that is over still counts")
		}
		if s := m.Stats(); s.Outcomes != 1 || s.Refused != 0 || s.Expired != 1 {
			t.Errorf("%+v", s)
		}
		mustClose(t, m)

		o.Keep = time.Hour // it lasts no longer than is wanted now
		m = openTest(t, d, o)
		time.Sleep(time.Hour)
		wantForgotten(t, m, b.Key)
		mustClose(t, m)

		o.Keep, o.Now = 10*time.Hour, func() time.Time { return time.Now().Add(-1000 * time.Hour) }
		m = openTest(t, d, o) // the clock was set back: it is not over, but does not last for ever either
		wantRecalled(t, m, b)
		time.Sleep(10 * time.Hour)
		wantForgotten(t, m, b.Key)
		mustClose(t, m)
	})
}

// TestKeepBounds: Keep is what it says, and no more than there may be.
func TestKeepBounds(t *testing.T) {
	for keep, want := range map[time.Duration]time.Duration{
		0: DefaultKeep, -1: DefaultKeep, time.Hour: time.Hour, MaxKeep: MaxKeep, MaxKeep + 1: MaxKeep,
	} {
		m := newMemory(Options{Keep: keep})
		if m.keep != want {
			t.Errorf("Keep of %v is %v, want %v", keep, m.keep, want)
		}
	}
}

// TestMax: there is an end to what is held, and those who have asked before are not turned away.
func TestMax(t *testing.T) {
	d := newDisk()
	m := openTest(t, d, Options{Max: 10})
	defer mustClose(t, m)
	wantReady(t, m, 10, "")
	wantReady(t, m, 11, "0 are held of 10")
	mustRemember(t, m, many(6, "first")...)
	wantReady(t, m, 4, "")
	wantReady(t, m, 5, "6 are held of 10")
	mustRemember(t, m, many(8, "second")...)
	wantReady(t, m, 0, "no room")
	wantReady(t, m, 1, "no room")
	if n := d.outcomes(t); n != 14 {
		t.Errorf("%d are on the disk, want 14", n)
	}
	if err := m.Remember(many(overfull*10+spare, "third")); !errors.Is(err, ErrFull) {
		t.Errorf("there is no end to it: %v", err)
	}
	if n := m.Stats().Outcomes; n != 14 {
		t.Errorf("%d are held, want 14", n)
	}
	var heard []Key
	for _, o := range many(6, "first") {
		heard = append(heard, o.Key)
	}
	m.Heard(heard)
	wantReady(t, m, 2, "")
}

// TestLongReply: of a reply with no end, the beginning is kept, and it comes back as it was kept.
func TestLongReply(t *testing.T) {
	d := newDisk()
	m := openTest(t, d, Options{})
	long := Outcome{key("a@b", "long"), smtpwire.Reply{Code: 550}}
	for i := range 2 * MaxLines {
		long.Reply.Lines = append(long.Reply.Lines, fmt.Sprint("line ", i))
	}
	wide := Outcome{key("a@b", "wide"), smtpwire.Reply{Code: 550, Lines: []string{strings.Repeat("ü", MaxText), "more"}}}
	edge := Outcome{key("a@b", "edge"), smtpwire.Reply{
		Code: 250, Lines: []string{strings.Repeat("x", MaxText-2), "y", "z"},
	}}
	odd := Outcome{key("a@b", "odd"), smtpwire.Reply{Code: 250, Lines: []string{"a\r\n250 b\x00", "", "\ttab"}}}
	none := Outcome{key("a@b", "none"), smtpwire.Reply{Code: 250}}
	mustRemember(t, m, long, wide, edge, odd, none)
	mustClose(t, m)
	m = openTest(t, d, Options{})
	defer mustClose(t, m)
	long.Reply.Lines = long.Reply.Lines[:MaxLines]
	wide.Reply.Lines = []string{strings.Repeat("ü", MaxText/2)}
	edge.Reply.Lines = edge.Reply.Lines[:2]
	odd.Reply.Lines = []string{"a??250 b?", "", "\ttab"}
	none.Reply.Lines = []string{""}
	wantRecalled(t, m, long, wide, edge, odd, none)
	if s := m.Stats(); s.Broken != 0 || s.Outcomes != 5 {
		t.Errorf("%+v", s)
	}
}

// TestManyAtOnce: who remembers at the same time shares writes, and each hears of its own.
func TestManyAtOnce(t *testing.T) {
	defer goleak.VerifyNone(t)
	d := newDisk()
	m := openTest(t, d, Options{})
	const clients, rounds = 16, 40
	var running sync.WaitGroup
	for c := range clients {
		running.Go(func() {
			for r := range rounds {
				text := fmt.Sprintf("%d/%d", c, r)
				all := append(many(5, text), refused("bad@rcpt.example", text))
				if err := m.Remember(all); err != nil {
					t.Errorf("Remember: %v", err)
				}
				wantRecalled(t, m, all...)
				if !m.Refused(mta, sender, "bad@rcpt.example") {
					t.Error("a refusal is not known")
				}
				m.Turn(mta, sender, []string{"bad@rcpt.example", "to0@rcpt.example"})
				if r%2 == 0 {
					m.Heard([]Key{all[0].Key, all[5].Key})
				}
				_ = m.Ready(6)
			}
		})
	}
	running.Wait()
	mustClose(t, m)
	const left = clients * rounds * (4 + 6) / 2
	if n := d.outcomes(t); n != left {
		t.Errorf("%d are on the disk, want %d", n, left)
	}
	m = openTest(t, d, Options{})
	defer mustClose(t, m)
	if n := m.Stats().Outcomes; n != left {
		t.Errorf("%d are held, want %d", n, left)
	}
}

// TestOneByOne: a KV that makes one change at a time will do.
func TestOneByOne(t *testing.T) {
	kv := struct{ tlsstore.KV }{tlsstore.Memory()}
	m := openTest(t, kv, Options{})
	all := many(600, "text")
	mustRemember(t, m, all...)
	m.Heard([]Key{all[0].Key})
	wantRecalled(t, m, all[1:]...)
	wantReady(t, m, 1, "")
	mustClose(t, m)
}

// TestEmptyContent: a message of nothing is a message.
func TestEmptyContent(t *testing.T) {
	m := openTest(t, newDisk(), Options{})
	defer mustClose(t, m)
	o := delivered("a@b", "")
	o.Key.Client, o.Key.Sender = local, ""
	mustRemember(t, m, o)
	k := Key{Client: netip.MustParseAddr("::1"), Recipient: "a@B", Content: sha256.Sum256(nil)}
	if _, ok := m.Recall(k); !ok {
		t.Error("forgotten")
	}
}

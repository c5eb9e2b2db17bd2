package tlsstore

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// leave has clients learned: a network of each kind and a domain.
func leave(s *Shy) {
	for range ShyStrikes {
		s.Left(netip.MustParseAddr("192.0.2.1"), "")
		for range 3 {
			s.Stayed(netip.MustParseAddr("192.0.2.1"), "")
		}
		s.Left(netip.MustParseAddr("2001:db8:1::1"), "m1.out.example.org")
	}
	s.Left(netip.MustParseAddr("198.51.100.1"), "m.example.net") // once is no reason
}

func shown(t *testing.T, s *Shy, kv KV, peer string) string {
	t.Helper()
	var all []string
	err := s.List(kv, peer, func(e Entry) bool {
		if e.Kind != kindClient {
			t.Errorf("%s is a %s", e.Peer(), e.Kind)
		}
		all = append(all, e.Peer())
		return true
	})
	if err != nil {
		t.Error(err)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

const everyClient = "192.0.2.0/24 2001:db8:1::/48 out.example.org"

func TestShyList(t *testing.T) {
	clock := newTicketClock()
	kv := MemoryAt(clock.now)
	defer kv.Close()
	s := NewShy(ShyOptions{Now: clock.now, Patterns: []string{"*.example.com"}})
	leave(s)
	check := func(state string, s *Shy) {
		t.Helper()
		for peer, want := range map[string]string{
			"":                         everyClient,
			"192.0.2.200":              "192.0.2.0/24",
			"::ffff:192.0.2.200":       "192.0.2.0/24",
			"192.0.2.0/24":             "192.0.2.0/24",
			"192.0.2.128/25":           "192.0.2.0/24",
			"::ffff:192.0.2.128/121":   "192.0.2.0/24",
			"::ffff:192.0.2.128/90":    "",
			"192.0.0.0/16":             "192.0.2.0/24",
			"0.0.0.0/0":                "192.0.2.0/24",
			"2001:DB8:1::":             "2001:db8:1::/48",
			"2001:db8::/32":            "2001:db8:1::/48",
			"out.example.org":          "out.example.org",
			"M7.Out.Example.org.":      "out.example.org",
			"a.b.out.example.org":      "",
			"example.org":              "",
			"192.0.2.200:25":           "", // a hop
			"198.51.100.1":             "",
			"a.example.com":            "",
			"ehlo out.example.org":     "",
			"net 192.0.2.0/24":         "",
			"\x00nonsense\r\n.\xff[]/": "",
		} {
			if got := shown(t, s, kv, peer); got != want {
				t.Errorf("%s, %q: %s, want %s", state, peer, got, want)
			}
		}
	}
	check("learned", s)
	if err := s.Save(kv); err != nil {
		t.Fatal(err)
	}
	check("saved", s)
	again := NewShy(ShyOptions{Now: clock.now})
	check("not loaded", again)
	if err := again.Load(kv); err != nil {
		t.Fatal(err)
	}
	check("loaded", again)
	n := 0
	if err := s.List(kv, "", func(Entry) bool { n++; return false }); err != nil || n != 1 {
		t.Errorf("%d were shown after the last, %v", n-1, err)
	}
	clock.pass(ShyFor)
	for _, s := range []*Shy{s, again, NewShy(ShyOptions{Now: clock.now})} {
		if got := shown(t, s, kv, ""); got != "" {
			t.Errorf("after their time: %s", got)
		}
	}
}

// said is the rest of what TestShyEntry prints.
func said(where string, stayed int) string {
	return fmt.Sprintf("true true false [{quirk no-tickets} {%s} "+
		"{why 2 connections ended right behind a ticket, %d went on}] 33", where, stayed)
}

func TestShyEntry(t *testing.T) {
	clock := newTicketClock()
	kv := MemoryAt(clock.now)
	defer kv.Close()
	s := NewShy(ShyOptions{Now: clock.now})
	begun := clock.now()
	leave(s)
	if err := s.Save(kv); err != nil {
		t.Fatal(err)
	}
	clock.pass(time.Hour)
	for _, s := range []*Shy{s, NewShy(ShyOptions{Now: clock.now})} {
		var text []string
		err := s.List(kv, "", func(e Entry) bool {
			text = append(text, fmt.Sprint(e.Peer(), " ", e.Host, " ", e.Written.Equal(begun), " ",
				e.Expires.Equal(begun.Add(ShyFor)), " ", e.Addr.IsValid(), e.Fields, e.Octets))
			return true
		})
		slices.Sort(text)
		want := []string{
			"192.0.2.0/24  " + said("network 192.0.2.0/24", 3),
			"2001:db8:1::/48  " + said("network 2001:db8:1::/48", 0),
			"out.example.org out.example.org " + said("domain out.example.org", 0),
		}
		if err != nil || !slices.Equal(text, want) {
			t.Errorf("%v\n%s\nwant\n%s", err, strings.Join(text, "\n"), strings.Join(want, "\n"))
		}
	}
}

func TestShyDrop(t *testing.T) {
	for _, test := range []struct {
		peer string
		n    int
		left string
	}{
		{"", 3, ""},
		{"192.0.2.77", 1, "2001:db8:1::/48 out.example.org"},
		{"m9.out.example.org", 1, "192.0.2.0/24 2001:db8:1::/48"},
		{"192.0.2.77:25", 0, everyClient},
		{"example.org", 0, everyClient},
	} {
		for _, state := range []string{"learned", "saved", "another process"} {
			clock := newTicketClock()
			kv := MemoryAt(clock.now)
			s := NewShy(ShyOptions{Now: clock.now})
			leave(s)
			if state != "learned" {
				if err := s.Save(kv); err != nil {
					t.Fatal(err)
				}
			}
			if state == "another process" {
				s = NewShy(ShyOptions{Now: clock.now})
			}
			if n, err := s.Drop(kv, test.peer); n != test.n || err != nil {
				t.Errorf("%s, %q: %d, %v; want %d", state, test.peer, n, err, test.n)
			}
			if n, err := s.Drop(kv, test.peer); n != 0 || err != nil {
				t.Errorf("%s, %q again: %d, %v", state, test.peer, n, err)
			}
			if err := s.Save(kv); err != nil {
				t.Error(err)
			}
			after := NewShy(ShyOptions{Now: clock.now})
			if err := after.Load(kv); err != nil || shown(t, after, kv, "") != test.left {
				t.Errorf("%s, %q: after a restart there are %s, %v; want %s",
					state, test.peer, shown(t, after, kv, ""), err, test.left)
			}
			if want := strings.Contains(test.left, "192.0.2.0"); after.Withhold(netip.MustParseAddr("192.0.2.9"), "") != want {
				t.Errorf("%s, %q: withheld %v, want %v", state, test.peer, !want, want)
			}
			kv.Close()
		}
	}
}

// Who was forgotten begins anew: what it did before does not count.
func TestShyDropForgetsTheWatch(t *testing.T) {
	kv := Memory()
	defer kv.Close()
	s := NewShy(ShyOptions{})
	addr := netip.MustParseAddr("198.51.100.1")
	s.Left(addr, "mta.example.net")
	if n, err := s.Drop(kv, "198.51.100.0/24"); n != 0 || err != nil || s.names.len() != 0 {
		t.Errorf("%d, %v; want nothing that was withheld", n, err)
	}
	if s.Left(addr, "") || s.watched.len() != 2 { // its network, and the domain that was not dropped
		t.Error("it was not forgotten")
	}
}

// noDeleteKV deletes nothing.
type noDeleteKV struct{ KV }

func (noDeleteKV) Delete([]byte) error { return errors.ErrUnsupported }

// What cannot be deleted from the disk stays known, so that nobody takes it for forgotten.
func TestShyDropOnABadDisk(t *testing.T) {
	kv := Memory()
	defer kv.Close()
	s := NewShy(ShyOptions{})
	leave(s)
	if err := s.Save(kv); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Drop(noDeleteKV{kv}, ""); n != 0 || !errors.Is(err, errors.ErrUnsupported) || s.Len() != 3 {
		t.Errorf("%d, %v, %d are left; want all three and an error", n, err, s.Len())
	}
	bad := &countingKV{KV: kv, err: errors.New("the disk is gone")}
	if n, err := s.Drop(bad, ""); n != 0 || !errors.Is(err, bad.err) || s.Len() != 3 {
		t.Errorf("%d, %v, %d are left; want all three and an error", n, err, s.Len())
	}
	n := 0
	if err := s.List(bad, "", func(Entry) bool { n++; return true }); n != 3 || !errors.Is(err, bad.err) {
		t.Errorf("%d are listed, %v; want what is in memory, and an error", n, err)
	}
}

// A slowSetKV waits in Set until it is let go.
type slowSetKV struct {
	KV
	inSet, letGo chan struct{}
}

func (kv *slowSetKV) Set(key, value []byte, ttl time.Duration) error {
	kv.inSet <- struct{}{}
	<-kv.letGo
	return kv.KV.Set(key, value, ttl)
}

// Who is dropped while all are being saved is not saved behind that.
func TestShyDropWhileSaving(t *testing.T) {
	kv := &slowSetKV{Memory(), make(chan struct{}), make(chan struct{})}
	defer kv.Close()
	s := NewShy(ShyOptions{})
	for range ShyStrikes {
		s.Left(netip.MustParseAddr("192.0.2.1"), "")
	}
	saved, dropped := make(chan error), make(chan error)
	go func() { saved <- s.Save(kv) }()
	<-kv.inSet
	go func() {
		n, err := s.Drop(kv, "192.0.2.1")
		if n != 1 {
			err = errors.Join(err, fmt.Errorf("%d were dropped", n))
		}
		dropped <- err
	}()
	for range 1000 {
		runtime.Gosched() // so that a Drop that does not wait is through by now
	}
	close(kv.letGo)
	if err := errors.Join(<-saved, <-dropped); err != nil {
		t.Error(err)
	}
	if got := shown(t, NewShy(ShyOptions{}), kv, ""); got != "" {
		t.Errorf("after a restart there is %s", got)
	}
}

package tlsstore

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// fill learns something of each kind about one peer, and EHLO sets about two others, one of them named by routing. All
// call themselves mx.example.net.
func fill(s *Store) {
	now := s.now()
	s.Learn(testPeer, testEHLO)
	s.SetQuirk(testAddr, QuirkNoEarly, time.Hour)
	key := sessionScope.key()
	s.set(key, encodeSessions(key, sessionScope, used(madeUp(now, "the ticket", "the other ticket"), 1), now))
	s.Learn(numbered(1), testEHLO)
	s.Learn(PeerKey{Host: "MX.example.org.", Addr: netip.MustParseAddrPort("192.0.2.8:25")}, testEHLO)
}

func kinds(t *testing.T, s *Store, peer string) string {
	t.Helper()
	all, err := s.Show(peer)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range all {
		got = append(got, e.Kind)
	}
	return strings.Join(got, " ")
}

func TestShow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newTestKV()
		s := New(kv, Options{})
		fill(s)
		synctest.Wait()
		check := func(state string) {
			t.Helper()
			for peer, want := range map[string]string{
				"":                                "ehlo ehlo ehlo quirk session",
				"192.0.2.7":                       "ehlo quirk session",
				"192.0.2.7:25":                    "ehlo quirk session",
				"::ffff:192.0.2.7":                "ehlo quirk session",
				"MX.example.net.":                 "session", // what peers call themselves is nobody's name
				"mx.example.net[192.0.2.7]:25":    "session",
				"Mx.example.org.":                 "ehlo",
				"mx.example.org[192.0.2.8]:25":    "ehlo",
				"10.0.0.1":                        "ehlo",
				"192.0.2.7:26":                    "",
				"example.net":                     "",
				"nonsense\r\nwith a line of \xff": "",
			} {
				if got := kinds(t, s, peer); got != want {
					t.Errorf("%s, %q: %s, want %s", state, peer, got, want)
				}
			}
		}
		check("in the front")
		mustClose(t, s)
		s = New(kv, Options{})
		check("in the KV")
		s.SetQuirk(testAddr, QuirkNoEarly, 2*time.Hour)
		check("in both")
		time.Sleep(3 * time.Hour)
		if got := kinds(t, s, ""); got != "ehlo ehlo ehlo" {
			t.Errorf("later %s are there", got)
		}
		mustClose(t, s)
	})
}

// What people are shown says what it is about, and no secret.
func TestEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(newTestKV(), Options{})
		fill(s)
		all, err := s.Show("192.0.2.7")
		if err != nil {
			t.Fatal(err)
		}
		text := ""
		for _, e := range all {
			text += fmt.Sprintf("%s %s %v:", e.Kind, e.Peer(), e.Expires.Sub(e.Written))
			for _, f := range e.Fields {
				text += fmt.Sprintf(" %s=%q", f.Name, f.Value)
			}
			text += "\n"
			if e.Octets <= headerSize+sumSize {
				t.Errorf("%s has %d octets", e.Kind, e.Octets)
			}
		}
		want := `ehlo 192.0.2.7:25 168h0m0s: phase="clear" calls-itself="mx.example.net" hello="relay.example.org" ` +
			`offers="PIPELINING, SIZE 1000"
quirk 192.0.2.7:25 1h0m0s: quirk="no-early"
session mx.example.net[192.0.2.7]:25 1h0m0s: level="verify" server-name="mx.example.net" ` +
			`sessions="2" go="` + goVersion() + `" ` +
			`session="TLS 1.2, from 2000-01-01T00:00:00Z, until 2000-01-01T01:00:00Z" ` +
			`session="TLS 1.2, used, from 2000-01-01T00:00:00Z, until 2000-01-01T01:00:00Z"
`
		for _, line := range strings.SplitAfter(want, "\n") {
			if !strings.Contains(text, line) {
				t.Errorf("%q is not in\n%s", line, text)
			}
		}
		mustClose(t, s)
	})
}

func TestListStops(t *testing.T) {
	for _, inFront := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			kv := newTestKV()
			s := New(kv, Options{})
			for i := range MaxShown + 10 {
				s.Learn(numbered(i), testEHLO)
			}
			if !inFront {
				mustClose(t, s)
				s = New(kv, Options{})
			}
			n := 0
			if err := s.List("", func(Entry) bool { n++; return n < 3 }); err != nil || n != 3 {
				t.Errorf("List showed %d, %v; want 3", n, err)
			}
			if all, err := s.Show(""); err != nil || len(all) != MaxShown {
				t.Errorf("Show showed %d, %v; want %d", len(all), err, MaxShown)
			}
			mustClose(t, s)
		})
	}
}

func TestDrop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newTestKV()
		s := New(kv, Options{Pending: 10})
		for i := range 100 {
			s.Learn(numbered(i), testEHLO)
			synctest.Wait()
		}
		fill(s)
		synctest.Wait()
		tests := []struct {
			peer string
			want int
		}{{"192.0.2.7", 3}, {"192.0.2.7", 0}, {"10.0.0.1:25", 1}, {"mx.example.net", 0},
			{"mx.example.org", 1}, {"", 99}, {"", 0}}
		for _, test := range tests {
			if n, err := s.Drop(test.peer); n != test.want || err != nil {
				t.Errorf("Drop(%q): %d, %v; want %d", test.peer, n, err, test.want)
			}
			synctest.Wait()
		}
		wantKnown(t, s, testPeer, false)
		mustClose(t, s)
		if err := kv.Iterate(nil, func(key, _ []byte) bool { t.Errorf("%q is left", key); return true }); err != nil {
			t.Error(err)
		}
	})
}

// A KV that is out of order can still be asked, and says so.
func TestListWithoutADisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newTestKV()
		s := New(kv, Options{})
		fill(s)
		synctest.Wait()
		kv.failWith(func() error { panic("input/output error") })
		if n, err := s.Drop("192.0.2.7"); n != 3 || err == nil || !strings.Contains(err.Error(),
			"3 records were forgotten, but 3 of them are still on the disk") {
			t.Errorf("Drop: %d, %v; want 3 and an error", n, err)
		}
		if got := kinds(t, s, "192.0.2.7"); got != "" {
			t.Errorf("%s are not forgotten", got)
		}
		kv.failWith(func() error { return nil })
		kv.KV.Close()
		if _, err := s.Show(""); err == nil {
			t.Error("Show: no error")
		}
		mustClose(t, s)
	})
}

func TestPeer(t *testing.T) {
	six := Entry{Host: "mx", Addr: netip.MustParseAddrPort("[2001:db8::1]:25")}
	if got := six.Peer(); got != "mx[2001:db8::1]:25" {
		t.Error(got)
	}
	six.Host = ""
	if got := six.Peer(); got != "[2001:db8::1]:25" {
		t.Error(got)
	}
}

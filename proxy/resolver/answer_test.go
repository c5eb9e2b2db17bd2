package resolver

import (
	"fmt"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// chain is n aliases, c0 to c<n>, and an address at the end.
func chain(n int) zone {
	z := zone{fmt.Sprintf("c%d.example. 60 IN A 192.0.2.1", n)}
	for i := range n {
		z = append(z, fmt.Sprintf("c%d.example. 60 IN CNAME C%d.example.", i, i+1))
	}
	return z
}

// cutAfter is a server that follows at most n aliases by itself and says nothing of what is behind.
func cutAfter(n int, z zone) dns.HandlerFunc {
	return func(w dns.ResponseWriter, q *dns.Msg) {
		m := z.answer(q)
		links := 0
		for i, rr := range m.Answer {
			if _, ok := rr.(*dns.CNAME); !ok {
				continue
			}
			if links++; links == n && i+1 < len(m.Answer) {
				m.Answer, m.Ns, m.Rcode = m.Answer[:i+1], nil, dns.RcodeSuccess
				break
			}
		}
		w.WriteMsg(m)
	}
}

func TestAliases(t *testing.T) {
	broken := zone{"c0.example. 60 IN CNAME c1.example.", "c1.example. 60 IN CNAME gone.example.", "d0.example. 60 IN CNAME d1.example.", "d1.example. 60 IN TXT x"}
	loop := zone{"c0.example. 60 IN CNAME c1.example.", "c1.example. 60 IN CNAME c2.example.", "c2.example. 60 IN CNAME c0.example."}
	self := zone{"c0.example. 60 IN CNAME c0.example."}
	tests := []struct {
		name   string
		server dns.HandlerFunc
		ask    string
		want   string // verdict
		where  string // canonical name
	}{
		{"one", chain(1).ServeDNS, "c0.example", "ok", "c1.example"},
		{"the most", chain(maxAliases).ServeDNS, "c0.example", "ok", "c8.example"},
		{"too many", chain(maxAliases + 1).ServeDNS, "c0.example", "temporary", ""},
		{"cut after each", cutAfter(1, chain(3)), "c0.example", "ok", "c3.example"},
		{"cut in the middle", cutAfter(2, chain(5)), "c0.example", "ok", "c5.example"},
		{"cut, the most", cutAfter(3, chain(maxAliases)), "c0.example", "ok", "c8.example"},
		{"cut, too many", cutAfter(3, chain(maxAliases+1)), "c0.example", "temporary", ""},
		{"to nowhere", broken.ServeDNS, "c0.example", "nxdomain", "gone.example"},
		{"to no data", broken.ServeDNS, "d0.example", "nodata", "d1.example"},
		{"to nowhere, cut", cutAfter(1, broken), "c0.example", "nxdomain", "gone.example"},
		{"loop", loop.ServeDNS, "c0.example", "temporary", ""},
		{"loop, cut", cutAfter(1, loop), "c0.example", "temporary", ""},
		{"to itself", self.ServeDNS, "c0.example", "temporary", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newResolver(t, serve(t, tt.server))
			for range 2 { // the second time from the cache
				res, err := r.LookupA(t.Context(), tt.ask)
				if verdict(err) != tt.want || res.Name != tt.where {
					t.Errorf("%v at %q, want %s at %q", err, res.Name, tt.want, tt.where)
				}
				if tt.want == "temporary" && !strings.Contains(err.Error(), "aliases") {
					t.Errorf("got %v", err)
				}
			}
		})
	}
}

// The end of a cut chain may be known already.
func TestAliasIntoCache(t *testing.T) {
	asked := make(chan string, 10)
	server := cutAfter(1, chain(1))
	r := newResolver(t, serve(t, func(w dns.ResponseWriter, q *dns.Msg) {
		asked <- q.Question[0].Name
		server(w, q)
	}))
	first, err1 := r.LookupA(t.Context(), "c1.example")
	second, err2 := r.LookupA(t.Context(), "c0.example")
	if err1 != nil || err2 != nil || second.Name != "c1.example" || second.Records[0] != first.Records[0] || second.Expires.After(first.Expires) {
		t.Errorf("%+v %v, %+v %v", first, err1, second, err2)
	}
	if len(asked) != 2 {
		t.Errorf("%d questions, want 2", len(asked))
	}
}

// Records that answer no question of ours are not taken, wherever they stand.
func TestUnaskedRecords(t *testing.T) {
	r := newResolver(t, serve(t, func(w dns.ResponseWriter, q *dns.Msg) {
		m := zone{"x.example. 60 IN A 192.0.2.1"}.answer(q)
		if q.Question[0].Name != "x.example." {
			w.WriteMsg(m)
			return
		}
		m.Answer = append(m.Answer, record("victim.example. 60 IN A 203.0.113.1"), record("x.example. 60 CH A 203.0.113.2"), record("x.example. 60 IN AAAA 2001:db8::bad"))
		m.Ns = append(m.Ns, record("x.example. 60 IN A 203.0.113.3"))
		m.Extra = append(m.Extra, record("x.example. 60 IN A 203.0.113.4"), record("victim.example. 60 IN A 203.0.113.5"))
		w.WriteMsg(m)
	}))
	res, err := r.LookupA(t.Context(), "x.example")
	if err != nil || len(res.Records) != 1 || res.Records[0].String() != "192.0.2.1" {
		t.Errorf("%v %v", res.Records, err)
	}
	if _, err := r.LookupA(t.Context(), "victim.example"); verdict(err) != "nxdomain" {
		t.Errorf("victim: %v", err)
	}
}

// FuzzAnswer: whatever a server sends, what is taken of it is bounded and belongs to the question.
func FuzzAnswer(f *testing.F) {
	for _, z := range []zone{chain(3), {"c0.example. 60 IN A 192.0.2.1"}, {}} {
		q := new(dns.Msg)
		q.SetQuestion("c0.example.", dns.TypeA)
		m := z.answer(q)
		m.Id = 7
		packet, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packet)
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		q := question{"c0.example.", dns.TypeA}
		m := match(packet, q, 7)
		if m == nil || judge(m) != nil {
			return
		}
		rd, err := read(m, q, 0)
		if err != nil {
			return
		}
		if len(rd.rrs) > maxRecords || rd.links > maxAliases || (rd.status == found) != (len(rd.rrs) > 0 || rd.cut) {
			t.Fatalf("%+v", rd)
		}
		for _, rr := range rd.rrs {
			if rr.Header().Rrtype != dns.TypeA || dns.CanonicalName(rr.Header().Name) != rd.name {
				t.Fatalf("%v is not of %s", rr, rd.name)
			}
		}
	})
}

// FuzzName: a name that is accepted is canonical and stays what it is on the wire.
func FuzzName(f *testing.F) {
	for _, s := range []string{"a.example", "A.B.", `x\.y`, "bücher.example", "_dmarc.a", "a b", "\x00", "..", strings.Repeat("a", 64)} {
		f.Add(s)
	}
	r := &Resolver{profile: newProfile()}
	f.Fuzz(func(t *testing.T, s string) {
		q, ok := r.newQuestion(s, dns.TypeA)
		if !ok {
			return
		}
		if dns.CanonicalName(q.name) != q.name || q.name == "." {
			t.Fatalf("%q: %q is not canonical", s, q.name)
		}
		m := newQuery(q, true)
		packet, err := m.Pack()
		if err != nil {
			t.Fatalf("%q: %v", q.name, err)
		}
		var got dns.Msg
		if err := got.Unpack(packet); err != nil || got.Question[0].Name != q.name {
			t.Fatalf("%q: %v on the wire (%v)", s, got.Question, err)
		}
	})
}

package auth

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// TestQueries: what is asked is what the RFC's example of a deep name says, each name once, whoever wants to know.
func TestQueries(t *testing.T) {
	c := dmarcCase{records: "example.com: p=reject", from: "a.b.c.d.e.f.g.h.i.j.mail.example.com",
		spf: "mail.example.com", dkim: "example.com evil.test x.evil.test mail.example.com"}
	dns := c.zone()
	d := &DMARC{Resolver: dns}
	v := d.Begin(t.Context(), c.author()).Evaluate(t.Context(), c.identifiers())
	if v.Status != StatusAccept || v.OrgDomain != "example.com" {
		t.Errorf("%s, %s", v.Status, v.OrgDomain)
	}
	want := []string{
		"TXT _dmarc.a.b.c.d.e.f.g.h.i.j.mail.example.com", "TXT _dmarc.com", "TXT _dmarc.example.com",
		"TXT _dmarc.g.h.i.j.mail.example.com", "TXT _dmarc.h.i.j.mail.example.com", "TXT _dmarc.i.j.mail.example.com",
		"TXT _dmarc.j.mail.example.com", "TXT _dmarc.mail.example.com",
	}
	if diff := cmp.Diff(want, slices.Sorted(slices.Values(dns.asked))); diff != "" {
		t.Error(diff)
	}
}

// TestExistence: one question where the resolver can tell, and none where nothing depends on it.
func TestExistence(t *testing.T) {
	for _, test := range []struct{ records, asked, status string }{
		{"example.com: p=none; np=reject", "ANY a.example.com", "reject"},
		{"example.com: p=none; np=reject\na.example.com: exists", "ANY a.example.com", "none"},
		{"example.com: p=reject; np=reject", "", "reject"},
		{"a.example.com: p=none; np=reject", "", "none"},
	} {
		dns := dmarcCase{records: test.records}.zone()
		d := &DMARC{Resolver: dmarcExistsDNS{dns}}
		v := d.Begin(t.Context(), Author{Domains: []string{"a.example.com"}}).Evaluate(t.Context(), Identifiers{})
		others := slices.DeleteFunc(slices.Clone(dns.asked), func(q string) bool {
			return strings.HasPrefix(q,
				"TXT _dmarc")
		})
		if string(v.Status) != test.status || strings.Join(others, ", ") != test.asked {
			t.Errorf("%s: %s, asked %q", test.records, v.Status, others)
		}
	}
}

// TestQueriesBounded: whatever a message claims, the DNS is asked no more than the bounds say.
func TestQueriesBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.Custom(func(t *rapid.T) string {
			n := rapid.IntRange(1, 12).Draw(t, "labels")
			labels := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c"}), n, n).Draw(t, "name")
			return strings.Join(append(labels, "x"), ".")
		})
		dns := &dmarcDNS{policies: make(map[string]string)}
		for _, at := range rapid.SliceOfN(name, 0, 20).Draw(t, "records") {
			for _, domain := range walkNames(at) {
				dns.policies[domain] = rapid.SampledFrom([]string{"", "", "v=DMARC1; p=reject",
					"v=DMARC1; p=none; psd=y",
					"v=DMARC1; p=none; np=reject; psd=n", "v=DMARC1"}).Draw(t, "record")
			}
		}
		author := Author{Domains: rapid.SliceOfNDistinct(name, 0, 6, rapid.ID).Draw(t, "authors")}
		ids := Identifiers{
			SPF: name.Draw(t, "spf"), DKIM: rapid.SliceOfN(name, 0, 60).Draw(t, "dkim"),
		}
		d := &DMARC{Resolver: dns}
		v := d.Begin(context.Background(), author, append(ids.DKIM, ids.SPF)...).Evaluate(context.Background(), ids)
		if v.Result == ResultTemperror {
			t.Fatalf("temperror without one: %+v", v)
		}
		counts := make(map[string]int)
		policies := 0
		for _, q := range dns.asked {
			counts[q]++
			if strings.HasPrefix(q, "TXT _dmarc.") {
				policies++
			}
		}
		if m := slices.Max(append(slices.Collect(maps.Values(counts)), 0)); m > 1 {
			t.Fatalf("the same %d times: %q", m, dns.asked)
		}
		most := maxAuthorQueries + maxHintQueries + maxAlignQueries
		if policies > most || len(dns.asked) > most+3*maxAuthorDomains {
			t.Fatalf("%d questions, %d of them for records", len(dns.asked), policies)
		}
		// With one author and nobody else it is one walk.
		dns.asked = nil
		if len(author.Domains) > 0 {
			e := d.Begin(context.Background(), Author{Domains: author.Domains[:1]})
			if e.Evaluate(context.Background(), Identifiers{}); len(dns.asked) > maxWalkQueries+3 {
				t.Fatalf("%d questions: %q", len(dns.asked), dns.asked)
			}
		}
	})
}

// TestNoWait: what was asked when the header was there need not be waited for at the end of the message.
func TestNoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := dmarcCase{records: "example.com: p=none; np=reject\nb.example.com: p=none", from: "a.example.com",
			spf: "bounce.b.example.com", dkim: "b.example.com other.test"}
		dns := c.zone()
		dns.delay = 50 * time.Millisecond
		d := &DMARC{Resolver: dmarcExistsDNS{dns}}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		began := time.Now()
		e := d.Begin(ctx, c.author(), append(strings.Fields(c.dkim), c.spf)...)
		if took := time.Since(began); took != 0 {
			t.Errorf("Begin took %s", took)
		}
		time.Sleep(100 * time.Millisecond) // the client is sending the body
		end := time.Now()
		v := e.Evaluate(ctx, c.identifiers())
		if took := time.Since(end); took != 0 || summary(v) != "accept pass a.example.com example.com reject both" {
			t.Errorf("%s after %s", summary(v), took)
		}

		// Without a hint, and at once, it is two or three answers one after the other: record, existence, alignment.
		end = time.Now()
		d.Begin(ctx, c.author()).Evaluate(ctx, c.identifiers())
		if took := time.Since(end); took > 200*time.Millisecond {
			t.Errorf("took %s", took)
		}
	})
}

// TestDeadline: a dead resolver holds a message as long as the deadline says, and nothing is left running.
func TestDeadline(t *testing.T) {
	for name, begin := range map[string]bool{"context of Begin": true, "context of Evaluate": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &DMARC{Resolver: &dmarcDNS{dead: true}}
				short, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				first, second := t.Context(), short
				if begin {
					first, second = short, t.Context()
				}
				began := time.Now()
				e := d.Begin(first, Author{Domains: []string{"a.example.com", "b.test"}}, "x.example.com")
				v := e.Evaluate(second, Identifiers{SPF: "example.com"})
				if took := time.Since(began); took != 5*time.Second {
					t.Errorf("took %s", took)
				}
				if got := summary(v); got != "temperror temperror a.example.com - - -" ||
					v.Reason != "no answer in time" {
					t.Errorf("%s, %q", got, v.Reason)
				}
				// synctest fails where a goroutine is left.
			})
		})
	}
}

// TestLateHalf: the record came in time, what alignment needs did not.
func TestLateHalf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dns := dmarcCase{records: "example.com: p=reject"}.zone()
		dns.delay = 3 * time.Second
		d := &DMARC{Resolver: dns}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		v := d.Begin(ctx, Author{Domains: []string{"example.com"}}).Evaluate(ctx, Identifiers{SPF: "a.example.com"})
		if got := summary(v); got != "temperror temperror example.com example.com reject -" {
			t.Error(got)
		}
		v = d.Begin(t.Context(), Author{Domains: []string{"example.com"}}).Evaluate(ctx,
			Identifiers{SPF: "example.com"})
		if got := summary(v); got != "temperror temperror example.com - - -" {
			t.Error(got)
		}
	})
}

func TestCloseWithoutEvaluate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &DMARC{Resolver: &dmarcDNS{dead: true}}
		e := d.Begin(t.Context(), Author{Domains: []string{"example.com"}}, "a.example.com")
		e.Close()
		e.Close()
	})
}

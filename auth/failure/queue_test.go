package failure

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipstream/auth"
)

// One look-up budget is for an incident, however many of its addresses the DNS is silent about.
func TestLookupBudget(t *testing.T) {
	const addresses = 16
	dns := texts{"sender.example": "..."}
	var silent, want []string
	for i := range addresses - 1 {
		name := fmt.Sprintf("s%d.example", i)
		dns["evil.example._report._dmarc."+name] = "..."
		silent = append(silent, "mailto:r@"+name)
		want = append(want, "unverified r@"+name)
	}
	synctest.Test(t, func(t *testing.T) {
		var box postbox
		var d diary
		r := start(t, Config{Mailer: &box, Destinations: auth.Destinations{Resolver: dns}, Observe: d.note})
		evil := failed(t, "v=DMARC1; p=none; ruf="+strings.Join(silent, ",")+",mailto:own@evil.example")
		evil.DMARC.Domain, evil.DMARC.PolicyDomain = "evil.example", "evil.example"
		r.Add(evil, plainMessage())
		honest := failed(t, "v=DMARC1; p=none; ruf=mailto:r@example.org")
		honest.SPF.Domain = "other.example"
		r.Add(honest, plainMessage())
		time.Sleep(lookupTime)
		synctest.Wait()
		want = append(want, "sent own@evil.example", "sent r@example.org")
		if diff := cmp.Diff(want, d.outcomes()); diff != "" {
			t.Errorf("outcomes after %v (-want +got):\n%s", lookupTime, diff)
		}
	})
}

// Nobody keeps others' reports out of the queue, nor waiting for long: whatever author domains are made up below a
// name, they have one share, and one turn.
func TestQueueShare(t *testing.T) {
	const size = 256
	dns := make(texts)
	for i := range 2 * size {
		dns[fmt.Sprintf("d%d.evil.example._report._dmarc.silent.example", i)] = "..."
	}
	synctest.Test(t, func(t *testing.T) {
		var box postbox
		r := start(t, Config{Mailer: &box, Destinations: auth.Destinations{Resolver: dns}, Limits: Limits{Queue: size}})
		taken := 0
		for i := range 2 * size {
			evil := failed(t, "v=DMARC1; p=none; ruf=mailto:r@silent.example")
			evil.DMARC.Domain = fmt.Sprintf("d%d.evil.example", i)
			evil.DMARC.PolicyDomain = evil.DMARC.Domain
			if r.Add(evil, plainMessage()) {
				taken++
			}
			synctest.Wait() // the first is being looked up
		}
		if taken != 1+size/queueShare {
			t.Errorf("%d of one name are taken, want %d", taken, 1+size/queueShare)
		}
		if !r.Add(failed(t, "v=DMARC1; p=none; ruf=mailto:r@example.org"), plainMessage()) {
			t.Error("another's is not")
		}
		time.Sleep(2 * lookupTime)
		synctest.Wait()
		if got := box.taken(); len(got) != 1 || got[0].to != "r@example.org" {
			t.Errorf("after two turns %d reports are sent", len(got))
		}
	})
}

// Organizations take turns; what waits of each keeps its order. All of them together are bounded.
func TestQueueTurns(t *testing.T) {
	q := newQueue(minShare + 2)
	put := func(author string, want bool) {
		t.Helper()
		if got := q.put(&incident{author: author}); got != want {
			t.Errorf("%s: %t", author, got)
		}
	}
	for i := range minShare + 1 {
		put(fmt.Sprintf("a%d.evil.co.uk", i), i < minShare)
	}
	put("x.b.example", true)
	put("c.example", true)
	put("d.example", false)
	q.close()
	put("b.example", false)
	var got []string
	for in := q.take(); in != nil; in = q.take() {
		got = append(got, in.author)
	}
	want := []string{"a0.evil.co.uk", "x.b.example", "c.example"}
	for i := 1; i < minShare; i++ {
		want = append(want, fmt.Sprintf("a%d.evil.co.uk", i))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("turns (-want +got):\n%s", diff)
	}
	if len(q.waiting) != 0 || len(q.turns) != 0 || q.length != 0 {
		t.Errorf("left: %+v", q)
	}
}

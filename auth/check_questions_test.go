package auth

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"slipstream/auth/arc"
)

// A countingDNS counts questions, as a resolver sends them: one for each family of addresses. All names are there, and
// say whatever has others asked for.
type countingDNS struct {
	names []string   // of every address
	addr  netip.Addr // of every name

	mu    sync.Mutex
	asked map[string]int // "TXT example.com"
}

func (q *countingDNS) ask(qtype, name string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.asked == nil {
		q.asked = make(map[string]int)
	}
	q.asked[qtype+" "+name]++
}

// reset returns how many questions there were, and how many different ones.
func (q *countingDNS) reset() (all, different int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, n := range q.asked {
		all += n
	}
	different = len(q.asked)
	q.asked = nil
	return all, different
}

// count returns how many questions begin so.
func (q *countingDNS) count(prefix string) (n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for question, times := range q.asked {
		if strings.HasPrefix(question, prefix) {
			n += times
		}
	}
	return n
}

func (q *countingDNS) LookupTXT(_ context.Context, name string) ([]string, error) {
	q.ask("TXT", name)
	switch {
	case strings.HasPrefix(name, "_dmarc.top"):
		return []string{"v=DMARC1; p=none; sp=none; np=reject"}, nil
	case strings.HasPrefix(name, "_dmarc.d") && strings.Count(name, ".") == 3:
		return []string{"v=DMARC1; p=none; psd=n"}, nil // not aligned after all: on to the next
	case strings.HasPrefix(name, "_dmarc."):
		return nil, &net.DNSError{Err: "no such record", Name: name, IsNotFound: true}
	case strings.Contains(name, "._domainkey."):
		return nil, zoneTimeout(name) // alignment is asked about where this may change something
	}
	var b strings.Builder
	b.WriteString("v=spf1")
	for i := range 12 {
		fmt.Fprintf(&b, " mx:%d.%%{p}.%s", i, name)
	}
	return []string{b.String() + " -all"}, nil
}

func (q *countingDNS) LookupMX(_ context.Context, name string) ([]*net.MX, error) {
	q.ask("MX", name)
	var list []*net.MX
	for i := range 10 { // one more would end it
		list = append(list, &net.MX{Host: fmt.Sprintf("mx%d.%s", i, name)})
	}
	return list, nil
}

func (q *countingDNS) LookupNetIP(_ context.Context, network, host string) ([]netip.Addr, error) {
	q.ask(network, host)
	return []netip.Addr{q.addr}, nil
}

func (q *countingDNS) LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error) {
	q.ask("ip4", host)
	q.ask("ip6", host)
	return []net.IPAddr{{IP: q.addr.AsSlice()}}, nil
}

func (q *countingDNS) LookupAddr(_ context.Context, addr string) ([]string, error) {
	q.ask("PTR", addr)
	return q.names, nil
}

func (q *countingDNS) Exists(_ context.Context, name string) (bool, error) {
	q.ask("ANY", name)
	return false, nil
}

// questionsMessage has as much asked as a message can: four authors, ten signatures near them, the longest chain.
func questionsMessage() string {
	const b64 = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	var b strings.Builder
	for i := arc.MaxSets; i > 0; i-- {
		cv := "pass"
		if i == 1 {
			cv = "none"
		}
		fmt.Fprintf(&b, "ARC-Seal: i=%[1]d; a=rsa-sha256; cv=%[2]s; d=as%[1]d.example; s=s; b=%[3]s\r\n"+
			"ARC-Message-Signature: i=%[1]d; a=rsa-sha256; c=relaxed/relaxed; d=ams%[1]d.example; s=s; h=from:to; bh=%[3]s;\r\n"+
			" b=%[3]s\r\nARC-Authentication-Results: i=%[1]d; x.example; none\r\n", i, cv, b64)
	}
	for i := range 2 * maxSignatures {
		fmt.Fprintf(&b, "DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=%s; s=s%d; h=from; bh=%s;\r\n b=%s\r\n",
			deepName(fmt.Sprint("d", i), i%maxAuthorDomains), i, b64, b64)
	}
	b.WriteString("From: ")
	for i := range maxAuthorDomains { // one more would be a fault, and then nothing can be aligned
		fmt.Fprintf(&b, "a@%s,\r\n ", deepName("a", i))
	}
	b.WriteString("\r\n\r\nx\r\n")
	return b.String()
}

// deepName is one whose walk has nothing in common with that of others but the two uppermost names.
func deepName(label string, top int) string {
	return strings.Repeat(label+".", 10) + fmt.Sprintf("org.top%d", top)
}

// TestCheckQuestions: what the comment on Checker says about the number of questions. Whoever sends a message can have
// no more asked, whatever they wrote, and whatever their DNS says.
func TestCheckQuestions(t *testing.T) {
	const policies = maxAuthorQueries + maxHintQueries + maxAlignQueries
	for _, test := range []struct {
		client                   string
		envelope, different, all int
	}{
		{"192.0.2.1", 250, 233, 444}, {"2001:db8::1", 470, 443, 664},
	} {
		q := &countingDNS{addr: netip.MustParseAddr("203.0.113.1")}
		for i := range 30 {
			q.names = append(q.names, fmt.Sprintf("host%d.example", i))
		}
		c := &Checker{ID: "mx.example.org", Resolver: q}
		k := c.Begin(t.Context(), Envelope{
			Client: netip.MustParseAddr(test.client), Helo: "helo.example", MailFrom: "a@" + deepName("mail", 0),
		})
		k.running.Wait()
		all, different := q.reset()
		t.Logf("%s: %d questions for the envelope, %d of them different", test.client, all, different)
		if all != test.envelope || different != test.different {
			t.Errorf("%s: %d questions for the envelope, %d of them different; want %d and %d", test.client, all, different,
				test.envelope, test.different)
		}
		header, body, _ := strings.Cut(questionsMessage(), "\r\n\r\n")
		k.Header([]byte(header + "\r\n\r\n"))
		k.Write([]byte(body))
		r := k.Finish(t.Context())
		chain := q.count("TXT s._domainkey.a") // no more of these once the chain has failed
		after, different := q.reset()
		t.Logf("%s: %d more for the header, %d of them for ARC", test.client, after, chain)
		const others = maxSignatures + policies + maxAuthorDomains
		if after-chain != others || chain > arc.MaxLookups || after != different {
			t.Errorf("%s: %d questions for the header, %d of them different, %d for ARC; want %d besides these, and at most %d",
				test.client, after, different, chain, others, arc.MaxLookups)
		}
		if most := all + others + arc.MaxLookups; most != test.all {
			t.Errorf("%s: %d questions in all at most, want %d", test.client, most, test.all)
		}
		if len(r.Author.Domains) != maxAuthorDomains {
			t.Errorf("%+v", r.Author)
		}
	}
}

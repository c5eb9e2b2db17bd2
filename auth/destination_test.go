package auth

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A destinationDNS is a Resolver with TXT records only, by name; several records: one a line. "!" is a failure, "?" an
// answer that makes no sense, "..." none at all.
type destinationDNS struct {
	texts map[string]string

	mu    sync.Mutex
	asked []string
}

func (d *destinationDNS) LookupTXT(ctx context.Context, name string) ([]string, error) {
	d.mu.Lock()
	d.asked = append(d.asked, name)
	d.mu.Unlock()
	switch text := d.texts[name]; text {
	case "":
		return nil, &net.DNSError{Err: "no such record", Name: name, IsNotFound: true}
	case "!":
		return nil, &net.DNSError{Err: "server failure", Name: name, IsTemporary: true}
	case "?":
		return nil, &net.DNSError{Err: "malformed answer", Name: name}
	case "...":
		<-ctx.Done()
		return nil, &net.DNSError{Err: "stopped", Name: name, IsTimeout: true}
	default:
		return strings.Split(text, "\n"), nil
	}
}

func (d *destinationDNS) LookupMX(context.Context, string) ([]*net.MX, error) { panic("not for MX") }
func (d *destinationDNS) LookupIPAddr(context.Context, string) ([]net.IPAddr, error) {
	panic("not for addresses")
}
func (d *destinationDNS) LookupAddr(context.Context, string) ([]string, error) {
	panic("not for names")
}

func mailto(t *testing.T, address string) ReportURI {
	t.Helper()
	u, ok := parseReportURI("mailto:" + address)
	if !ok {
		t.Fatalf("%q is no address", address)
	}
	return u
}

func TestDestinationsAllowed(t *testing.T) {
	const policy = "v=DMARC1; p=none"
	long := strings.Repeat(strings.Repeat("a", 60)+".", 3) + "example"
	for _, tt := range []struct {
		name, policyDomain, to string
		texts                  map[string]string
		discovery              Discovery
		want                   bool
		err                    bool
		asked                  int // look-ups; -1: any number
	}{
		{name: "same domain", policyDomain: "example.org", to: "r@example.org", want: true},
		{name: "same domain, other spelling", policyDomain: "Example.ORG.", to: "r@EXAMPLE.org", want: true},
		{name: "below", policyDomain: "example.org", to: "r@reports.example.org", want: true, asked: -1,
			texts: map[string]string{"_dmarc.example.org": policy}},
		{name: "beside", policyDomain: "a.example.org", to: "r@b.example.org", want: true, asked: -1,
			texts: map[string]string{"_dmarc.example.org": policy, "_dmarc.a.example.org": policy}},
		{name: "beside, without an organization", policyDomain: "a.example.org", to: "r@b.example.org", asked: -1,
			texts: map[string]string{"_dmarc.a.example.org": policy}},
		{name: "an organization of its own", policyDomain: "example.org", to: "r@b.example.org", asked: -1,
			texts: map[string]string{"_dmarc.example.org": policy, "_dmarc.b.example.org": policy + "; psd=n"}},
		{name: "below a public suffix", policyDomain: "bank", to: "r@example.bank", asked: -1,
			texts: map[string]string{"_dmarc.bank": policy + "; psd=y"}},
		{name: "list of suffixes: beside", policyDomain: "a.example.co.uk", to: "r@b.example.co.uk", discovery: PSL,
			want: true},
		{name: "list of suffixes: another", policyDomain: "a.co.uk", to: "r@b.co.uk", discovery: PSL, asked: 1},

		{name: "external, says nothing", policyDomain: "example.org", to: "r@example.com", asked: 1},
		{name: "external, agrees", policyDomain: "example.org", to: "r@example.com", want: true, asked: 1,
			texts: map[string]string{"example.org._report._dmarc.example.com": "v=DMARC1"}},
		{name: "external, agrees among others", policyDomain: "example.org", to: "r@example.com", want: true, asked: 1,
			texts: map[string]string{"example.org._report._dmarc.example.com": "hello\nv=DMARC1;\nv=DMARC1"}},
		{name: "external, other words", policyDomain: "example.org", to: "r@example.com", asked: 1,
			texts: map[string]string{"example.org._report._dmarc.example.com": "v=spf1 -all\nrua=mailto:a@b.c; v=DMARC1"}},
		{name: "agrees for another", policyDomain: "example.org", to: "r@example.com", asked: 1,
			texts: map[string]string{"example.net._report._dmarc.example.com": "v=DMARC1"}},
		{name: "its organization agrees", policyDomain: "example.org", to: "r@sub.example.com", asked: 1,
			texts: map[string]string{"example.org._report._dmarc.example.com": "v=DMARC1"}},
		{name: "name too long", policyDomain: long, to: "r@" + strings.Replace(long, "example", "test", 1)},
		{name: "no domain", policyDomain: "exa mple.org", to: "r@example.com"},

		{name: "no answer", policyDomain: "example.org", to: "r@example.com", err: true, asked: 1,
			texts: map[string]string{"example.org._report._dmarc.example.com": "!"}},
		{name: "nonsense", policyDomain: "example.org", to: "r@example.com", asked: 1,
			texts: map[string]string{"example.org._report._dmarc.example.com": "?"}},
		{name: "organization unknown", policyDomain: "example.org", to: "r@b.example.org", err: true, asked: -1,
			texts: map[string]string{"_dmarc.example.org": "!"}},
		{name: "theirs unknown", policyDomain: "example.org", to: "r@b.example.org", err: true, asked: -1,
			texts: map[string]string{"_dmarc.example.org": policy, "_dmarc.b.example.org": "!"}},
		{name: "organization unknown, but agrees", policyDomain: "example.org", to: "r@b.example.org", want: true, asked: -1,
			texts: map[string]string{"_dmarc.example.org": "!", "example.org._report._dmarc.b.example.org": "v=DMARC1"}},
		{name: "no answer in time", policyDomain: "example.org", to: "r@b.example.org", err: true, asked: -1,
			texts: map[string]string{"_dmarc.example.org": "..."}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				r := &destinationDNS{texts: tt.texts}
				d := Destinations{Resolver: r, Discovery: tt.discovery}
				got, err := d.Allowed(ctx, tt.policyDomain, mailto(t, tt.to))
				if got != tt.want || (err != nil) != tt.err {
					t.Errorf("Allowed = %t, %v; want %t, error %t", got, err, tt.want, tt.err)
				}
				if len(r.asked) != tt.asked && tt.asked >= 0 {
					t.Errorf("asked for %q, want %d look-ups", r.asked, tt.asked)
				}
			})
		})
	}
}

// What is no mailbox gets nothing, whoever agrees.
func TestDestinationsOtherSchemes(t *testing.T) {
	r := &destinationDNS{texts: map[string]string{"example.org._report._dmarc.": "v=DMARC1"}}
	u, ok := parseReportURI("https://example.org/reports")
	if !ok {
		t.Fatal("no URI")
	}
	for _, to := range []ReportURI{u, {}} {
		if got, err := (Destinations{Resolver: r}).Allowed(t.Context(), "example.org", to); got || err != nil {
			t.Errorf("Allowed(%q) = %t, %v", to.Text, got, err)
		}
	}
	if len(r.asked) != 0 {
		t.Errorf("asked for %q", r.asked)
	}
}

// However deep the names are, a walk is a walk.
func TestDestinationsQueries(t *testing.T) {
	r := &destinationDNS{texts: map[string]string{"_dmarc.example.org": "v=DMARC1; p=none"}}
	deep := strings.Repeat("x.", 50) + "example.org"
	got, err := Destinations{Resolver: r}.Allowed(t.Context(), "y."+deep, mailto(t, "r@z."+deep))
	if !got || err != nil {
		t.Errorf("Allowed = %t, %v", got, err)
	}
	slices.Sort(r.asked)
	if most := 2 * maxWalkQueries; len(slices.Compact(r.asked)) > most {
		t.Errorf("%d names were asked for, at most %d are due", len(r.asked), most)
	}
}

func TestDestinationsAddresses(t *testing.T) {
	const at = "example.org._report._dmarc.example.com"
	for _, tt := range []struct {
		name, to, text string
		tag            ReportTag
		want           []string
		err            bool
	}{
		{name: "internal", to: "r@example.org", text: "!", tag: TagRUA, want: []string{"r@example.org"}},
		{name: "nobody agrees", to: "r@example.com", tag: TagRUA},
		{name: "no answer", to: "r@example.com", text: "!", tag: TagRUA, err: true},
		{name: "as asked", to: "r@example.com", text: "v=DMARC1", tag: TagRUA, want: []string{"r@example.com"}},
		{name: "elsewhere in it", to: "r@example.com", text: "v=DMARC1; rua=mailto:s@example.com!5m,mailto:t@EXAMPLE.com",
			tag: TagRUA, want: []string{"s@example.com", "t@example.com"}},
		{name: "the other tag", to: "r@example.com", text: "v=DMARC1; ruf=mailto:s@example.com", tag: TagRUA,
			want: []string{"r@example.com"}},
		{name: "failures elsewhere in it", to: "r@example.com", text: "v=DMARC1; ruf=mailto:s@example.com", tag: TagRUF,
			want: []string{"s@example.com"}},
		{name: "elsewhere", to: "r@example.com", text: "v=DMARC1; rua=mailto:victim@example.net", tag: TagRUA},
		{name: "partly elsewhere", to: "r@example.com", tag: TagRUA,
			text: "v=DMARC1; rua=mailto:s@example.com,mailto:victim@example.net"},
		{name: "below it", to: "r@example.com", text: "v=DMARC1; rua=mailto:s@sub.example.com", tag: TagRUA},
		{name: "by another way", to: "r@example.com", text: "v=DMARC1; rua=https://example.com/", tag: TagRUA},
		{name: "the second record says where", to: "r@example.com", text: "v=DMARC1\nv=DMARC1;rua=mailto:s@example.com",
			tag: TagRUA, want: []string{"s@example.com"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := Destinations{Resolver: &destinationDNS{texts: map[string]string{at: tt.text}}}
			uris, err := d.Addresses(t.Context(), "example.org", mailto(t, tt.to), tt.tag)
			var got []string
			for _, u := range uris {
				got = append(got, u.Mailbox)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" || (err != nil) != tt.err {
				t.Errorf("Addresses: %v (-want +got):\n%s", err, diff)
			}
		})
	}
}

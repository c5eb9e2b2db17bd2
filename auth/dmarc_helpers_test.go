package auth

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// A dmarcDNS is a Resolver over the records of a test, and keeps a list of what it was asked.
type dmarcDNS struct {
	policies map[string]string // by domain; several records: one a line
	domains  map[string]bool   // what exists besides; false: the question fails
	broken   []string          // domains at whose _dmarc the question fails
	delay    time.Duration     // before every answer
	dead     bool              // no answer at all

	mu    sync.Mutex
	asked []string // "TXT _dmarc.example.com"
}

func (d *dmarcDNS) ask(ctx context.Context, qtype, name string) error {
	d.mu.Lock()
	d.asked = append(d.asked, qtype+" "+name)
	d.mu.Unlock()
	if d.delay > 0 || d.dead {
		answer := time.After(d.delay)
		if d.dead {
			answer = nil
		}
		select {
		case <-answer:
		case <-ctx.Done():
			return &net.DNSError{Err: "stopped", Name: name, IsTimeout: true, IsTemporary: true}
		}
	}
	return nil
}

func (d *dmarcDNS) LookupTXT(ctx context.Context, name string) ([]string, error) {
	if err := d.ask(ctx, "TXT", name); err != nil {
		return nil, err
	}
	domain, ok := strings.CutPrefix(name, "_dmarc.")
	if ok && slices.Contains(d.broken, domain) {
		return nil, &net.DNSError{Err: "server failure", Name: name, IsTemporary: true}
	}
	if text := d.policies[domain]; ok && text != "" {
		return strings.Split(text, "\n"), nil
	}
	return nil, &net.DNSError{Err: "no such record", Name: name, IsNotFound: true}
}

func (d *dmarcDNS) exists(ctx context.Context, qtype, name string) error {
	if err := d.ask(ctx, qtype, name); err != nil {
		return err
	}
	there, known := d.domains[name]
	if known && !there {
		return &net.DNSError{Err: "server failure", Name: name, IsTemporary: true}
	}
	if !there || qtype == "MX" {
		return &net.DNSError{Err: "no such record", Name: name, IsNotFound: true}
	}
	return nil
}

func (d *dmarcDNS) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	return nil, d.exists(ctx, "MX", name)
}

func (d *dmarcDNS) LookupIPAddr(ctx context.Context, name string) ([]net.IPAddr, error) {
	return nil, d.exists(ctx, "A", name)
}

func (d *dmarcDNS) LookupAddr(context.Context, string) ([]string, error) { panic("not for DMARC") }

// A dmarcExistsDNS can tell NXDOMAIN.
type dmarcExistsDNS struct{ *dmarcDNS }

func (d dmarcExistsDNS) Exists(ctx context.Context, name string) (bool, error) {
	if err := d.ask(ctx, "ANY", name); err != nil {
		return false, err
	}
	return d.domains[name], nil
}

// dmarcCase is a message and what is to become of it.
type dmarcCase struct {
	name    string
	records string // "domain: record", one a line, without "v=DMARC1; "
	from    string // domains, or "fault: domains"; "~a.test" stands in a display name alone
	spf     string // or "?a.test": not known
	dkim    string // likewise, several
	want    string // status result domain policydomain policy spf|dkim|both|-
}

// zone reads records.
func (c dmarcCase) zone() *dmarcDNS {
	dns := &dmarcDNS{policies: make(map[string]string), domains: make(map[string]bool)}
	for line := range strings.Lines(c.records) {
		domain, record, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch {
		case record == "exists":
			dns.domains[domain] = true
		case record == "existence fails":
			dns.domains[domain] = false
		case record == "fails":
			dns.broken = append(dns.broken, domain)
		case dns.policies[domain] != "":
			dns.policies[domain] += "\nv=DMARC1; " + record
		case strings.HasPrefix(record, "v="):
			dns.policies[domain] = record
		default:
			dns.policies[domain] = "v=DMARC1; " + record
		}
	}
	return dns
}

func (c dmarcCase) author() Author {
	fault, domains, ok := strings.Cut(c.from, ": ")
	if !ok {
		fault, domains = "", c.from
	}
	a := Author{Fault: FromFault(fault)}
	for _, domain := range strings.Fields(domains) {
		domain, named := strings.CutPrefix(domain, "~")
		a.Domains = append(a.Domains, domain)
		if named {
			a.Named = append(a.Named, domain)
		}
	}
	return a
}

func (c dmarcCase) identifiers() Identifiers {
	ids := Identifiers{SPF: c.spf}
	if domain, unknown := strings.CutPrefix(c.spf, "?"); unknown {
		ids.SPF, ids.SPFUnknown = "", domain
	}
	for _, domain := range strings.Fields(c.dkim) {
		if domain, unknown := strings.CutPrefix(domain, "?"); unknown {
			ids.DKIMUnknown = append(ids.DKIMUnknown, domain)
		} else {
			ids.DKIM = append(ids.DKIM, domain)
		}
	}
	return ids
}

// candidates are all domains that the methods tell of.
func (c dmarcCase) candidates() []string {
	return strings.Fields(strings.ReplaceAll(c.dkim+" "+c.spf, "?", ""))
}

// summary is a verdict in the words of dmarcCase.want.
func summary(v Verdict) string {
	or := func(s string) string {
		if s == "" {
			return "-"
		}
		return s
	}
	by := "-"
	switch {
	case v.SPFAligned && v.DKIMAligned:
		by = "both"
	case v.SPFAligned:
		by = "spf"
	case v.DKIMAligned:
		by = "dkim"
	}
	return strings.Join([]string{string(v.Status), or(v.Result), or(v.Domain), or(v.PolicyDomain), or(string(v.Policy)),
		by}, " ")
}

func runDMARC(t *testing.T, cases []dmarcCase) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			for _, candidates := range [][]string{nil, c.candidates()} {
				d := &DMARC{Resolver: c.zone()}
				v := d.Begin(t.Context(), c.author(), candidates...).Evaluate(t.Context(), c.identifiers())
				if got := summary(v); got != c.want {
					t.Errorf("candidates %q:\n got %s (%s)\nwant %s", candidates, got, v.Reason, c.want)
				}
			}
		})
	}
}

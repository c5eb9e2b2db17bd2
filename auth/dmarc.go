package auth

import (
	"context"
	"slices"
)

// A Discovery is a way to find the organizational domain of a name.
type Discovery string

const (
	// TreeWalk asks the DNS: https://www.rfc-editor.org/rfc/rfc9989#section-4.10
	TreeWalk Discovery = "treewalk"
	// PSL consults a list of public suffixes: https://www.rfc-editor.org/rfc/rfc7489#section-3.2. Records are read as
	// with TreeWalk, except that "psd" means nothing.
	PSL Discovery = "psl"
)

// DMARC judges what the methods found against what the author's domain asks for: RFC 9989. Resolver must be set; with
// the rest at zero it walks the tree and trusts no sealer. It is not changed by its methods.
//
// A message takes these steps:
//
//  1. [ParseFrom]: whose domain is it? (from.go)
//  2. [DMARC.Begin]: every record that may be needed is asked for at once (dmarc_lookup.go, orgdomain.go, psl.go)
//  3. [Evaluation.Evaluate]: records are chosen (dmarc_discovery.go), domains compared (dmarc_align.go) and a [Verdict]
//     reached (dmarc_verdict.go)
//  4. [Enforcement.Decide]: is anything done about it? (dmarc_enforce.go)
type DMARC struct {
	// Resolver answers; if it is an [ExistenceResolver] too, that is asked where a policy depends on whether a domain
	// exists.
	Resolver Resolver
	// Discovery: empty means TreeWalk.
	Discovery Discovery
	// Suffixes is the list for PSL; nil means the built-in one.
	Suffixes *Suffixes
	// TrustedSealers are domains whose word about an author is taken where the message itself fails: see [Seal].
	TrustedSealers []string
}

// Begin starts all look-ups for a message whose author is known, and returns without waiting. The candidates are
// domains that may turn out to be authenticated, or not to be known to be: that of MAIL FROM, those of the signatures.
// They are only a hint, but
// what is asked for now need not be waited for at the end of the message.
//
// When ctx ends, what was not found is a temporary error. The Evaluation must be ended with Evaluate or with Close.
func (d *DMARC) Begin(ctx context.Context, author Author, candidates ...string) *Evaluation {
	if r := recallFrom(d.Resolver); r != nil {
		e := &Evaluation{dmarc: d, author: author, lookups: newLookups(ctx, r)}
		e.lookups.atOnce = true
		if e.begin(candidates); r.enough() {
			e.lookups.resolver, e.lookups.atOnce = d.Resolver, false
			return e
		}
		e.Close()
	}
	e := &Evaluation{dmarc: d, author: author, lookups: newLookups(ctx, d.Resolver)}
	e.begin(candidates)
	return e
}

func (e *Evaluation) begin(candidates []string) {
	domains := e.author.Domains
	for _, domain := range domains[:min(len(domains), maxAuthorDomains)] {
		a := &authorLookup{
			domain: domain, named: slices.Contains(e.author.Named, domain), known: make(chan struct{}),
		}
		e.authors = append(e.authors, a)
		e.ask(domain, forAuthor)
		e.lookups.run(func() {
			defer close(a.known)
			a.discovery = e.discover(domain)
		})
	}
	if e.author.Fault == "" {
		for _, domain := range candidates {
			e.prefetch(domain)
		}
	}
}

// names are those at which a record that has to do with domain may stand, in the order of preference.
func (d *DMARC) names(domain string) []string {
	if d.Discovery != PSL {
		return walkNames(domain)
	}
	if org := d.Suffixes.OrgDomain(domain); org != domain {
		return []string{domain, org}
	}
	return []string{domain}
}

// An Evaluation is one message on its way to a Verdict. It is used by one goroutine.
type Evaluation struct {
	dmarc   *DMARC
	author  Author
	authors []*authorLookup
	lookups *lookups
}

type authorLookup struct {
	domain    string
	named     bool          // it stands in a display name alone
	known     chan struct{} // closed when discovery is there
	discovery discovery
}

// prefetch asks what alignment of domain may need, if there may be any: an organizational domain in common is above
// both, and one of a single label is rare enough to be waited for.
func (e *Evaluation) prefetch(domain string) {
	domain, ok := CanonicalDomain(domain)
	if !ok || e.dmarc.Discovery == PSL {
		return
	}
	for _, a := range e.authors {
		if domain != a.domain && within(domain, lastLabels(a.domain, 2)) {
			e.ask(domain, forHint)
			return
		}
	}
}

// Close ends all look-ups and waits for their goroutines, which is as long as the Resolver takes to notice. It may be
// called more than once.
func (e *Evaluation) Close() { e.lookups.close() }

// Identifiers are what was authenticated about a message.
type Identifiers struct {
	// SPF is the domain for which SPF said pass, if it did: that of MAIL FROM, or for the null path that of HELO. A
	// pass of HELO beside another MAIL FROM does not count. https://www.rfc-editor.org/rfc/rfc9989#section-3.2.4
	SPF string
	// DKIM has the d= of every signature that verified.
	DKIM []string
	// SPFUnknown and DKIMUnknown are domains that might stand above had the DNS answered: those of results that are
	// temperror. They authenticate nothing, but where one is aligned nobody can say that the message fails.
	SPFUnknown  string
	DKIMUnknown []string
	// Seals is the ARC chain, oldest first. It is empty unless the whole chain passed.
	Seals []Seal
	// SealsUnknown is the chain where it failed for want of a key that could not be looked up just now.
	SealsUnknown []Seal
}

// An ExistenceResolver is a Resolver that can tell a name that does not exist from one that has no record of a type.
type ExistenceResolver interface {
	Resolver
	// Exists reports whether there is anything at name or below it: false is NXDOMAIN and nothing else.
	Exists(ctx context.Context, name string) (bool, error)
}

// exists reports whether a domain exists. From a Resolver that cannot tell, a domain that has neither text, mail
// exchanger nor address is taken for one that does not: https://www.rfc-editor.org/rfc/rfc9091#section-2.6
func exists(ctx context.Context, r Resolver, domain string) (bool, error) {
	if er, ok := r.(ExistenceResolver); ok {
		return er.Exists(ctx, domain)
	}
	for _, ask := range []func() error{
		func() error { _, err := r.LookupMX(ctx, domain); return err },
		func() error { _, err := r.LookupIPAddr(ctx, domain); return err },
		func() error { _, err := r.LookupTXT(ctx, domain); return err },
	} {
		if err := ask(); err == nil {
			return true, nil
		} else if !dnsNotFound(err) {
			return false, err
		}
	}
	return false, nil
}

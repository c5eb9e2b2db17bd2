package auth

import (
	"context"
	"errors"
)

// A ReportTag names one of the two lists of addresses in a policy record.
type ReportTag string

const (
	TagRUA ReportTag = "rua" // aggregate reports, RFC 9990
	TagRUF ReportTag = "ruf" // failure reports, RFC 9991
)

// Destinations tells which addresses want the reports that a policy record asks for. Without it anybody could publish
// a record with somebody else's address, and have us send as many reports there as they like. Resolver must be set;
// Discovery and Suffixes are those of [DMARC].
//
// https://www.rfc-editor.org/rfc/rfc9990#section-4, and with "ruf" for "rua"
// https://www.rfc-editor.org/rfc/rfc9991#section-5
type Destinations struct {
	Resolver  Resolver
	Discovery Discovery
	Suffixes  *Suffixes
}

// errDestinationUnknown means that the DNS did not tell; asking later may help.
const errDestinationUnknown dmarcError = "report destination: the DNS did not tell whether it wants reports"

// Allowed reports whether an address may be sent the reports on policyDomain, the domain at which its record was
// found. It is false for whatever is no mailto URI. An error is temporary: try later.
//
// What the address may have put in its own place is not looked at; see Addresses.
func (d Destinations) Allowed(ctx context.Context, policyDomain string, to ReportURI) (bool, error) {
	internal, records, err := d.ask(ctx, policyDomain, to)
	return internal || len(records) > 0, err
}

// Addresses returns where the reports on policyDomain go that were asked for at an address: there, or where the
// domain of the address wants them instead, or nowhere. They are mailto URIs of the same domain, at most 16. An error
// is temporary: try later.
func (d Destinations) Addresses(
	ctx context.Context, policyDomain string, to ReportURI, tag ReportTag,
) ([]ReportURI, error) {
	internal, records, err := d.ask(ctx, policyDomain, to)
	switch {
	case err != nil:
		return nil, err
	case internal:
		return []ReportURI{to}, nil
	case len(records) == 0:
		return nil, nil
	}
	for _, r := range records {
		instead := r.RUA
		if tag == TagRUF {
			instead = r.RUF
		}
		if len(instead) == 0 {
			continue
		}
		for _, u := range instead {
			if u.Domain() != to.Domain() { // "MUST NOT generate a report to either the original or the override URI"
				return nil, nil
			}
		}
		return instead, nil
	}
	return []ReportURI{to}, nil
}

// ask reports whether an address lies within the organizational domain of the policy; if it does not, it returns the
// records with which its own domain says that it wants the reports.
func (d Destinations) ask(
	ctx context.Context, policyDomain string, to ReportURI,
) (internal bool, consent []DMARCRecord, err error) {
	host := to.Domain()
	policyDomain, ok := CanonicalDomain(policyDomain)
	if !ok || host == "" {
		return false, nil, nil
	}
	internal, orgErr := d.sameOrganization(ctx, policyDomain, host)
	if internal {
		return true, nil, nil
	}
	consent, err = d.consent(ctx, policyDomain, host)
	if len(consent) == 0 && err == nil {
		err = orgErr // it may be internal after all
	}
	return false, consent, err
}

// consent returns the records that host has for the reports on policyDomain.
func (d Destinations) consent(ctx context.Context, policyDomain, host string) ([]DMARCRecord, error) {
	name := policyDomain + "._report._dmarc." + host
	if len(name) > maxDomainName { // "a positive determination ... cannot be made"
		return nil, nil
	}
	texts, err := d.Resolver.LookupTXT(ctx, name)
	if err != nil {
		return nil, d.temporary(ctx, err)
	}
	var records []DMARCRecord
	for _, text := range texts {
		// Consent needs no policy; what ParseRecord asks for is what
		// https://www.rfc-editor.org/rfc/rfc9990#section-4 does: "v=DMARC1" first.
		if r, ok := ParseRecord(text); ok {
			records = append(records, r)
		}
	}
	return records, nil
}

// sameOrganization compares organizational domains. They are at or above both names, so that names with nothing in
// common need no look-up.
func (d Destinations) sameOrganization(ctx context.Context, policyDomain, host string) (bool, error) {
	if policyDomain == host {
		return true, nil
	}
	if lastLabels(policyDomain, 1) != lastLabels(host, 1) {
		return false, nil
	}
	e := &Evaluation{
		dmarc:   &DMARC{Resolver: d.Resolver, Discovery: d.Discovery, Suffixes: d.Suffixes},
		lookups: newLookups(ctx, d.Resolver),
	}
	defer e.Close()
	org, err := e.orgDomain(policyDomain, forAuthor)
	if err != nil {
		return false, d.temporary(ctx, err)
	}
	if !within(host, org) {
		return false, nil
	}
	theirs, err := e.orgDomain(host, forAlignment)
	return err == nil && theirs == org, d.temporary(ctx, err)
}

// temporary is err if asking later may help, in words that say what was asked for; else nil.
func (d Destinations) temporary(ctx context.Context, err error) error {
	if err == nil || !dnsTemporary(err) && ctx.Err() == nil {
		return nil
	}
	return errors.Join(errDestinationUnknown, err)
}

package auth

import (
	"slices"
	"strings"

	"slipstream/auth/arc"
)

const (
	// maxFrom is the longest From field that is read, its line ends included: sixteen lines of the longest kind
	// (https://www.rfc-editor.org/rfc/rfc5322#section-2.1.1).
	maxFrom = 16 << 10
	// maxFromFields is the number of From fields that are read where there are several, which is one too many already.
	maxFromFields = 4
	// maxAuthorDomains is the number of author domains that are judged. Mail by more authors than one is rare, and by
	// authors in several domains rarer. https://www.rfc-editor.org/rfc/rfc9989#section-11.5
	maxAuthorDomains = 4
	// maxFromUnicode is the number of domains with U-labels that are made A-labels for one message, which costs far
	// more than reading them. One more than that counts as too many domains.
	maxFromUnicode = 8
)

// An Author is what the From field says about who wrote a message. Make one with [ParseFrom].
type Author struct {
	// Domains are those of the addresses that could be read, in canonical form and in order, each once, at most 4.
	Domains []string
	// Fault, unless empty, says why the message is not one that DMARC is about. Such a message cannot pass: no reader
	// is sure whom it would show as the author. https://www.rfc-editor.org/rfc/rfc9989#section-4.4
	Fault FromFault

	unicode int // domains with U-labels so far
}

// A FromFault says what is wrong with the From field, in words of our own that may stand in a header field.
type FromFault string

const (
	FromMissing   FromFault = "no From field"
	FromRepeated  FromFault = "more than one From field"
	FromTooLong   FromFault = "From field too long"
	FromMalformed FromFault = "malformed From field"
	FromNobody    FromFault = "no address in the From field"
	FromNoDomain  FromFault = "no usable domain in the From field"
	FromTooMany   FromFault = "too many author domains"
)

// Deceptive reports whether readers may take the field for different authors, or for one that we do not see. It is false
// for one without any address, as old programs write it, and for none at all.
func (f FromFault) Deceptive() bool { return f != "" && f != FromMissing && f != FromNobody }

// ParseFrom reads the From fields of a message. It takes the syntax of
// https://www.rfc-editor.org/rfc/rfc5322#section-3.4 and, of https://www.rfc-editor.org/rfc/rfc5322#section-4.4, what
// is obsolete (source routes, which count for nothing, blanks and comments about the dots, empty list members), groups
// (https://www.rfc-editor.org/rfc/rfc6854#section-2), and UTF-8 (https://www.rfc-editor.org/rfc/rfc6532#section-3.2);
// in display names and local parts it also overlooks mistakes that leave no doubt about the domain. Where a display
// name has an unquoted address, both domains count, since readers differ in which they show. Encoded words are not
// decoded: an address is never in one.
func ParseFrom(headers []arc.Header) Author {
	var a Author
	fields := 0
	for _, h := range headers {
		if !strings.EqualFold(h.Name, "From") {
			continue
		}
		if fields++; fields > maxFromFields {
			break
		}
		a.read(h.Value())
	}
	switch {
	case fields == 0:
		a.Fault = FromMissing
	case fields > 1:
		a.Fault = FromRepeated
	}
	return a
}

// read adds what one field says.
func (a *Author) read(value []byte) {
	if len(value) > maxFrom {
		a.fault(FromTooLong)
		return
	}
	s := fromScanner{rest: value}
	s.addresses(a)
}

// fault keeps the first that is found.
func (a *Author) fault(f FromFault) {
	if a.Fault == "" {
		a.Fault = f
	}
}

// addNamed takes the domain of an address that stands, unquoted, where a name belongs. Readers differ in whether they
// show it. What only looks like an address ("=?utf-8?q?a@b.example?=", "me @home") is none.
func (a *Author) addNamed(domain string) {
	if canonical, ok := a.canonical(domain); ok && strings.Contains(canonical, ".") {
		a.add(canonical)
	}
}

func (a *Author) addAll(domains []string) {
	for _, domain := range domains {
		a.add(domain)
	}
}

// add takes the domain of an address; "" stands for an address literal.
func (a *Author) add(domain string) {
	domain, ok := a.canonical(domain)
	switch {
	case !ok:
		a.fault(FromNoDomain)
	case slices.Contains(a.Domains, domain):
	case len(a.Domains) == maxAuthorDomains:
		a.fault(FromTooMany)
	default:
		a.Domains = append(a.Domains, domain)
	}
}

// canonical is CanonicalDomain with a bound for the whole message.
func (a *Author) canonical(domain string) (string, bool) {
	if !asciiOnly(domain) {
		if a.unicode++; a.unicode > maxFromUnicode {
			a.fault(FromTooMany)
			return "", false
		}
	}
	return CanonicalDomain(domain)
}

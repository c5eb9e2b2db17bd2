package auth

import (
	"net/netip"
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
	// Named are those among Domains that stand in a display name alone, without quotes, beside an address in angle
	// brackets: "joe@customer.example via Helpdesk <desk@example.org>". Programs that answer for others write so. There
	// are none where there is a Fault: whatever stands in such a field may be what a reader sees.
	Named []string
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
	FromLiteral   FromFault = "an address literal in the From field"
	FromNoDomain  FromFault = "no usable domain in the From field"
	FromTooMany   FromFault = "too many author domains"
)

// Deceptive reports whether readers may take the field for different authors, or for one that we do not see. It is
// false for no field at all, for one without any address, as bounces and old programs have it, and for the address of a
// host without a name, as printers have it: nobody's domain is in these.
func (f FromFault) Deceptive() bool {
	switch f {
	case "", FromMissing, FromNobody, FromLiteral:
		return false
	}
	return true
}

// ParseFrom reads the From fields of a message. It takes the syntax of
// https://www.rfc-editor.org/rfc/rfc5322#section-3.4 and, of https://www.rfc-editor.org/rfc/rfc5322#section-4.4, what
// is obsolete (source routes, which count for nothing, blanks and comments about the dots, empty list members), groups
// (https://www.rfc-editor.org/rfc/rfc6854#section-2), and UTF-8 (https://www.rfc-editor.org/rfc/rfc6532#section-3.2);
// in display names and local parts it also overlooks mistakes that leave no doubt about the domain. Where a display
// name has an unquoted address, both domains count, since readers differ in which they show; but see [Author.Named].
// Encoded words are not decoded: an address is never in one.
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
	if a.Fault != "" {
		a.Named = nil
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

// fault keeps the first that is found; but one that deceives nobody never hides one that may.
func (a *Author) fault(f FromFault) {
	if a.Fault == "" || !a.Fault.Deceptive() && f.Deceptive() {
		a.Fault = f
	}
}

// addNamed takes the domains of addresses that stand, unquoted, where a name belongs, and reports whether there are
// any. Readers differ in whether they show them. What only looks like an address ("=?utf-8?q?a@b.example?=",
// "me @home") is none.
func (a *Author) addNamed(domains []string) (any bool) {
	for _, domain := range domains {
		canonical, ok := a.canonical(domain)
		if !ok || !strings.Contains(canonical, ".") {
			continue
		}
		if !slices.Contains(a.Domains, canonical) && !slices.Contains(a.Named, canonical) {
			a.Named = append(a.Named, canonical)
		}
		a.take(canonical)
		any = true
	}
	return any
}

func (a *Author) addAll(domains []string) {
	for _, domain := range domains {
		a.add(domain)
	}
}

// add takes the domain of an address, or what stands there in its place.
func (a *Author) add(domain string) {
	canonical, ok := a.canonical(domain)
	switch {
	case ok:
		a.take(canonical)
		a.Named = slices.DeleteFunc(a.Named, func(named string) bool { return named == canonical })
	case isLiteral(domain):
		a.fault(FromLiteral)
	default:
		a.fault(FromNoDomain)
	}
}

func (a *Author) take(canonical string) {
	switch {
	case slices.Contains(a.Domains, canonical):
	case len(a.Domains) == maxAuthorDomains:
		a.fault(FromTooMany)
	default:
		a.Domains = append(a.Domains, canonical)
	}
}

// isLiteral tells the address of a host from other things in square brackets, in which readers may see a domain. What
// printers and scanners write of IPv6 is often without its tag. https://www.rfc-editor.org/rfc/rfc5321#section-4.1.3
func isLiteral(s string) bool {
	const tag = "ipv6:"
	s, opened := strings.CutPrefix(s, "[")
	s, closed := strings.CutSuffix(s, "]")
	s = strings.Trim(s, " ")
	tagged := len(s) >= len(tag) && strings.EqualFold(s[:len(tag)], tag)
	if tagged {
		s = s[len(tag):]
	}
	addr, err := netip.ParseAddr(s)
	return opened && closed && err == nil && addr.Zone() == "" && (!tagged || addr.Is6())
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

package auth

import (
	"net/url"
	"strings"
)

// A ReportURI is an address for reports. https://www.rfc-editor.org/rfc/rfc9989#section-4.6
type ReportURI struct {
	Text   string // as it stands in the record, without the obsolete size limit
	Scheme string // in lower case; reports can be sent to "mailto"
	// Mailbox is the address of a mailto URI, its percent-encoding undone, its domain in canonical form; else "".
	Mailbox string
}

// Domain is the domain of a mailto URI's mailbox; "" for other schemes.
func (u ReportURI) Domain() string { return u.Mailbox[strings.LastIndexByte(u.Mailbox, '@')+1:] }

// parseReportURIs reads a list of URIs; what is none is left out.
func parseReportURIs(list string) []ReportURI {
	var uris []ReportURI
	for text := range strings.SplitSeq(list, ",") {
		if len(uris) == maxReportURIs {
			break
		}
		if u, ok := parseReportURI(strings.Trim(text, " \t")); ok {
			uris = append(uris, u)
		}
	}
	return uris
}

func parseReportURI(text string) (ReportURI, bool) {
	// An exclamation mark that belongs to the URI would be encoded: this one begins a size limit, which is ignored.
	text, size, limited := strings.Cut(text, "!")
	if limited && !validReportSize(size) {
		return ReportURI{}, false
	}
	scheme, rest, ok := strings.Cut(text, ":")
	if !ok || rest == "" || !validScheme(scheme) || strings.ContainsFunc(rest, notInURI) {
		return ReportURI{}, false
	}
	if _, err := url.PathUnescape(rest); err != nil {
		return ReportURI{}, false
	}
	u := ReportURI{Text: text, Scheme: strings.ToLower(scheme)}
	if u.Scheme != "mailto" {
		return u, true
	}
	// https://www.rfc-editor.org/rfc/rfc6068#section-2: header fields may follow; they are not for strangers to set.
	address, _, _ := strings.Cut(rest, "?")
	address, err := url.PathUnescape(address)
	at := strings.LastIndexByte(address, '@')
	if err != nil || at <= 0 || strings.ContainsFunc(address[:at], notInMailbox) {
		return ReportURI{}, false
	}
	domain, ok := CanonicalDomain(address[at+1:])
	if !ok {
		return ReportURI{}, false
	}
	u.Mailbox = address[:at+1] + domain
	return u, true
}

// validReportSize reports whether s is 1*DIGIT with one unit at most.
func validReportSize(s string) bool {
	if n := len(s); n > 0 && strings.IndexByte("kmgtKMGT", s[n-1]) >= 0 {
		s = s[:n-1]
	}
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool { return c < '0' || c > '9' })
}

// validScheme follows https://www.rfc-editor.org/rfc/rfc3986#section-3.1.
func validScheme(s string) bool {
	for i, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z':
		case i > 0 && ('0' <= c && c <= '9' || c == '+' || c == '-' || c == '.'):
		default:
			return false
		}
	}
	return s != ""
}

// notInURI tells what must be percent-encoded wherever it stands in a URI.
// https://www.rfc-editor.org/rfc/rfc3986#section-2
func notInURI(c rune) bool {
	return c <= ' ' || c > '~' || strings.ContainsRune("\"<>\\^`{|}", c)
}

// notInMailbox tells what no local part of a report's recipient has: it goes into an envelope, into a header field and
// into the log. RFC 5321 quotes such a thing; no reporting address does.
func notInMailbox(c rune) bool {
	return c <= ' ' || c > '~' || strings.ContainsRune("\"(),:;<>@[\\]", c)
}

package auth

import (
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

const (
	// maxDomainText is the longest domain that is brought into canonical form: a U-label takes at most four octets for
	// one of its characters, and the A-labels must come to 253.
	maxDomainText = 1024
	// maxLabelText is the longest label that is made an A-label: 63 characters of four octets. Some characters stand
	// for eighteen others, and the work grows with the square of what a label becomes.
	maxLabelText = 4 * maxDomainLabel
	// https://www.rfc-editor.org/rfc/rfc1035#section-2.3.4, without the length octets of the wire
	maxDomainName  = 253
	maxDomainLabel = 63

	// maxWalkQueries is the number of names that a tree walk asks for: the name itself, then those with at most
	// maxWalkLabels labels. https://www.rfc-editor.org/rfc/rfc9989#section-4.10
	maxWalkQueries = 8
	maxWalkLabels  = 7
)

// CanonicalDomain brings a domain from a message or from the envelope into the form in which domains are compared,
// asked for and printed: A-labels, lower case, without a final dot, nothing but letters, digits, hyphens and
// underscores. It reports false where domain is not one. U-labels become A-labels as
// https://www.rfc-editor.org/rfc/rfc9989#section-5.3.1 demands.
func CanonicalDomain(domain string) (string, bool) {
	if len(domain) > maxDomainText {
		return "", false
	}
	if !asciiOnly(domain) {
		if !utf8.ValidString(domain) || slices.ContainsFunc(strings.FieldsFunc(domain, isDot), tooLongLabel) {
			return "", false
		}
		profile := idna.New(idna.MapForLookup(), idna.Transitional(false), idna.StrictDomainName(false))
		var err error
		if domain, err = profile.ToASCII(domain); err != nil {
			return "", false
		}
	}
	domain = strings.ToLower(strings.TrimSuffix(domain, "."))
	if len(domain) > maxDomainName {
		return "", false
	}
	for label := range strings.SplitSeq(domain, ".") {
		if label == "" || len(label) > maxDomainLabel || strings.ContainsFunc(label, notInLabel) {
			return "", false
		}
	}
	return domain, true
}

// isDot tells what separates labels: https://www.rfc-editor.org/rfc/rfc3490#section-3.1
func isDot(c rune) bool { return c == '.' || c == '\u3002' || c == '\uff0e' || c == '\uff61' }

func tooLongLabel(label string) bool { return len(label) > maxLabelText }

// notInLabel tells what no label of ours has. Underscores are no part of a host name, but some domains have them and
// nothing is endangered by one.
func notInLabel(c rune) bool {
	switch {
	case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
		return false
	}
	return true
}

func asciiOnly(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// within reports whether the canonical name is domain or below it.
func within(name, domain string) bool {
	return name == domain || strings.HasSuffix(name, "."+domain)
}

// lastLabels returns the n rightmost labels of name, or all of it where it has no more.
func lastLabels(name string, n int) string {
	for i := len(name) - 1; i >= 0; i-- {
		if name[i] == '.' {
			if n--; n == 0 {
				return name[i+1:]
			}
		}
	}
	return name
}

func countLabels(name string) int { return strings.Count(name, ".") + 1 }

// walkNames returns the names at which a tree walk from domain looks for records, longest first, domain included.
// https://www.rfc-editor.org/rfc/rfc9989#section-4.10
func walkNames(domain string) []string {
	names := append(make([]string, 0, maxWalkQueries), domain)
	for n := min(countLabels(domain)-1, maxWalkLabels); n > 0; n-- {
		names = append(names, lastLabels(domain, n))
	}
	return names
}

// A walkStep is what was found at one name of a tree walk.
type walkStep struct {
	name   string
	record *DMARCRecord // nil: none, or several
}

// ends reports whether the walk goes no further up.
func (s walkStep) ends() bool { return s.record != nil && s.record.PSD != PSDUnknown }

// organizational finds the organizational domain among the steps of a walk that began at the first of them and ended
// at the last. https://www.rfc-editor.org/rfc/rfc9989#section-4.10.2
func organizational(steps []walkStep) string {
	start := steps[0].name
	org := start
	for i, s := range steps {
		if s.record == nil {
			continue
		}
		switch {
		case s.record.PSD == PSDNo:
			return s.name
		case s.record.PSD == PSDYes && i > 0:
			return lastLabels(start, countLabels(s.name)+1)
		}
		org = s.name // fewer labels than any before
	}
	return org
}

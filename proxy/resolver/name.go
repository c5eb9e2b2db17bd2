package resolver

import (
	"strings"

	"github.com/miekg/dns"
	"golang.org/x/net/idna"
)

// question is what is asked, in class IN. Its name is canonical: lower case, with a final dot, octets that cannot be printed
// and those that a zone file gives a meaning escaped. Two names are equal on the wire when their canonical forms are.
type question struct {
	name  string
	qtype uint16
}

// newProfile turns U-labels into A-labels and leaves alone what is no host name: "_dmarc" is a label like any other.
func newProfile() *idna.Profile {
	return idna.New(idna.MapForLookup(), idna.Transitional(false), idna.StrictDomainName(false))
}

// newQuestion brings name into canonical form. It reports false where name cannot stand in the DNS: empty or overlong
// labels, too long a name, not a valid U-label. The root cannot be asked for.
func (r *Resolver) newQuestion(name string, qtype uint16) (question, bool) {
	name = strings.TrimSuffix(name, ".")
	if name == "" || len(name) > maxName {
		return question{}, false
	}
	if !isASCII(name) {
		var err error
		if name, err = r.profile.ToASCII(name); err != nil {
			return question{}, false
		}
	}
	// A backslash in a name that came from a message is an octet, not an escape.
	var wire [256]byte
	n, err := dns.PackDomainName(strings.ReplaceAll(name, `\`, `\\`)+".", wire[:], 0, nil, false)
	if err != nil {
		return question{}, false
	}
	name, _, err = dns.UnpackDomainName(wire[:n], 0) // refuses more than 255 octets
	if err != nil {
		return question{}, false
	}
	return question{name: dns.CanonicalName(name), qtype: qtype}, true
}

// plainName is a canonical name without its final dot; the root stays ".".
func plainName(canonical string) string {
	if canonical == "." {
		return canonical
	}
	return strings.TrimSuffix(canonical, ".")
}

// isHostName reports whether name consists of letters, digits, hyphens and underscores, in labels that are not empty.
// Underscores are no part of a host name, but some hosts have them and nothing is endangered by one.
func isHostName(name string) bool {
	for label := range strings.SplitSeq(name, ".") {
		if label == "" {
			return false
		}
		for _, c := range []byte(label) {
			switch {
			case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
			default:
				return false
			}
		}
	}
	return true
}

// isLocalhost reports whether the canonical name is "localhost" or below it.
func isLocalhost(name string) bool {
	return name == "localhost." || strings.HasSuffix(name, ".localhost.")
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// unescape appends to b the octets that s stands for: the DNS library gives character strings as a zone file writes them,
// `\"` for a quote and `\200` for an octet that cannot be printed.
func unescape(b *strings.Builder, s string) {
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		if i+2 < len(s) && isDigit(s[i]) && isDigit(s[i+1]) && isDigit(s[i+2]) {
			b.WriteByte((s[i]-'0')*100 + (s[i+1]-'0')*10 + s[i+2] - '0')
			i += 2
			continue
		}
		b.WriteByte(s[i])
	}
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// clip shortens a name that is not one, for an error.
func clip(name string) string {
	if len(name) > 64 {
		return name[:64] + "..."
	}
	return name
}

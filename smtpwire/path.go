package smtpwire

import (
	"net/netip"
	"strings"
)

// A Path is a reverse-path or a forward-path. Paths are compared with ==, octet
// by octet.
//
// Local is raw, as it came: quotes and backslashes are kept, since only the
// mailbox's own host may take two spellings for one. Domain is raw too, with
// the brackets of an address literal ("[192.0.2.1]", "[IPv6:2001:db8::1]"). The
// null path of a bounce has neither, and <postmaster> in RCPT has no Domain.
type Path struct{ Local, Domain string }

const (
	// maxLocal is the longest local part that is taken. RFC 5321 asks for 64
	// octets and for no limit where that can be had; the variable return
	// paths of mailing lists (VERP, SRS, BATV) are longer in real life.
	//
	// https://www.rfc-editor.org/rfc/rfc5321#section-4.5.3.1.1
	maxLocal = 255

	// https://www.rfc-editor.org/rfc/rfc5321#section-4.5.3.1.2
	maxDomain = 255

	// https://www.rfc-editor.org/rfc/rfc1035#section-2.3.4
	maxLabel = 63
)

// IsNull reports whether p is the null reverse-path "<>".
func (p Path) IsNull() bool { return p == Path{} }

// String returns p as it stands in MAIL and RCPT: "<a@b>", "<postmaster>",
// "<>".
func (p Path) String() string { return "<" + p.Mailbox() + ">" }

// Mailbox returns p without its angle brackets; "" for the null path.
func (p Path) Mailbox() string {
	if p.Domain == "" {
		return p.Local
	}
	return p.Local + "@" + p.Domain
}

// NeedsUTF8 reports whether p has characters outside ASCII, so that it can
// travel only in a transaction with the SMTPUTF8 parameter.
//
// https://www.rfc-editor.org/rfc/rfc6531#section-3.4
func (p Path) NeedsUTF8() bool { return !asciiOnly(p.Local) || !asciiOnly(p.Domain) }

// appendTo appends p in its angle brackets.
func (p Path) appendTo(b []byte) []byte {
	b = append(b, '<')
	b = appendText(b, p.Local)
	if p.Domain != "" {
		b = append(b, '@')
		b = appendText(b, p.Domain)
	}
	return append(b, '>')
}

// cutPath parses the path at the start of s and returns what follows it. s is
// valid UTF-8 without control characters. The source route of a path is checked
// and dropped. problem is "" or says, for people, what is wrong.
//
// https://www.rfc-editor.org/rfc/rfc5321#section-4.1.2
func cutPath(s string) (p Path, rest, problem string) {
	s, ok := strings.CutPrefix(s, "<")
	if !ok {
		return Path{}, s, "it must stand in angle brackets"
	}
	if rest, ok = strings.CutPrefix(s, ">"); ok {
		return Path{}, rest, ""
	}
	routed := strings.HasPrefix(s, "@")
	if routed {
		if s, problem = cutRoute(s); problem != "" {
			return Path{}, s, problem
		}
	}
	if p.Local, s, problem = cutLocal(s); problem != "" {
		return Path{}, s, problem
	}
	// "<Postmaster>", the one forward-path without a domain.
	if rest, ok = strings.CutPrefix(s, ">"); ok && !routed && foldEqual(p.Local, "postmaster") {
		return p, rest, ""
	}
	if s, ok = strings.CutPrefix(s, "@"); !ok {
		return Path{}, s, `"@" and a domain must follow the local part`
	}
	if p.Domain, s, problem = cutDomain(s, true); problem != "" {
		return Path{}, s, problem
	}
	if rest, ok = strings.CutPrefix(s, ">"); !ok {
		return Path{}, s, `only ">" may follow the domain`
	}
	return p, rest, ""
}

// cutRoute skips a source route.
//
//	A-d-l          = At-domain *( "," At-domain )
//	               ; Note that this form, the so-called "source
//	               ; route", MUST BE accepted, SHOULD NOT be
//	               ; generated, and SHOULD be ignored.
func cutRoute(s string) (rest, problem string) {
	for strings.HasPrefix(s, "@") {
		if _, s, problem = cutDomain(s[1:], false); problem != "" {
			return s, "source route: " + problem
		}
		rest, ok := strings.CutPrefix(s, ":")
		if ok {
			return rest, ""
		}
		if s, ok = strings.CutPrefix(s, ","); !ok {
			break
		}
	}
	return s, `source route: it must be "@domain,@domain:" before the address`
}

// cutLocal parses a Local-part: a Dot-string or a Quoted-string.
func cutLocal(s string) (local, rest, problem string) {
	n := 0
	if strings.HasPrefix(s, `"`) {
		n, problem = scanQuoted(s)
	} else {
		n, problem = scanDotString(s)
	}
	switch {
	case problem != "":
		return "", s, problem
	case n > maxLocal:
		return "", s, "the local part is longer than 255 octets"
	}
	return s[:n], s[n:], ""
}

// scanDotString returns the length of the Dot-string that s begins with. Dots
// may stand anywhere: there are mailboxes like "a..b" and "a." in the world,
// which the next hop may know though RFC 5321 §4.1.2 does not, and nothing in
// the command depends on where a dot is.
func scanDotString(s string) (n int, problem string) {
	for n < len(s) && (isAtext(s[n]) || s[n] == '.') {
		n++
	}
	if n == 0 {
		return 0, "the local part is empty or malformed"
	}
	return n, ""
}

// scanQuoted returns the length of the Quoted-string that s begins with, both
// quotes included. A ">" or "@" inside belongs to the local part.
//
//	Quoted-string  = DQUOTE *QcontentSMTP DQUOTE
//	quoted-pairSMTP  = %d92 %d32-126
//	qtextSMTP      = %d32-33 / %d35-91 / %d93-126  / UTF8-non-ascii
func scanQuoted(s string) (n int, problem string) {
	for n = 1; n < len(s); n++ {
		switch s[n] {
		case '"':
			return n + 1, ""
		case '\\':
			n++
			if n < len(s) && s[n] >= 0x80 {
				return 0, "only ASCII may follow a backslash"
			}
		}
	}
	return 0, "the quoted local part has no end"
}

// isAtext reports whether c may stand in an Atom. Octets above ASCII are
// UTF8-non-ascii.
//
// https://www.rfc-editor.org/rfc/rfc5322#section-3.2.3
// https://www.rfc-editor.org/rfc/rfc6531#section-3.3
func isAtext(c byte) bool {
	return isAlnum(c) || c >= 0x80 || strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) >= 0
}

// cutDomain parses a Domain or, where literal is true, an address-literal.
//
//	Domain         = sub-domain *("." sub-domain)
//	sub-domain     = Let-dig [Ldh-str]  / U-label
//
// An underscore, and a hyphen at the end of a label, are let through although
// RFC 5321 §4.1.2 would have them refused with 501: such names are in use, and
// whether mail for them is taken is for the next hop to say.
func cutDomain(s string, literal bool) (domain, rest, problem string) {
	if literal && strings.HasPrefix(s, "[") {
		return cutLiteral(s)
	}
	n := 0
	for n < len(s) && (isAlnum(s[n]) || s[n] == '-' || s[n] == '_' || s[n] == '.' || s[n] >= 0x80) {
		n++
	}
	if n > maxDomain {
		return "", s, "the domain is longer than 255 octets"
	}
	domain, rest = s[:n], s[n:]
	for label := range strings.SplitSeq(domain, ".") {
		switch {
		case label == "":
			return "", s, "the domain is empty, malformed or has a misplaced dot"
		case len(label) > maxLabel && asciiOnly(label):
			return "", s, "a label of the domain is longer than 63 octets"
		}
	}
	return domain, rest, ""
}

// cutLiteral parses an address-literal. Of the general form "tag:content" only
// the registered tag "IPv6" is known.
//
// https://www.rfc-editor.org/rfc/rfc5321#section-4.1.3
func cutLiteral(s string) (domain, rest, problem string) {
	end := strings.IndexByte(s, ']')
	if end < 0 || end >= maxDomain {
		return "", s, "the address literal has no end"
	}
	text, v6 := s[1:end], false
	if len(text) > len("IPv6:") && foldEqual(text[:len("IPv6:")], "IPv6:") {
		text, v6 = text[len("IPv6:"):], true
	}
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Is6() != v6 || addr.Zone() != "" {
		return "", s, "the address literal is malformed"
	}
	return s[:end+1], s[end+1:], ""
}

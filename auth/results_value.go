package auth

import (
	"errors"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxLocalPart is what the doors take: RFC 5321 asks for 64 octets, variable return paths are longer.
// https://www.rfc-editor.org/rfc/rfc5321#section-4.5.3.1.1
const maxLocalPart = 255

// CheckID says whether id can be the authserv-id of the fields that we write: a domain name, or a token.
//
// https://www.rfc-editor.org/rfc/rfc8601#section-2.5
func CheckID(id string) error {
	switch {
	case id == "":
		return errors.New("authserv-id: it is empty")
	case len(id) > maxDomainName:
		return errors.New("authserv-id: it is longer than a domain name can be")
	case writtenID(id) == "":
		return errors.New("authserv-id: it must be a domain name")
	}
	return nil
}

// writtenID returns the authserv-id as it is written, in ASCII; "" for one that CheckID refuses. A token that consists
// of digits would be read as a version by whoever misses the id before it.
func writtenID(id string) string {
	if ascii, ok := writtenDomain(id); ok {
		id = ascii
	}
	if !isToken(id) || !asciiOnly(id) || strings.Trim(id, "0123456789.-_") == "" || len(id) > maxDomainName {
		return ""
	}
	return id
}

// writtenDomain returns a domain name as it is written: canonical, and something of a name.
func writtenDomain(s string) (string, bool) {
	s, ok := CanonicalDomain(s)
	return s, ok && strings.Trim(s, ".-_") != ""
}

// isTokenChar: token of MIME. International mail adds whatever is not ASCII.
//
// https://www.rfc-editor.org/rfc/rfc2045#section-5.1
func isTokenChar(c byte) bool {
	return c > ' ' && c != 0x7f && strings.IndexByte(`()<>@,;:\"/[]?=`, c) < 0
}

func isToken(s string) bool {
	for i := range len(s) {
		if !isTokenChar(s[i]) {
			return false
		}
	}
	return s != ""
}

// written returns the value of a property as it stands in a field, and whether it is what its kind promises.
func written(kind valueKind, v string, international bool) (string, bool) {
	if v == "" || len(v) > maxWrittenValue {
		return "", false
	}
	switch kind {
	case kindDomain:
		return writtenDomain(v)
	case kindHelo:
		return writtenHelo(v)
	case kindMailbox:
		return writtenMailbox(v, international)
	case kindUser:
		if strings.Contains(v, "@") {
			return writtenMailbox(v, international)
		}
		return writtenUser(v, international)
	case kindSelector:
		return writtenDomain(v)
	case kindAddress:
		return writtenAddress(v)
	case kindBase64:
		// Always quoted: what comes after "+", "/" and "=" is lost on some readers otherwise.
		return `"` + v + `"`, strings.IndexFunc(v, notBase64) < 0
	case kindNumber:
		return v, len(v) <= 9 && strings.Trim(v, "0123456789") == ""
	case kindWord:
		return strings.ToLower(v), len(v) <= maxDomainLabel && strings.IndexFunc(v, notInKeyword) < 0
	case kindText:
		v = plainText(v, international)
		return quotedUnlessToken(v), v != ""
	}
	return "", false
}

// notInKeyword: letters of either case, digits, hyphens. An underscore is none of them, but in use.
//
// https://www.rfc-editor.org/rfc/rfc5321#section-4.1.2
func notInKeyword(r rune) bool { return notAlnum(r) && r != '-' && r != '_' }

func notAlnum(r rune) bool { return (r < '0' || r > '9') && (r|0x20 < 'a' || r|0x20 > 'z') }

func notBase64(r rune) bool { return notAlnum(r) && r != '+' && r != '/' && r != '=' }

// writtenHelo takes what clients say of themselves: a name or an address literal, which is no domain-name here and must
// be quoted.
//
// https://www.rfc-editor.org/rfc/rfc5321#section-4.1.3
func writtenHelo(v string) (string, bool) {
	inner, literal := strings.CutPrefix(v, "[")
	inner, closed := strings.CutSuffix(inner, "]")
	if !literal || !closed {
		return writtenDomain(v)
	}
	tag := ""
	if len(inner) > len("IPv6:") && strings.EqualFold(inner[:len("IPv6:")], "IPv6:") {
		tag, inner = "IPv6:", inner[len("IPv6:"):]
	}
	addr, err := netip.ParseAddr(inner)
	if err != nil || addr.Zone() != "" || addr.Is6() != (tag != "") {
		return "", false
	}
	return `"[` + tag + addr.String() + `]"`, true
}

func writtenAddress(v string) (string, bool) {
	addr, err := netip.ParseAddr(v)
	if err != nil || addr.Zone() != "" {
		return "", false
	}
	return quotedUnlessToken(addr.Unmap().String()), true
}

// writtenMailbox writes [ [ local-part ] "@" ] domain-name. A local part that cannot be written here, or that could be
// read as more than that, goes without saying: the domain is what was verified.
func writtenMailbox(v string, international bool) (string, bool) {
	at := strings.LastIndexByte(v, '@')
	domain, ok := writtenDomain(v[at+1:])
	if !ok || at < 0 {
		return domain, ok
	}
	if at == 0 {
		return "@" + domain, true
	}
	local, ok := writtenLocal(v[:at], international)
	if !ok {
		return domain, true
	}
	return local + "@" + domain, true
}

// writtenLocal writes a local part, quoted where it must be.
func writtenLocal(local string, international bool) (string, bool) {
	if local[0] == '"' {
		content, rest, ok := cutQuoted(local)
		if !ok || rest != "" {
			return "", false
		}
		local = content
	}
	if isDotAtom(local) {
		return local, isHarmless(local, international)
	}
	return quoted(local), isHarmless(local, international)
}

// isHarmless refuses what a reader might take for the end of the value, semicolons and parentheses even where they are
// quoted, equals signs, since filters look for "dmarc=pass" wherever it stands, and question marks, since some readers
// decode encoded words before they parse, and the first "=" of one may be ours.
func isHarmless(s string, international bool) bool {
	return len(s) <= maxLocalPart && isPrintable(s, international) && !strings.ContainsAny(s, ";()=?")
}

// writtenUser writes the name of an account, which need not be a mailbox.
func writtenUser(v string, international bool) (string, bool) {
	return quotedUnlessToken(v), isHarmless(v, international)
}

// isPrintable reports whether s can stand in a field: in ASCII, or in UTF-8 where international mail has it so.
func isPrintable(s string, international bool) bool {
	if !utf8.ValidString(s) || !international && !asciiOnly(s) {
		return false
	}
	for _, r := range s {
		if r != ' ' && !unicode.IsGraphic(r) || r > unicode.MaxASCII && unicode.IsSpace(r) {
			return false
		}
	}
	return true
}

// https://www.rfc-editor.org/rfc/rfc5322#section-3.2.3
func isDotAtom(s string) bool {
	for atom := range strings.SplitSeq(s, ".") {
		if atom == "" {
			return false
		}
		for i := range len(atom) {
			if c := atom[i]; c <= ' ' || c == 0x7f || strings.IndexByte(`()<>[]:;@\,."`, c) >= 0 {
				return false
			}
		}
	}
	return true
}

func quotedUnlessToken(s string) string {
	if isToken(s) {
		return s
	}
	return quoted(s)
}

// quoted returns printable text as a quoted-string.
func quoted(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			b.WriteByte('\\')
		}
		b.WriteByte(s[i])
	}
	b.WriteByte('"')
	return b.String()
}

// cutQuoted takes the quoted-string at the start of unfolded text apart.
func cutQuoted(s string) (content, rest string, ok bool) {
	if s == "" || s[0] != '"' {
		return "", s, false
	}
	plain := strings.IndexAny(s[1:], `"\`)
	if plain >= 0 && s[1+plain] == '"' { // no quoted-pair: nothing to copy
		return s[1 : 1+plain], s[plain+2:], true
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], true
		case '\\':
			if i++; i == len(s) {
				return "", "", false
			}
		}
		b.WriteByte(s[i])
	}
	return "", "", false
}

// plainText makes text for people fit for a field: one line, single spaces, no semicolon and no parenthesis, no
// encoded word, not too long.
func plainText(s string, international bool) string {
	s = commentText(s, international)
	return strings.ReplaceAll(strings.ReplaceAll(s, "(", "["), ")", "]")
}

// commentText is plainText for a comment, where parentheses can be escaped.
func commentText(s string, international bool) string {
	if len(s) > 4*maxWrittenText {
		s = s[:4*maxWrittenText]
	}
	s = strings.Map(func(r rune) rune {
		switch {
		case r == ';':
			return ','
		case unicode.IsSpace(r):
			return ' '
		case r == utf8.RuneError, !unicode.IsGraphic(r), r > unicode.MaxASCII && !international:
			return '?'
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	s = strings.ReplaceAll(s, "=?", "=_")
	if len(s) > maxWrittenText {
		s = s[:maxWrittenText]
		for !utf8.ValidString(s) {
			s = s[:len(s)-1]
		}
	}
	return strings.TrimSpace(s)
}

package auth

import (
	"net/netip"
	"slices"
	"strings"
)

// spfTerm is one directive or modifier of a record that keeps the grammar of
// https://www.rfc-editor.org/rfc/rfc7208#section-12
type spfTerm struct {
	head    string // up to the domain-spec: "-include:", "a", "ip4:192.0.2.0/24" (all of it)
	spec    string // the domain-spec
	cidr    string // "/24//64" behind it
	ignored bool   // a modifier that decides nothing: exp= and unknown ones
}

// isSPFRecord reports whether a TXT record is one of SPF, https://www.rfc-editor.org/rfc/rfc7208#section-4.5
func isSPFRecord(txt string) bool {
	const version = "v=spf1"
	return len(txt) >= len(version) && strings.EqualFold(txt[:len(version)], version) &&
		(len(txt) == len(version) || txt[len(version)] == ' ')
}

// parseSPFRecord checks a whole record.
func parseSPFRecord(record string) (terms []spfTerm, ok bool) {
	if len(record) > maxSPFRecord {
		return nil, false
	}
	seen := make(map[string]bool) // modifiers that may stand once, https://www.rfc-editor.org/rfc/rfc7208#section-6
	for field := range strings.SplitSeq(record[len("v=spf1"):], " ") {
		if field == "" {
			continue
		}
		t, modifier, ok := parseSPFTerm(field)
		if !ok || modifier != "" && seen[modifier] {
			return nil, false
		}
		seen[modifier] = modifier != ""
		terms = append(terms, t)
	}
	return terms, true
}

// parseSPFTerm reads one term; modifier is "redirect" or "exp" where it is one of these.
func parseSPFTerm(field string) (t spfTerm, modifier string, ok bool) {
	if name, value, found := strings.Cut(field, "="); found && isSPFModifierName(name) {
		switch name = strings.ToLower(name); name {
		case "redirect", "exp":
			return spfTerm{head: name + "=", spec: value, ignored: name == "exp"}, name, isSPFDomainSpec(value)
		}
		return spfTerm{ignored: true}, "", isSPFMacroString(value, true)
	}
	qualifier, rest := "", field
	if strings.IndexByte("+-?~", field[0]) >= 0 {
		qualifier, rest = field[:1], field[1:]
	}
	end := strings.IndexAny(rest, ":/")
	if end < 0 {
		end = len(rest)
	}
	name, arg := strings.ToLower(rest[:end]), rest[end:]
	switch name {
	case "all":
		return spfTerm{head: qualifier + name}, "", arg == ""
	case "include", "exists":
		spec, found := strings.CutPrefix(arg, ":")
		return spfTerm{head: qualifier + name + ":", spec: spec}, "", found && isSPFDomainSpec(spec)
	case "a", "mx":
		spec, cidr, valid := splitSPFPrefix(arg)
		return spfWithDomain(qualifier+name, spec, cidr, valid)
	case "ptr":
		return spfWithDomain(qualifier+name, arg, "", true)
	case "ip4", "ip6":
		network, found := strings.CutPrefix(arg, ":")
		return spfTerm{head: qualifier + name + ":" + network}, "", found && isSPFNetwork(network, name == "ip4")
	}
	return spfTerm{}, "", false
}

// spfWithDomain makes a term of a mechanism whose domain-spec may be left out.
func spfWithDomain(head, arg, cidr string, valid bool) (spfTerm, string, bool) {
	if arg == "" {
		return spfTerm{head: head, cidr: cidr}, "", valid
	}
	spec, found := strings.CutPrefix(arg, ":")
	return spfTerm{head: head + ":", spec: spec, cidr: cidr}, "", valid && found && isSPFDomainSpec(spec)
}

// splitSPFPrefix cuts a dual-cidr-length off the end. A domain-spec can end neither in "/" nor in a number behind one.
func splitSPFPrefix(s string) (rest, cidr string, ok bool) {
	cut := len(s)
	tail := func(sep string, most int) bool {
		digits := cut
		for digits > 0 && isDigit(s[digits-1]) {
			digits--
		}
		if digits == cut || !strings.HasSuffix(s[:digits], sep) || sep == "/" && strings.HasSuffix(s[:digits], "//") {
			return true // none here
		}
		ok := isSPFPrefixLength(s[digits:cut], most)
		cut = digits - len(sep)
		return ok
	}
	ok = tail("//", 128) && tail("/", 32)
	return s[:cut], s[cut:], ok
}

// isSPFPrefixLength reads ip4-cidr-length and ip6-cidr-length: no leading zero.
func isSPFPrefixLength(s string, most int) bool {
	if s == "" || len(s) > 3 || len(s) > 1 && s[0] == '0' {
		return false
	}
	n := 0
	for i := range len(s) {
		if !isDigit(s[i]) {
			return false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n <= most
}

func isSPFNetwork(s string, v4 bool) bool {
	network, length, found := strings.Cut(s, "/")
	most := 128
	if v4 {
		most = 32
	}
	if found && !isSPFPrefixLength(length, most) {
		return false
	}
	addr, err := netip.ParseAddr(network)
	return err == nil && addr.Zone() == "" && addr.Is4() == v4
}

// isSPFModifierName reads name = ALPHA *( ALPHA / DIGIT / "-" / "_" / "." ).
func isSPFModifierName(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isAlpha(c) && (i == 0 || !isDigit(c) && c != '-' && c != '_' && c != '.') {
			return false
		}
	}
	return s != ""
}

// isSPFDomainSpec reads domain-spec = macro-string domain-end, https://www.rfc-editor.org/rfc/rfc7208#section-7.1
func isSPFDomainSpec(s string) bool {
	if !isSPFMacroString(s, false) || s == "" {
		return false
	}
	if s[len(s)-1] == '}' || strings.HasSuffix(s, "%%") || strings.HasSuffix(s, "%_") || strings.HasSuffix(s, "%-") {
		return true // ends in a macro-expand
	}
	s = strings.TrimSuffix(s, ".")
	dot := strings.LastIndexByte(s, '.')
	if dot < 0 {
		return false
	}
	top := s[dot+1:]
	if top == "" || top[0] == '-' || top[len(top)-1] == '-' {
		return false
	}
	for i := range len(top) {
		if !isAlnum(top[i]) && top[i] != '-' {
			return false
		}
	}
	return strings.Trim(top, "0123456789") != ""
}

// isSPFMacroString reads a macro-string. The letters c, r and t belong into explanations and the values of unknown
// modifiers only (https://www.rfc-editor.org/rfc/rfc7208#section-7.2): anyLetter allows them.
func isSPFMacroString(s string, anyLetter bool) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < 0x21 || s[i] > 0x7e {
			return false
		}
		if s[i] != '%' {
			continue
		}
		if i++; i == len(s) {
			return false
		}
		switch s[i] {
		case '%', '_', '-':
			continue
		case '{':
		default:
			return false
		}
		m, ok := parseSPFMacro(s[i+1:])
		if !ok || !anyLetter && strings.IndexByte("crt", m.letter) >= 0 {
			return false
		}
		i += m.length
	}
	return true
}

// spfMacro is the inside of %{...}.
type spfMacro struct {
	letter     byte // lower case
	keep       int  // labels to keep from the right; 0: all
	reverse    bool
	delimiters string
	length     int // octets, with the closing brace
}

// parseSPFMacro reads what follows "%{".
func parseSPFMacro(s string) (m spfMacro, ok bool) {
	end := strings.IndexByte(s, '}')
	if end < 1 {
		return m, false
	}
	m.letter, m.length = s[0]|0x20, end+1
	if !isAlpha(s[0]) || strings.IndexByte("slodiphcrtv", m.letter) < 0 {
		return m, false
	}
	rest := s[1:end]
	digits := 0
	for digits < len(rest) && isDigit(rest[digits]) {
		m.keep = min(m.keep*10+int(rest[digits]-'0'), maxDomainName)
		digits++
	}
	if digits > 0 && m.keep == 0 { // "the DIGIT transformer MUST be non-zero"
		return m, false
	}
	rest = rest[digits:]
	if rest != "" && rest[0]|0x20 == 'r' {
		m.reverse, rest = true, rest[1:]
	}
	m.delimiters = rest
	return m, strings.Trim(rest, ".-+,/_=") == ""
}

// containsSPFMacro reports whether a macro-string uses the macro of that letter.
func containsSPFMacro(s string, letter byte) bool {
	return strings.Contains(s, "%{"+string(letter)) || strings.Contains(s, "%{"+string(letter-0x20))
}

// expandSPFNames puts name in the place of each %{p}, transformed as it asks.
func expandSPFNames(s, name string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		m, ok := parseSPFMacro(s[min(i+2, len(s)):])
		if s[i+1] != '{' || !ok || m.letter != 'p' {
			b.WriteString(s[i : i+2]) // another macro, for the library
			i++
			continue
		}
		delimiters := m.delimiters
		if delimiters == "" {
			delimiters = "."
		}
		labels := strings.FieldsFunc(name, func(r rune) bool { return strings.ContainsRune(delimiters, r) })
		if m.reverse {
			slices.Reverse(labels)
		}
		if m.keep > 0 {
			labels = labels[len(labels)-min(m.keep, len(labels)):]
		}
		b.WriteString(strings.Join(labels, "."))
		i += 1 + m.length
	}
	return b.String()
}

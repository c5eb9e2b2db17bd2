package auth

import (
	"bytes"
	"encoding/base64"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of the search for our id. Comments and blanks around it are skipped, however long; only what could be the id
// is kept.
const (
	// maxClaim is how much of a field can be its id, without comments: the longest domain name in UTF-8, and as much
	// again for characters that say nothing.
	maxClaim = 2 * maxDomainText

	// maxInternational bounds how many international names of one header are compared with ours, which takes some
	// microseconds each. Real mail has a handful of fields; in a header with more such names than this all further ones
	// are taken for ours.
	maxInternational = 1000

	// maxEncodedWords bounds the encoded words that are decoded. A field that has more of them before its first
	// semicolon is taken for a disguise, and so are all such fields of a header that has many: there is no good reason
	// for a single one.
	maxEncodedWords  = 16
	maxEncodedFields = 100
)

// ownIDs are our ids, and what it takes to find them in one header.
type ownIDs struct {
	ids           []string // as canonicalID has them
	international int      // names that were compared
	encoded       int      // fields with encoded words
	words         claimWords
}

func newOwnIDs(ids []string) *ownIDs {
	own := &ownIDs{}
	for _, id := range ids {
		if id = canonicalID(id); id != "" {
			own.ids = append(own.ids, id)
		}
	}
	return own
}

// canonicalID returns an id in the form in which two of them are the same: A-labels, lower case, no dots at the end,
// and without characters that nobody sees.
func canonicalID(id string) string {
	if !asciiOnly(id) {
		id = strings.Map(func(r rune) rune {
			if saysNothing(r) {
				return -1
			}
			return r
		}, id)
	}
	id = strings.TrimRightFunc(id, isDot)
	if domain, ok := CanonicalDomain(id); ok {
		return domain
	}
	return strings.ToLower(id)
}

// saysNothing tells the characters beyond ASCII that are no part of a name, among them what is no character in UTF-8:
// some readers drop them, to others they are blanks. A blank of Latin-1, for one, is such an octet.
func saysNothing(r rune) bool {
	return r >= utf8.RuneSelf && (r == utf8.RuneError || unicode.IsSpace(r) || unicode.Is(unicode.Cf, r))
}

// has reports whether id is one of ours.
func (own *ownIDs) has(id []byte) bool {
	if bytes.IndexFunc(id, notASCII) >= 0 {
		return own.hasInternational(id)
	}
	id = bytes.TrimRight(id, ".")
	for _, our := range own.ids {
		if len(our) == len(id) && strings.EqualFold(our, string(id)) {
			return true
		}
	}
	return false
}

func (own *ownIDs) hasInternational(id []byte) bool {
	own.international++
	return own.international > maxInternational || slices.Contains(own.ids, canonicalID(string(id)))
}

func notASCII(r rune) bool { return r > unicode.MaxASCII }

// claimed reports whether a field claims to be ours, and whether it is of the version that we know. value is what
// follows the colon, folded.
func (own *ownIDs) claimed(value []byte) (claimed, known bool) {
	c := readClaim(value)
	if c.encoded {
		if own.encoded++; own.encoded > maxEncodedFields {
			return true, c.version1
		}
		// Some readers put a blank where an encoded word begins or ends.
		for _, divider := range []string{"", " "} {
			if decoded, ok := decodeWords(value[:c.length], divider); !ok || own.begins(decoded) {
				return true, c.version1
			}
		}
	}
	if c.wellFormed {
		return own.has(c.id) || c.odd && (own.begins(c.id) || own.begins(value)), c.version1
	}
	return own.begins(value), c.version1
}

// begins reports whether some reading of a field that is not well-formed begins with an id of ours.
func (own *ownIDs) begins(value []byte) bool {
	return own.reads(value, false) || own.reads(value, true)
}

// reads reports whether an id of ours comes of putting the words of a field together again.
func (own *ownIDs) reads(value []byte, sloppy bool) bool {
	w := &own.words
	w.read(value, sloppy)
	foreign := bytes.IndexFunc(w.text, notASCII)
	for _, end := range w.ends {
		if foreign >= 0 && end > foreign {
			if own.hasInternational(w.text[:end]) {
				return true
			}
			continue
		}
		for _, our := range own.ids {
			if len(bytes.TrimRight(w.text[:end], ".")) == len(our) && strings.EqualFold(our, string(w.text[:len(our)])) {
				return true
			}
		}
	}
	return w.cut && (foreign >= 0 || w.hidden)
}

// A claim is what the start of a field says, up to its first semicolon.
type claim struct {
	wellFormed bool   // an id, perhaps a version, and then a semicolon or nothing
	id         []byte // without quotes
	odd        bool   // the id has what it should not have: octets in quotes, or what says nothing
	version1   bool
	encoded    bool // there may be encoded words
	length     int  // octets up to the semicolon
}

// readClaim reads the start of a field by the grammar.
func readClaim(value []byte) claim {
	s := claimScanner{rest: value}
	c := claim{version1: true}
	ok := s.skip()
	quoted := len(s.rest) > 0 && s.rest[0] == '"'
	var id []byte
	if ok && quoted {
		id, ok = s.quoted()
		c.odd = slices.ContainsFunc(id, func(b byte) bool { return !isTokenChar(b) })
	} else if ok {
		id = s.token()
	}
	c.odd = c.odd || bytes.ContainsFunc(id, saysNothing)
	ok = ok && len(id) > 0 && len(id) <= maxClaim && s.skip()
	if digits := s.digits(); ok && len(digits) > 0 && (len(s.rest) == 0 || !isTokenChar(s.rest[0])) {
		c.version1 = string(bytes.TrimLeft(digits, "0")) == "1"
		ok = s.skip()
	}
	c.id, c.length = id, len(value)
	c.wellFormed = ok && (len(s.rest) == 0 || s.rest[0] == ';')
	if c.wellFormed {
		c.length -= len(s.rest)
	}
	// An encoded word may hide a semicolon, so that none of it ends the search: neither in a comment, nor in what is
	// not well-formed.
	i := bytes.Index(value[:c.length], []byte("=?"))
	c.encoded = i >= 0 && bytes.Contains(value[i:], []byte("?="))
	if c.encoded {
		c.length = len(value)
	}
	return c
}

// claimScanner reads a folded field. Line ends are blanks to it, whether or not a blank follows: fields has seen to
// that.
type claimScanner struct{ rest []byte }

// skip skips blanks and comments. It reports false for a comment that has no end.
func (s *claimScanner) skip() bool {
	for len(s.rest) > 0 {
		switch c := s.rest[0]; {
		case c == '(':
			n := commentLength(s.rest)
			if n == 0 {
				return false
			}
			s.rest = s.rest[n:]
		case isBlank(c) || c == '\r' || c == '\n':
			s.rest = s.rest[1:]
		default:
			return true
		}
	}
	return true
}

func (s *claimScanner) token() []byte {
	n := 0
	for n < len(s.rest) && isTokenChar(s.rest[n]) {
		n++
	}
	token := s.rest[:n]
	s.rest = s.rest[n:]
	return token
}

func (s *claimScanner) digits() []byte {
	n := 0
	for n < len(s.rest) && isDecimal(s.rest[n]) {
		n++
	}
	digits := s.rest[:n]
	s.rest = s.rest[n:]
	return digits
}

// quoted reads a quoted-string, without its folds. What exceeds maxClaim by far is not kept.
func (s *claimScanner) quoted() (content []byte, ok bool) {
	for i := 1; i < len(s.rest); i++ {
		switch c := s.rest[i]; c {
		case '"':
			s.rest = s.rest[i+1:]
			return content, true
		case '\r', '\n':
			continue
		case '\\':
			if i++; i == len(s.rest) {
				return nil, false
			}
		}
		if len(content) <= maxClaim {
			content = append(content, s.rest[i])
		}
	}
	return nil, false
}

// commentLength returns the length of the comment that b begins with; 0 if it has no end.
func commentLength(b []byte) int {
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return i + 1
			}
		case '\\':
			i++
		}
	}
	return 0
}

// claimWords is what a reader with little care may take for the parts of an id: the words before the first semicolon
// behind which there is any. text has them joined, ends says where each of them ends there.
type claimWords struct {
	text   []byte
	ends   []int
	cut    bool // there was more than an id can be
	hidden bool // there were characters that say nothing
}

// read divides a field into words. Whatever cannot be in a name divides them; quotes and backslashes are dropped.
// Comments are skipped, unless sloppy has it that parentheses are but dividers and quotes protect nothing.
func (w *claimWords) read(value []byte, sloppy bool) {
	w.text, w.ends, w.cut, w.hidden = w.text[:0], w.ends[:0], false, false
	quoted := false
	for i := 0; i < len(value) && !w.cut; i++ {
		switch c := value[i]; {
		case c == '"':
			quoted = !quoted && !sloppy
		case c == '\\':
		case c == '(' && !sloppy && !quoted:
			w.end()
			n := commentLength(value[i:])
			if n == 0 { // the rest is a comment
				return
			}
			i += n - 1
		case c == ';' && !quoted:
			if w.end(); len(w.ends) > 0 {
				return
			}
		case c >= utf8.RuneSelf:
			i += w.international(value[i:]) - 1
		case isTokenChar(c):
			w.text = append(w.text, c)
			w.cut = len(w.text) > maxClaim
		default:
			w.end()
		}
	}
	w.end()
}

// international takes the character that b begins with, and returns its size. One that says nothing divides words.
func (w *claimWords) international(b []byte) int {
	r, size := utf8.DecodeRune(b)
	if saysNothing(r) {
		w.end()
		w.hidden = true
		return size
	}
	w.text = append(w.text, b[:size]...)
	w.cut = len(w.text) > maxClaim
	return size
}

// end ends a word, if one has begun.
func (w *claimWords) end() {
	if n := len(w.text); n > 0 && (len(w.ends) == 0 || w.ends[len(w.ends)-1] < n) {
		w.ends = append(w.ends, n)
	}
}

// decodeWords decodes the encoded words of a field in the way of readers that do so before they parse. It reports false
// if there is one that it cannot decode, or too many of them. divider is put at each end of each.
//
// https://www.rfc-editor.org/rfc/rfc2047#section-2
func decodeWords(value []byte, divider string) ([]byte, bool) {
	value = bytes.ReplaceAll(bytes.ReplaceAll(value, []byte("\r"), nil), []byte("\n"), nil)
	var out []byte
	for range maxEncodedWords {
		before, word, found := bytes.Cut(value, []byte("=?"))
		charset, rest, ok1 := bytes.Cut(word, []byte("?"))
		encoding, rest, ok2 := bytes.Cut(rest, []byte("?"))
		text, rest, ok3 := bytes.Cut(rest, []byte("?="))
		if !found || !ok1 || !ok2 || !ok3 {
			return append(out, value...), true
		}
		decoded, ok := decodeWord(charset, encoding, text)
		if !ok {
			return nil, false
		}
		// Blanks between two encoded words are none: they may divide a name.
		if len(out) == 0 || len(bytes.TrimSpace(before)) > 0 {
			out = append(out, before...)
		}
		out = append(append(append(out, divider...), decoded...), divider...)
		value = rest
	}
	return out, !bytes.Contains(value, []byte("=?"))
}

func decodeWord(charset, encoding, text []byte) ([]byte, bool) {
	charset, _, _ = bytes.Cut(charset, []byte("*")) // a language
	switch strings.ToLower(string(charset)) {
	case "utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin1", "windows-1252", "iso-8859-15":
		// Alike in what names are made of.
	default:
		return nil, false
	}
	switch string(encoding) {
	case "b", "B":
		text = bytes.TrimRight(text, "=")
		decoded := make([]byte, base64.RawStdEncoding.DecodedLen(len(text)))
		n, err := base64.RawStdEncoding.Decode(decoded, text)
		return decoded[:n], err == nil
	case "q", "Q":
		return decodeQ(text), true
	}
	return nil, false
}

// decodeQ decodes quoted-printable as encoded words have it. What is not hexadecimal stays as it is.
func decodeQ(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '_':
			out = append(out, ' ')
		case c == '=' && i+2 < len(text) && hexDigit(text[i+1]) >= 0 && hexDigit(text[i+2]) >= 0:
			out = append(out, byte(hexDigit(text[i+1])<<4|hexDigit(text[i+2])))
			i += 2
		default:
			out = append(out, c)
		}
	}
	return out
}

func hexDigit(c byte) int { return strings.IndexByte("0123456789abcdef", c|0x20) }

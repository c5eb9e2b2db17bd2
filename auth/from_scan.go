package auth

// A fromScanner reads a list of addresses from left to right, each octet once.
type fromScanner struct{ rest []byte }

// Kinds of tokens, besides the specials, which stand for themselves.
const (
	fromEnd    = 0
	fromAtom   = 'a' // without its dots
	fromQuoted = '"'
	fromBad    = -1 // an octet or the end of the field where it must not be
)

// addresses reads the whole field into a: mailboxes and groups, empty ones too.
func (s *fromScanner) addresses(a *Author) {
	found, nobody, group := false, false, false
	for a.Fault != FromTooMany {
		kind, ended := s.address(a)
		switch kind {
		case fromMailbox:
			found = true
		case fromNoAddress:
			nobody = true
		case fromGroup:
			if group {
				a.fault(FromMalformed)
				return
			}
			group = true
			continue
		case fromBroken:
			a.fault(FromMalformed)
			return
		}
		if ended == ';' {
			if !group {
				a.fault(FromMalformed)
				return
			}
			group = false
		}
		if ended == fromEnd {
			if group {
				a.fault(FromMalformed)
			}
			break
		}
	}
	switch {
	case !found:
		a.fault(FromNobody)
	case nobody:
		a.fault(FromMalformed) // which of them is shown?
	}
}

// What one member of the list turned out to be.
type fromKind int

const (
	fromEmpty fromKind = iota
	fromMailbox
	fromNoAddress // angle brackets around a local part alone, or around nothing
	fromGroup     // the name of a group and its colon
	fromBroken
)

// address reads one member and the ',', ';', ':' or end behind it. Words without an address are none: they come of
// names with a comma that nobody quoted.
func (s *fromScanner) address(a *Author) (kind fromKind, ended int) {
	var words fromWords
	var bare []string // domains of addresses that stand without '<'
	loose := false    // what was read is right only as a name: '<' must follow
	for {
		token, _ := s.next()
		switch token {
		case fromEnd, ',', ';':
			if loose {
				a.fault(FromMalformed)
			}
			a.addAll(bare)
			return kind, token
		case ':':
			if words.any && !loose && kind == fromEmpty {
				return fromGroup, token
			}
			a.addAll(bare)
			return fromBroken, token
		case '@':
			loose = loose || kind == fromMailbox || !words.local()
			if domain, ok := s.domain(); ok {
				kind, bare = fromMailbox, append(bare, domain)
			} else {
				loose = true
			}
			words = fromWords{}
		case '<':
			named := a.addNamed(bare)
			kind = s.angle(a)
			if token, _ = s.next(); kind == fromBroken || token != fromEnd && token != ',' && token != ';' {
				return fromBroken, token
			}
			if kind == fromNoAddress && named {
				a.fault(FromMalformed)
			}
			return kind, token
		case fromAtom, fromQuoted, '.', '[', ']', '\\':
			words.add(token)
			loose = loose || kind == fromMailbox
		default:
			a.addAll(bare)
			return fromBroken, token
		}
	}
}

// angle reads what follows '<', '>' included: "local@domain", with a source route before it or without.
func (s *fromScanner) angle(a *Author) fromKind {
	var words fromWords
	routed := false
	for first := true; ; first = false {
		token, _ := s.next()
		switch token {
		case fromAtom, fromQuoted, '.':
			words.add(token)
		case '@', ',':
			if first {
				if !s.route(token) {
					return fromBroken
				}
				routed = true
				continue
			}
			domain, ok := s.domain()
			if token == ',' || !ok {
				return fromBroken
			}
			a.add(domain)
			if token, _ = s.next(); token != '>' || !words.local() {
				return fromBroken
			}
			return fromMailbox
		case '>':
			if routed {
				return fromBroken
			}
			return fromNoAddress
		default:
			return fromBroken
		}
	}
}

// route reads the rest of a source route, its colon included; its domains are nobody's.
// https://www.rfc-editor.org/rfc/rfc5322#section-4.4
func (s *fromScanner) route(token int) bool {
	for {
		switch token {
		case '@':
			if _, ok := s.domain(); !ok {
				return false
			}
		case ',':
		case ':':
			return true
		default:
			return false
		}
		token, _ = s.next()
	}
}

// domain reads what follows '@', as much of it as is a domain; where it is none, nothing is read. What is in square
// brackets keeps them.
func (s *fromScanner) domain() (string, bool) {
	ahead := *s
	token, text := ahead.next()
	switch {
	case token == fromAtom:
		*s = ahead
		text = append([]byte(nil), text...)
	case token == '[':
		inside := ahead.rest
		if !ahead.literal() {
			return "", false
		}
		text = append([]byte{'['}, inside[:len(inside)-len(ahead.rest)]...)
		*s = ahead
	default:
		return "", false
	}
	for token == fromAtom {
		var label []byte
		if token, _ = ahead.next(); token != '.' {
			break
		}
		if token, label = ahead.next(); token == fromAtom {
			*s = ahead
			text = append(append(text, '.'), label...)
		}
	}
	return string(text), true
}

// literal reads the rest of an address literal.
func (s *fromScanner) literal() bool {
	for i, c := range s.rest {
		switch {
		case c == ']':
			s.rest = s.rest[i+1:]
			return true
		case c == '[' || c == '\\' || c < ' ' || c > '~':
			return false
		}
	}
	return false
}

// fromWords is the shape of what stands before an '@', a '<' or a ':'.
type fromWords struct {
	any    bool
	word   bool // the last one was a word, not a dot
	broken bool // two words in a row: a name, not a local part
}

func (w *fromWords) add(token int) {
	isWord := token != '.'
	if w.word && isWord || token == '[' || token == ']' || token == '\\' {
		w.broken = true
	}
	w.any, w.word = true, isWord
}

// local reports whether the words may be a local part. Dots may be anywhere: there are mailboxes that are called
// "a..b" and "a." in spite of the standard.
func (w *fromWords) local() bool { return w.any && !w.broken }

// next reads one token and, for an atom, its text. Blanks, folds and comments before it are skipped.
func (s *fromScanner) next() (token int, text []byte) {
	if !s.skip() {
		return fromBad, nil
	}
	if len(s.rest) == 0 {
		return fromEnd, nil
	}
	c := s.rest[0]
	switch c {
	case '<', '>', '@', ',', ';', ':', '.', '[', ']', '\\':
		s.rest = s.rest[1:]
		return int(c), nil
	case '"':
		if !s.quoted() {
			return fromBad, nil
		}
		return fromQuoted, nil
	}
	n := 0
	for n < len(s.rest) && isFromAtom(s.rest[n]) {
		n++
	}
	if n == 0 {
		return fromBad, nil
	}
	text, s.rest = s.rest[:n], s.rest[n:]
	return fromAtom, text
}

// isFromAtom tells the octets of atoms, those of UTF-8 and of older character sets included.
func isFromAtom(c byte) bool {
	switch c {
	case '(', ')', '<', '>', '[', ']', ':', ';', '@', '\\', ',', '.', '"', 0x7f:
		return false
	}
	return c > ' '
}

// quoted reads a quoted string.
func (s *fromScanner) quoted() bool {
	for s.rest = s.rest[1:]; len(s.rest) > 0; {
		switch c := s.rest[0]; {
		case c == '"':
			s.rest = s.rest[1:]
			return true
		case c == '\\':
			if !s.pair() {
				return false
			}
		case c == '\r':
			if !s.fold() {
				return false
			}
		case c < ' ' && c != '\t' || c == 0x7f:
			return false
		default:
			s.rest = s.rest[1:]
		}
	}
	return false
}

// pair reads a backslash and the octet that it quotes.
func (s *fromScanner) pair() bool {
	if len(s.rest) < 2 || s.rest[1] < ' ' && s.rest[1] != '\t' || s.rest[1] == 0x7f {
		return false
	}
	s.rest = s.rest[2:]
	return true
}

// fold reads a line end that a blank follows.
func (s *fromScanner) fold() bool {
	if len(s.rest) < 3 || s.rest[1] != '\n' || s.rest[2] != ' ' && s.rest[2] != '\t' {
		return false
	}
	s.rest = s.rest[3:]
	return true
}

// skip reads blanks, folds and comments, which nest. It reports false for what is none of them to its end.
func (s *fromScanner) skip() bool {
	depth := 0
	for len(s.rest) > 0 {
		switch c := s.rest[0]; {
		case c == '\r':
			if !s.fold() {
				return false
			}
			continue
		case c == '(':
			depth++
		case c == ' ' || c == '\t':
		case depth == 0:
			return true
		case c == ')':
			depth--
		case c == '\\':
			if !s.pair() {
				return false
			}
			continue
		case c < ' ' || c == 0x7f:
			return false
		}
		s.rest = s.rest[1:]
	}
	return depth == 0
}

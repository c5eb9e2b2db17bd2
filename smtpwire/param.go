package smtpwire

import (
	"strings"
)

// A Param is one parameter of MAIL or RCPT ("SIZE=10", or "SMTPUTF8" with the
// Value ""), or one keyword of an EHLO reply, whose Value is then all of its
// arguments joined by one space. The Name is spelled as it came; it is compared
// without regard to case.
type Param struct{ Name, Value string }

// Params are the parameters of one command, in the order in which they came.
// The zero value has none. No method changes its receiver.
type Params []Param

// maxParams bounds the parameters of one command. The registered extensions
// define about twenty between them.
const maxParams = 32

// maxNamed bounds how much of a client's word is repeated in a refusal.
const maxNamed = 32

// Get returns the value of the named parameter, and whether there is one.
func (ps Params) Get(name string) (value string, ok bool) {
	if i := indexParam(ps, name); i >= 0 {
		return ps[i].Value, true
	}
	return "", false
}

// With returns a copy in which the named parameter has the value: in its old
// place if there was one, else at the end.
func (ps Params) With(name, value string) Params {
	return withParam(ps, Param{Name: name, Value: value})
}

// Without returns a copy that lacks the named parameters. It is nil when
// nothing is left.
func (ps Params) Without(names ...string) Params {
	return withoutParams(ps, names)
}

// indexParam returns where the named parameter is, or -1.
func indexParam(ps []Param, name string) int {
	for i := range ps {
		if foldEqual(ps[i].Name, name) {
			return i
		}
	}
	return -1
}

func withParam(ps []Param, p Param) []Param {
	out := make([]Param, len(ps), len(ps)+1)
	copy(out, ps)
	if i := indexParam(out, p.Name); i >= 0 {
		out[i] = p
		return out
	}
	return append(out, p)
}

func withoutParams(ps []Param, names []string) []Param {
	var out []Param
	for _, p := range ps {
		if !containsFold(names, p.Name) {
			out = append(out, p)
		}
	}
	return out
}

func containsFold(names []string, name string) bool {
	for _, n := range names {
		if foldEqual(n, name) {
			return true
		}
	}
	return false
}

// appendTo appends the wire form " NAME=value" of every parameter.
func (ps Params) appendTo(b []byte) []byte {
	for _, p := range ps {
		b = append(b, ' ')
		b = appendText(b, p.Name)
		if p.Value != "" {
			b = append(b, '=')
			b = appendText(b, p.Value)
		}
	}
	return b
}

// parseParams parses the parameters behind a path. It refuses a parameter that
// is given twice: which of the two counts would be the next server's choice.
// problem is "" or says, for people, what is wrong; nothing else is valid then.
//
// https://www.rfc-editor.org/rfc/rfc5321#section-4.1.2
func parseParams(s string) (ps Params, problem string) {
	s = strings.Trim(s, " ")
	if s == "" {
		return nil, ""
	}
	n := strings.Count(s, " ") + 1
	if n > maxParams {
		n = maxParams // runs of spaces are counted too, so this refuses nothing
	}
	ps = make(Params, 0, n)
	for s != "" {
		word, rest, _ := strings.Cut(s, " ")
		s = strings.TrimLeft(rest, " ")
		p, problem := parseParam(word)
		switch {
		case problem != "":
			return nil, problem
		case indexParam(ps, p.Name) >= 0:
			return nil, "parameter " + clip(p.Name) + " is given twice"
		case len(ps) == maxParams:
			return nil, "too many parameters"
		}
		ps = append(ps, p)
	}
	return ps, ""
}

// parseParam parses one esmtp-param.
func parseParam(word string) (p Param, problem string) {
	name, value, hasValue := strings.Cut(word, "=")
	switch {
	case !isKeyword(name):
		return Param{}, "parameter name " + clip(name) + " is malformed"
	case hasValue && value == "":
		return Param{}, "parameter " + clip(name) + " has an empty value"
	case !isValue(value):
		return Param{}, "parameter " + clip(name) + " has a malformed value"
	}
	return Param{Name: name, Value: value}, ""
}

// isKeyword reports whether s is an esmtp-keyword.
//
//	esmtp-keyword  = (ALPHA / DIGIT) *(ALPHA / DIGIT / "-")
func isKeyword(s string) bool {
	if s == "" || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		if !isAlnum(s[i]) && s[i] != '-' {
			return false
		}
	}
	return true
}

// isValue reports whether s may stand behind the equals sign. Octets above
// ASCII are UTF8-non-ascii of RFC 6531 section 3.3; whether the client may use
// them is for [Licensed] to say, whether they are UTF-8 was seen for the line.
//
//	esmtp-value    = 1*(%d33-60 / %d62-126)
func isValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c == '=' || c == 0x7f {
			return false
		}
	}
	return true
}

func isAlnum(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// asciiOnly reports whether s has no octet above 127.
func asciiOnly(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

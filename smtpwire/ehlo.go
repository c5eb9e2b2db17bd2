package smtpwire

import (
	"strconv"
	"strings"
)

// An EHLO is what a server offers: its answer to EHLO or LHLO. It is an
// immutable value, so one that came under TLS replaces the one before it whole
// and nothing of the old one is left. The zero value offers nothing.
//
// Every EHLO is well-formed, however it was made: the host is one word, keywords
// follow the grammar, no keyword is there twice, and there are at most
// maxKeywords.
//
//	ehlo-line      = ehlo-keyword *( SP ehlo-param )
//
// https://www.rfc-editor.org/rfc/rfc5321#section-4.1.1.1
type EHLO struct {
	host     string
	greeting string // what stood behind the host, not part of what is offered
	keywords []Param
}

// maxKeywords bounds what is kept of one EHLO. The largest sets in the field
// have some twenty keywords.
const maxKeywords = 100

// NewEHLO returns what the named host offers with the keywords in that order.
// Malformed keywords, and all but the first of several with one name, are left
// out.
func NewEHLO(host string, keywords ...Param) EHLO {
	e := EHLO{host: cleanHost(host)}
	e.keywords = make([]Param, 0, min(len(keywords), maxKeywords))
	for _, p := range keywords {
		if p, ok := cleanKeyword(p); ok {
			e.add(p)
		}
	}
	return e
}

// ParseEHLO returns what a 250 reply to EHLO or LHLO offers. Malformed keyword
// lines are ignored, such as the "AUTH=LOGIN" that some servers add for old
// clients; of several lines with one keyword the first counts; and a reply with
// another code offers nothing.
//
// The reply to HELO must come with its first line only: it names the host, and
// offers nothing.
func ParseEHLO(r Reply) EHLO {
	if r.Code != 250 || len(r.Lines) == 0 {
		return EHLO{}
	}
	host, greeting, _ := strings.Cut(r.Lines[0], " ")
	e := EHLO{host: cleanHost(host), greeting: cleanText(strings.TrimSpace(greeting))}
	lines := r.Lines[1:]
	e.keywords = make([]Param, 0, min(len(lines), maxKeywords))
	for _, line := range lines {
		name, value, _ := strings.Cut(strings.TrimRight(line, " "), " ")
		if p, ok := cleanKeyword(Param{Name: name, Value: value}); ok {
			e.add(p)
		}
	}
	return e
}

// add appends a clean keyword to an EHLO that nobody has seen yet.
func (e *EHLO) add(p Param) {
	if len(e.keywords) < maxKeywords && indexParam(e.keywords, p.Name) < 0 {
		e.keywords = append(e.keywords, p)
	}
}

// cleanHost returns the first word of a host name, or "" for one with
// characters that no name has.
func cleanHost(host string) string {
	host, _, _ = strings.Cut(host, " ")
	if len(host) > maxDomain || !isText(host) {
		return ""
	}
	return host
}

// cleanKeyword joins the arguments of a keyword by one space and reports
// whether name and arguments follow the grammar. The underscore is allowed in
// the name for the sake of the old spellings of PIPECONNECT.
//
//	ehlo-keyword   = (ALPHA / DIGIT) *(ALPHA / DIGIT / "-")
//	ehlo-param     = 1*(%d33-126)
func cleanKeyword(p Param) (Param, bool) {
	if p.Name == "" || !isAlnum(p.Name[0]) {
		return Param{}, false
	}
	for i := range len(p.Name) {
		if c := p.Name[i]; !isAlnum(c) && c != '-' && c != '_' {
			return Param{}, false
		}
	}
	for i := range len(p.Value) {
		if c := p.Value[i]; c < ' ' || c > '~' {
			return Param{}, false
		}
	}
	if strings.HasPrefix(p.Value, " ") || strings.HasSuffix(p.Value, " ") || strings.Contains(p.Value, "  ") {
		p.Value = strings.Join(strings.Fields(p.Value), " ")
	}
	return p, true
}

// IsZero reports whether e names no host and offers nothing.
func (e EHLO) IsZero() bool { return e.host == "" && len(e.keywords) == 0 }

// Host returns the name that the server gives itself, or "".
func (e EHLO) Host() string { return e.host }

// Has reports whether the keyword is offered.
func (e EHLO) Has(keyword string) bool { return indexParam(e.keywords, keyword) >= 0 }

// Get returns the arguments of a keyword, joined by one space, and whether the
// keyword is offered.
func (e EHLO) Get(keyword string) (string, bool) { return Params(e.keywords).Get(keyword) }

// Keywords returns a copy of the keywords in their order.
func (e EHLO) Keywords() []Param {
	return append([]Param(nil), e.keywords...)
}

// Reply returns the 250 reply that says e. Its first line is host and greeting.
func (e EHLO) Reply() Reply {
	lines := make([]string, 1, 1+len(e.keywords))
	lines[0] = e.host
	if e.greeting != "" {
		lines[0] += " " + e.greeting
	}
	for _, p := range e.keywords {
		if p.Value != "" {
			p.Name += " " + p.Value
		}
		lines = append(lines, p.Name)
	}
	return Reply{Code: 250, Lines: lines}
}

// Equal reports whether e and o say the same: the same host and the same
// keywords with the same arguments. The order of keywords, upper or lower case
// of host and keywords, and the greeting behind the host do not count; many
// servers put the client's address into the latter.
func (e EHLO) Equal(o EHLO) bool {
	if len(e.keywords) != len(o.keywords) || !foldEqual(e.host, o.host) {
		return false
	}
	for i, p := range e.keywords {
		j := i
		if !foldEqual(o.keywords[i].Name, p.Name) {
			j = indexParam(o.keywords, p.Name)
		}
		if j < 0 || o.keywords[j].Value != p.Value {
			return false
		}
	}
	return true
}

// With returns a copy of e that offers p: in the place of the keyword of that
// name if there was one, else at the end. A malformed p changes nothing.
func (e EHLO) With(p Param) EHLO {
	p, ok := cleanKeyword(p)
	if !ok || len(e.keywords) == maxKeywords && !e.Has(p.Name) {
		return e
	}
	e.keywords = withParam(e.keywords, p)
	return e
}

// Without returns a copy of e that lacks the named keywords.
func (e EHLO) Without(keywords ...string) EHLO {
	e.keywords = withoutParams(e.keywords, keywords)
	return e
}

// Size returns the largest message that the server takes, in octets, and
// whether SIZE is offered at all. 0 is no fixed limit, which an absent or
// malformed number stands for too.
//
// https://www.rfc-editor.org/rfc/rfc1870#section-3
func (e EHLO) Size() (limit int64, offered bool) {
	value, offered := e.Get("SIZE")
	limit, _ = parseSize(value)
	return limit, offered
}

// PipeConnect reports whether early pipelining is offered, under any of its
// three names: the client may send before the greeting and before the answer to
// EHLO.
func (e EHLO) PipeConnect() bool { return extensionNamed(pipeConnect).namedBy(e) }

// sizeParam returns the keyword SIZE with the limit.
func sizeParam(limit int64) Param {
	return Param{Name: "SIZE", Value: strconv.FormatInt(limit, 10)}
}

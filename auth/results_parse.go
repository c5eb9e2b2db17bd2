package auth

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Bounds of what is read. Fields of real life have a few hundred octets, those of long ARC chains a few thousand.
const (
	maxResultsField     = 64 << 10 // octets of one field
	maxParsedResults    = 256
	maxParsedProperties = 64 // of one result
	maxCommentDepth     = 32 // comments in comments
	maxVersionDigits    = 9
)

// ErrResultsVersion is the error of ParseResults for a field whose version is not 1. Of such a field nothing but its id
// and version can be known, and it must be ignored.
//
// https://www.rfc-editor.org/rfc/rfc8601#section-2.5
var ErrResultsVersion = errors.New("authentication results: the field is of an unknown version")

// ParseResults parses the body of an Authentication-Results field, which is what follows its colon, folded as it came
// or not. Comments and folds may stand between any two of its words.
//
// Methods, results and property types that nobody registered are kept; whoever reads them must ignore what it does not
// know. Names and results are put into lower case. Some forms are taken that the grammar does not have, but the world
// does: values with "/", ":", "=" or "<>" in them and no quotes, empty values, a semicolon at the end, a property
// without a type (its Type is ""), a reason after properties. Comments are dropped, save for the one that follows a
// result.
func ParseResults(value []byte) (Results, error) {
	if len(value) > maxResultsField {
		return Results{}, errors.New("authentication results: the field is too long")
	}
	text, err := unfold(value)
	if err != nil {
		return Results{}, err
	}
	p := &resultsParser{rest: text, at: len(text)}
	r, err := p.field()
	if err != nil && !errors.Is(err, ErrResultsVersion) {
		return Results{}, fmt.Errorf("authentication results: %w at octet %d", err, p.at-len(p.rest))
	}
	return r, err
}

// unfold joins the lines of a field. What is left has neither line ends nor controls.
//
// https://www.rfc-editor.org/rfc/rfc5322#section-2.2.3
func unfold(value []byte) (string, error) {
	value = bytes.TrimSuffix(value, []byte("\r\n"))
	if !utf8.Valid(value) {
		return "", errors.New("authentication results: the field is neither ASCII nor UTF-8")
	}
	out := make([]byte, 0, len(value))
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case c == '\r' && i+2 < len(value) && value[i+1] == '\n' && (value[i+2] == ' ' || value[i+2] == '\t'):
			i++
		case c < ' ' && c != '\t' || c == 0x7f:
			return "", fmt.Errorf("authentication results: the octet %#02x cannot stand in a field", c)
		default:
			out = append(out, c)
		}
	}
	return string(out), nil
}

// resultsParser takes an unfolded field apart from its start.
type resultsParser struct {
	rest string
	at   int // length of the whole
}

func (p *resultsParser) field() (Results, error) {
	if _, err := p.cfws(); err != nil {
		return Results{}, err
	}
	id, err := p.value(isTokenChar)
	if err != nil {
		return Results{}, err
	}
	if id == "" {
		return Results{}, errors.New("there is no authserv-id")
	}
	r := Results{ID: id, Version: 1}
	if _, err := p.cfws(); err != nil {
		return Results{}, err
	}
	if digits := p.while(isDecimal); digits != "" {
		// One that is too long to be a number is as unknown as any other.
		if r.Version, err = strconv.Atoi(digits); err != nil || len(digits) > maxVersionDigits {
			r.Version = -1
		}
		if r.Version != 1 {
			return r, ErrResultsVersion
		}
		if _, err := p.cfws(); err != nil {
			return Results{}, err
		}
	}
	if p.rest == "" {
		return Results{}, errors.New("there is no result")
	}
	r.List, err = p.results()
	if err != nil {
		return Results{}, err
	}
	return r, nil
}

// results parses ";" and a result, again and again.
func (p *resultsParser) results() ([]Result, error) {
	var list []Result
	for p.rest != "" {
		if !p.take(';') {
			return nil, errors.New("a semicolon is missing")
		}
		if _, err := p.cfws(); err != nil {
			return nil, err
		}
		if p.rest == "" || p.rest[0] == ';' {
			continue
		}
		if len(list) == maxParsedResults {
			return nil, errors.New("there are too many results")
		}
		result, err := p.result()
		if err != nil {
			return nil, err
		}
		if result.Method != methodNobody {
			list = append(list, result)
		}
	}
	return list, nil
}

// result parses resinfo, or the "none" that stands in place of all of them.
func (p *resultsParser) result() (r Result, err error) {
	if r.Method = p.keyword(); r.Method == "" {
		return r, errors.New("the name of a method is missing")
	}
	if _, err = p.cfws(); err != nil {
		return r, err
	}
	if r.Method == methodNobody && (p.rest == "" || p.rest[0] == ';') {
		return r, nil
	}
	if p.take('/') {
		if _, err = p.cfws(); err != nil {
			return r, err
		}
		digits := p.while(isDecimal)
		if r.Version, err = strconv.Atoi(digits); err != nil || len(digits) > maxVersionDigits {
			return r, errors.New("the version of a method is not a number")
		}
	}
	if err = p.equals(); err != nil {
		return r, err
	}
	if r.Value = p.keyword(); r.Value == "" {
		return r, errors.New("the result of a method is missing")
	}
	if r.Comment, err = p.cfws(); err != nil {
		return r, err
	}
	for p.rest != "" && p.rest[0] != ';' {
		if err = p.property(&r); err != nil {
			return r, err
		}
	}
	if r.Method == methodNobody {
		return r, errors.New(`"none" cannot be a method`)
	}
	return r, nil
}

// property parses reasonspec or propspec, and what may follow it.
func (p *resultsParser) property(r *Result) (err error) {
	var prop Property
	if prop.Name = p.keyword(); prop.Name == "" {
		return errors.New("the name of a property is missing")
	}
	if _, err = p.cfws(); err != nil {
		return err
	}
	if p.take('.') {
		if _, err = p.cfws(); err != nil {
			return err
		}
		prop.Type, prop.Name = prop.Name, p.keyword()
		if prop.Name == "" {
			return errors.New("the second half of the name of a property is missing")
		}
	}
	if err = p.equals(); err != nil {
		return err
	}
	if prop.Value, err = p.pvalue(); err != nil {
		return err
	}
	if prop.Type == "" && prop.Name == reasonWord && r.Reason == "" {
		r.Reason = prop.Value
		return nil
	}
	if len(r.Properties) == maxParsedProperties {
		return errors.New("a result has too many properties")
	}
	r.Properties = append(r.Properties, prop)
	return nil
}

// pvalue parses a value, or [ [ local-part ] "@" ] domain-name, and the comments around it.
func (p *resultsParser) pvalue() (string, error) {
	whole := p.rest
	value, err := p.value(isValueChar)
	if err != nil {
		return "", err
	}
	if _, err := p.cfws(); err != nil {
		return "", err
	}
	if !strings.HasPrefix(p.rest, "@") {
		return value, nil
	}
	if whole[0] == '"' {
		value = quoted(value)
	}
	p.take('@')
	if _, err := p.cfws(); err != nil {
		return "", err
	}
	value += "@" + p.while(isValueChar)
	_, err = p.cfws()
	return value, err
}

// value parses a quoted-string or octets of a kind. There may be none of them.
func (p *resultsParser) value(ok func(byte) bool) (string, error) {
	if p.rest == "" || p.rest[0] != '"' {
		return p.while(ok), nil
	}
	content, rest, closed := cutQuoted(p.rest)
	if !closed {
		return "", errors.New("a quoted string has no end")
	}
	p.rest = rest
	return content, nil
}

// equals parses "=" and what may stand around it.
func (p *resultsParser) equals() error {
	if _, err := p.cfws(); err != nil {
		return err
	}
	if !p.take('=') {
		return errors.New(`"=" is missing`)
	}
	_, err := p.cfws()
	return err
}

// cfws skips white space and comments. It returns the text of the first comment.
//
// https://www.rfc-editor.org/rfc/rfc5322#section-3.2.2
func (p *resultsParser) cfws() (comment string, err error) {
	for {
		p.while(isBlank)
		if p.rest == "" || p.rest[0] != '(' {
			return comment, nil
		}
		text, err := p.comment()
		if err != nil {
			return "", err
		}
		if comment == "" {
			comment = text
		}
	}
}

// comment parses a comment. Those within it stay in its text.
func (p *resultsParser) comment() (string, error) {
	var text []byte
	depth := 0
	for i := 0; i < len(p.rest); i++ {
		switch c := p.rest[i]; c {
		case '(':
			if depth++; depth == 1 {
				continue
			}
			if depth > maxCommentDepth {
				return "", errors.New("comments are nested too deep")
			}
		case ')':
			if depth--; depth == 0 {
				p.rest = p.rest[i+1:]
				return strings.TrimSpace(string(text)), nil
			}
		case '\\':
			if i++; i == len(p.rest) {
				return "", errors.New("a comment has no end")
			}
		}
		text = append(text, p.rest[i])
	}
	return "", errors.New("a comment has no end")
}

// keyword parses a keyword and puts it into lower case.
func (p *resultsParser) keyword() string {
	return strings.ToLower(p.while(func(c byte) bool { return !notInKeyword(rune(c)) }))
}

// while takes octets off the start for as long as they are of a kind.
func (p *resultsParser) while(ok func(byte) bool) string {
	i := 0
	for i < len(p.rest) && ok(p.rest[i]) {
		i++
	}
	taken := p.rest[:i]
	p.rest = p.rest[i:]
	return taken
}

// take takes one octet off the start, if it is c.
func (p *resultsParser) take(c byte) bool {
	if p.rest == "" || p.rest[0] != c {
		return false
	}
	p.rest = p.rest[1:]
	return true
}

func isDecimal(c byte) bool { return '0' <= c && c <= '9' }

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

// isValueChar: what values consist of where they are not quoted, as they should be.
func isValueChar(c byte) bool { return c > ' ' && c != 0x7f && strings.IndexByte(`;()"\`, c) < 0 }

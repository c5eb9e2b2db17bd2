package auth

import (
	"strings"
	"unicode/utf8"
)

// resultsName is the name of the field.
const resultsName = "Authentication-Results"

// Field returns the field, folded at 78 characters and with its final CRLF, in ASCII; nil if CheckID refuses the id.
//
// Only what the registry has is written, whoever asks: a result of another method, or one that its method cannot have,
// is left out, and so is a property whose value is not what its name promises. No octet of a value can end it: neither
// line ends, controls, semicolons nor parentheses get in. Domain names are written with A-labels; of a mailbox that
// ASCII cannot express the domain is left.
func (r Results) Field() []byte { return r.field(false) }

// FieldUTF8 is Field for a message that travels with SMTPUTF8: local parts, reasons and comments keep their script.
//
// https://www.rfc-editor.org/rfc/rfc6532#section-3.2
func (r Results) FieldUTF8() []byte { return r.field(true) }

// Payload returns what stands after the name of the field, from the id on, folded and without the final CRLF. It is
// also the end of an ARC-Authentication-Results field.
//
// https://www.rfc-editor.org/rfc/rfc8617#section-4.1.1
func (r Results) Payload() []byte { return layOut("", r.pieces(false)) }

// PayloadUTF8 is Payload for a message that travels with SMTPUTF8.
func (r Results) PayloadUTF8() []byte { return layOut("", r.pieces(true)) }

func (r Results) field(international bool) []byte {
	pieces := r.pieces(international)
	if pieces == nil {
		return nil
	}
	return append(layOut(resultsName+":", pieces), "\r\n"...)
}

// A piece is what is never divided. Before it there is a space or a fold.
type piece struct {
	text   string
	before gap
}

type gap int

const (
	gapSpace gap = iota // a space, or a fold and a tab
	gapLine             // always a fold and a tab
	gapText             // a space of quoted text, which stays one when it is folded
)

// pieces divides the field, each result with the semicolon that follows it.
func (r Results) pieces(international bool) []piece {
	id := writtenID(r.ID)
	if id == "" {
		return nil
	}
	out := []piece{{text: id}}
	for i, result := range r.List {
		if i == maxWrittenResults {
			break
		}
		if !hasResult(result.Method, result.Value) {
			continue
		}
		out[len(out)-1].text += ";"
		out = result.pieces(out, international)
	}
	if len(out) == 1 {
		out[0].text += ";"
		out = append(out, piece{text: methodNobody})
	}
	return out
}

// pieces appends one result. Quoted values come last: a reader in wide use (python3-authres) loses one that is followed
// by another property.
func (r Result) pieces(out []piece, international bool) []piece {
	out = append(out, piece{text: r.Method + "=" + r.Value, before: gapLine})
	if comment := commentText(r.Comment, international); comment != "" {
		if strings.ContainsAny(comment, `\()`) { // hardly ever
			comment = strings.NewReplacer(`\`, `\\`, "(", `\(`, ")", `\)`).Replace(comment)
		}
		out = appendText(out, "("+comment+")")
	}
	if reason := plainText(r.Reason, international); reason != "" {
		out = appendText(out, reasonWord+"="+quotedUnlessToken(reason))
	}
	var last []piece
	for i, p := range r.Properties {
		if i == maxWrittenProperties {
			break
		}
		name := p.Type + "." + p.Name
		value, ok := written(propertyKind(r.Method, name), p.Value, international)
		switch {
		case !ok:
		case value[0] == '"':
			last = appendText(last, name+"="+value)
		default:
			out = append(out, piece{text: name + "=" + value})
		}
	}
	return append(out, last...)
}

// appendText appends text that may be folded where it has a space.
func appendText(out []piece, text string) []piece {
	before := gapSpace
	for word := range strings.SplitSeq(text, " ") {
		if word == "" { // a second space stays where it is: a line must not be blank
			out[len(out)-1].text += " "
			continue
		}
		out = append(out, piece{text: word, before: before})
		before = gapText
	}
	return out
}

// layOut writes pieces after a name, or as they are without one. No line has more than 78 characters unless a piece
// alone does; none comes near 998 octets.
func layOut(name string, pieces []piece) []byte {
	b := append(make([]byte, 0, 512), name...)
	column := len(name)
	for i, p := range pieces {
		width := utf8.RuneCountInString(p.text)
		fold := p.before == gapLine || column+1+width > foldAt
		switch {
		case i == 0 && name == "":
			column = -1
		case i == 0 || !fold:
			b = append(b, ' ')
		case p.before == gapText:
			b, column = append(b, "\r\n "...), 0
		default:
			b, column = append(b, "\r\n\t"...), 0
		}
		b = append(b, p.text...)
		column += 1 + width
	}
	return b
}

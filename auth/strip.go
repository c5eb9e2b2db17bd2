package auth

import (
	"bytes"
	"strings"
)

// StripOwn takes the Authentication-Results fields out of a header section that claim to be ours, which is to say that
// anybody can have written them: those with an authserv-id out of ids, wherever they stand and however it is spelled.
// Also fields of a version other than 1 go, whoever's they are, unless the client is trusted.
//
// section may be a whole message: the first empty line ends the header, and nothing behind it is looked at. Of all
// other fields no octet changes. kept is section itself where nothing was removed, and shares no memory with it
// otherwise.
//
// Spelling is case, comments, folds, quotes, a dot at the end, the two forms of international names, encoded words. A
// field that the grammar does not have is ours as soon as some reading of it begins with our id; one of somebody whose
// name begins like ours is not. ARC-Authentication-Results is never removed.
//
// Bare CR and NUL do not occur in section: the doors refuse them. A bare LF ends a line.
//
// https://www.rfc-editor.org/rfc/rfc8601#section-5
func StripOwn(section []byte, ids []string, trusted bool) (kept []byte, removed int) {
	own := newOwnIDs(ids)
	from := 0 // what section has from here on has not been copied
	for start, end := range fields(section) {
		value, ok := resultsValue(section[start:end])
		if !ok {
			continue
		}
		claimed, known := own.claimed(value)
		if !claimed && (known || trusted) {
			continue
		}
		if removed == 0 {
			kept = make([]byte, 0, len(section)-(end-start))
		}
		kept = append(kept, section[from:start]...)
		from = end
		removed++
	}
	if removed == 0 {
		return section, 0
	}
	return append(kept, section[from:]...), removed
}

// fields returns where each field of the header begins and ends, with the lines that it is folded into. A line that is
// no field counts as one.
func fields(section []byte) func(yield func(start, end int) bool) {
	return func(yield func(start, end int) bool) {
		start := 0
		for at := 0; at < len(section); {
			next := len(section)
			if i := bytes.IndexByte(section[at:], '\n'); i >= 0 {
				next = at + i + 1
			}
			line := section[at:next]
			if at > start && !isBlank(line[0]) {
				if !yield(start, at) {
					return
				}
				start = at
			}
			if line[0] == '\n' || string(line) == "\r\n" {
				return
			}
			at = next
		}
		if start < len(section) {
			yield(start, len(section))
		}
	}
}

// resultsValue returns what follows the colon, if field is an Authentication-Results field: also one with blanks, or
// even a fold, before its colon.
//
// https://www.rfc-editor.org/rfc/rfc5322#section-4.5
func resultsValue(field []byte) ([]byte, bool) {
	if len(field) <= len(resultsName) || !strings.EqualFold(string(field[:len(resultsName)]), resultsName) {
		return nil, false
	}
	for i := len(resultsName); i < len(field); i++ {
		switch c := field[i]; {
		case c == ':':
			return field[i+1:], true
		case c > ' ' && c != 0x7f:
			return nil, false
		}
	}
	return nil, false
}

// BlankLed reports whether a message begins with a blank, so that it would continue whatever is put on top of it: a
// stranger would have the last word in our own field.
//
// https://www.rfc-editor.org/rfc/rfc5322#section-2.2.3
func BlankLed(message []byte) bool { return len(message) > 0 && isBlank(message[0]) }

// Shield is put between our fields and a message that is BlankLed: a field that says nothing, for it to continue. An
// empty line would do as well, but would make a body of the fields that follow.
//
// https://www.rfc-editor.org/rfc/rfc5322#section-3.6.5
const Shield = "Comments: what follows stood at the start of the message, without a name\r\n"

// OnTop returns fields, each with its CRLF, as they are to be sent before message: with the Shield where it is needed.
// message is what is sent after it, so after StripOwn; its first octet will do. fields may be empty.
func OnTop(fields, message []byte) []byte {
	if len(fields) == 0 || !BlankLed(message) {
		return fields
	}
	return append(fields[:len(fields):len(fields)], Shield...)
}

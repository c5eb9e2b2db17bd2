package smtpwire

import (
	"strconv"
	"strings"
)

// A Reply is what a server says: a code and, for each line, the text behind
// "250-" or "250 ", in the speaker's own words. A valid Reply has at least one
// line, which may be empty. The zero Reply is none at all.
type Reply struct {
	Code  int
	Lines []string
}

// NewReply composes a reply of ours. enhanced is the enhanced status code that
// each line begins with, or "" for none (greeting, answers to HELO and EHLO,
// 3xx). text is one line; where it has line feeds it becomes several. Control
// characters become question marks.
func NewReply(code int, enhanced, text string) Reply {
	text = strings.ReplaceAll(text, "\r\n", "\n")
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		line = cleanText(line)
		if enhanced != "" {
			line = enhanced + " " + line
		}
		lines[i] = line
	}
	return Reply{Code: code, Lines: lines}
}

// IsZero reports whether r is no reply at all.
func (r Reply) IsZero() bool { return r.Code == 0 && len(r.Lines) == 0 }

// Class returns the first digit of the code, 2 to 5, or 0 for a code that has
// no meaning in SMTP.
//
// https://www.rfc-editor.org/rfc/rfc5321#section-4.2.1
func (r Reply) Class() int {
	if class := r.Code / 100; 2 <= class && class <= 5 {
		return class
	}
	return 0
}

// Enhanced returns the enhanced status code ("5.7.1") of the first line, and
// whether there is a well-formed one whose class is that of the reply code.
//
// https://www.rfc-editor.org/rfc/rfc3463#section-2
// https://www.rfc-editor.org/rfc/rfc2034#section-4
func (r Reply) Enhanced() (string, bool) {
	if len(r.Lines) == 0 {
		return "", false
	}
	return r.enhanced(r.Lines[0])
}

// enhanced returns the status code at the start of a line of r.
//
//	status-code = class "." subject "." detail
//	class = "2"/"4"/"5"
//	subject = 1*3digit
//	detail = 1*3digit
func (r Reply) enhanced(line string) (string, bool) {
	class := r.Class()
	if class < 2 || class == 3 || len(line) < len("2.0.0") || line[0] != byte('0'+class) || line[1] != '.' {
		return "", false
	}
	n, ok := scanDigits(line, 2)
	if !ok || n == len(line) || line[n] != '.' {
		return "", false
	}
	if n, ok = scanDigits(line, n+1); !ok || n < len(line) && line[n] != ' ' {
		return "", false
	}
	return line[:n], true
}

// scanDigits returns the end of the one to three digits that stand at s[i:].
func scanDigits(s string, i int) (end int, ok bool) {
	end = i
	for end < len(s) && '0' <= s[end] && s[end] <= '9' {
		end++
	}
	return end, end > i && end <= i+3
}

// WithEnhanced returns r with an enhanced status code on every line, as a
// server that offers ENHANCEDSTATUSCODES must have it. A line without one gets
// that of the first line, else X.0.0. Replies of 3xx never have one. The
// greeting and answers to HELO and EHLO must not be passed through it.
//
// "the text part of all 2xx, 4xx, and 5xx SMTP responses other than the initial
// greeting and any response to HELO or EHLO are prefaced with a status code":
// https://www.rfc-editor.org/rfc/rfc2034#section-4
func (r Reply) WithEnhanced() Reply {
	class := r.Class()
	if class == 0 || class == 3 {
		return r
	}
	code, ok := r.Enhanced()
	if !ok {
		code = string(byte('0'+class)) + ".0.0"
	}
	lines := make([]string, max(1, len(r.Lines)))
	copy(lines, r.Lines)
	for i, line := range lines {
		if _, ok := r.enhanced(line); !ok {
			lines[i] = strings.TrimRight(code+" "+line, " ")
		}
	}
	return Reply{Code: r.Code, Lines: lines}
}

// AppendTo appends r as it goes on the wire, every line with its CRLF, and
// returns the extended slice. The zero Reply appends nothing. Text outside
// ASCII is passed on as it is; a control character other than a tab becomes a
// question mark, so that no text can make a line of its own.
//
//	Reply-line     = *( Reply-code "-" [ textstring ] CRLF )
//	               Reply-code [ SP textstring ] CRLF
//
// "senders SHOULD NOT send bare codes" and the space "is considered part of the
// text", so it is sent before an empty text too:
// https://www.rfc-editor.org/rfc/rfc5321#section-4.2
func (r Reply) AppendTo(b []byte) []byte {
	if r.IsZero() {
		return b
	}
	for i, line := range r.Lines {
		sep := byte('-')
		if i == len(r.Lines)-1 {
			sep = ' '
		}
		b = strconv.AppendInt(b, int64(r.Code), 10)
		b = append(b, sep)
		b = appendText(b, line)
		b = append(b, '\r', '\n')
	}
	if len(r.Lines) == 0 {
		b = strconv.AppendInt(b, int64(r.Code), 10)
		b = append(b, ' ', '\r', '\n')
	}
	return b
}

// String returns r in one line for logs: "250 2.0.0 ok; second line". It has no
// control characters.
func (r Reply) String() string {
	if r.IsZero() {
		return ""
	}
	b := strconv.AppendInt(nil, int64(r.Code), 10)
	for i, line := range r.Lines {
		if i > 0 {
			b = append(b, ';')
		}
		b = append(b, ' ')
		b = appendText(b, line)
	}
	return strings.ReplaceAll(string(b), "\t", " ")
}

// appendText appends s with a question mark for each control character but the
// tab.
func appendText(b []byte, s string) []byte {
	if isClean(s) {
		return append(b, s...)
	}
	for i := range len(s) {
		c := s[i]
		if isControl(c) {
			c = '?'
		}
		b = append(b, c)
	}
	return b
}

// cleanText is appendText for strings.
func cleanText(s string) string {
	if isClean(s) {
		return s
	}
	return string(appendText(nil, s))
}

func isClean(s string) bool {
	for i := range len(s) {
		if isControl(s[i]) {
			return false
		}
	}
	return true
}

func isControl(c byte) bool { return c < ' ' && c != '\t' || c == 0x7f }

// clip returns a word of the other side so that it may be repeated in a reply
// or a log: printable ASCII in quotes, cut to maxNamed octets.
func clip(s string) string {
	end, dots := len(s), ""
	if end > maxNamed {
		end, dots = maxNamed, "..."
	}
	b := make([]byte, 0, end+len(dots)+2)
	b = append(b, '"')
	for i := range end {
		c := s[i]
		if c < ' ' || c >= 0x7f || c == '"' {
			c = '?'
		}
		b = append(b, c)
	}
	b = append(b, dots...)
	return string(append(b, '"'))
}

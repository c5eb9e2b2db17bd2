package failure

import (
	"bytes"
	"mime/quotedprintable"
	"strings"
)

// maxLine is the longest line of a message, without its CRLF: https://www.rfc-editor.org/rfc/rfc5322#section-2.1.1
const maxLine = 998

// foldAt is how long lines should be, where they can be folded.
const foldAt = 78

// encode makes text one that every MTA passes on unchanged, and says how: as it is, or as quoted-printable, in which
// no octet but CRLF ends a line. text consists of lines that end in CRLF.
func encode(text []byte) (encoding string, body []byte) {
	if plain(text) {
		return "7bit", text
	}
	var out bytes.Buffer
	for line := range bytes.SplitAfterSeq(text, []byte("\r\n")) {
		octets, ended := bytes.CutSuffix(line, []byte("\r\n"))
		w := quotedprintable.NewWriter(&out)
		w.Binary = true
		_, _ = w.Write(octets) // a bytes.Buffer takes everything
		_ = w.Close()
		if ended {
			out.WriteString("\r\n")
		}
	}
	return "quoted-printable", out.Bytes()
}

// plain tells whether text has nothing but lines of printable ASCII, tabs included, that are not too long.
func plain(text []byte) bool {
	for line := range bytes.SplitAfterSeq(text, []byte("\r\n")) {
		line = bytes.TrimSuffix(line, []byte("\r\n"))
		if len(line) > maxLine || bytes.ContainsFunc(line, func(c rune) bool { return unprintable(c) && c != '\t' }) {
			return false
		}
	}
	return true
}

func unprintable(c rune) bool { return c < ' ' || c > '~' }

// printable tells whether s can stand in a field as it is.
func printable(s string) bool { return s != "" && !strings.ContainsFunc(s, unprintable) }

// maxWord is the longest word that is written; a line of them cannot become too long.
const maxWord = 400

// clean makes s one line of printable ASCII.
func clean(s string) string {
	s = strings.Map(func(c rune) rune {
		if unprintable(c) {
			return '?'
		}
		return c
	}, s)
	return s[:min(len(s), maxWord)]
}

// maxQuoted is how much of a text is quoted: a DNS answer over UDP is no longer.
const maxQuoted = 4096

// quoted writes s as a quoted-string that folds between words, of which one blank parts two.
// https://www.rfc-editor.org/rfc/rfc5322#section-3.2.4
func quoted(s string) string {
	words := strings.Fields(s[:min(len(s), maxQuoted)])
	for i, w := range words {
		words[i] = strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(clean(w))
	}
	return `"` + strings.Join(words, " ") + `"`
}

// fold breaks a field before words, save the first of its value, so that its lines are short where its words are. No
// line comes about that has nothing but blanks.
// https://www.rfc-editor.org/rfc/rfc5322#section-2.2.3
func fold(field string) string {
	var b strings.Builder
	line := 0
	for i, word := range strings.Split(field, " ") {
		switch {
		case i == 0:
		case i > 1 && word != "" && line+1+len(word) > foldAt:
			b.WriteString("\r\n ")
			line = 1
		default:
			b.WriteByte(' ')
			line++
		}
		b.WriteString(word)
		line += len(word)
	}
	return b.String()
}

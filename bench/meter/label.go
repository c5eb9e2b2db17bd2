package meter

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	// maxLabel is how long a label may be, in characters.
	maxLabel = 40
	// maxHead is how long its words may be where " …" stands for others behind them.
	maxHead = maxLabel - 2
	// maxReplies is how many replies are told one by one.
	maxReplies = 4
)

// token is a word of a label.
type token struct {
	kind   kind
	word   string
	n      int   // how many of them
	octets int64 // they carry
}

// label says what a part of a stream carries.
func (t *talk) label(side int, from, to int64) string {
	var words []string
	if from == 0 {
		words = append(words, [...]string{"SYN", "SYN-ACK"}[side])
		from = 1
	}
	tokens, rest := t.tokens(side, from, to)
	words = append(words, render(tokens)...)
	switch {
	case len(words) > 0 || to <= from:
	case rest != "":
		words = append(words, "…"+rest)
	default:
		words = append(words, size(to-from))
	}
	return shorten(words)
}

// tokens returns the words for all that begins in a part of a stream, and the word of what began before it.
func (t *talk) tokens(side int, from, to int64) (tokens []token, rest string) {
	for _, it := range t.during(side, from, to) {
		octets := min(it.end, to) - max(it.pos, from)
		var last token
		if len(tokens) > 0 {
			last = tokens[len(tokens)-1]
		}
		switch it.kind {
		case chunk, text, encrypted:
			if last.kind != it.kind && (it.kind != chunk || last.word != "BDAT") {
				last = token{kind: it.kind}
				tokens = append(tokens, last)
			}
			tokens[len(tokens)-1].octets += octets
			continue
		}
		switch {
		case it.pos < from:
			rest = it.word
		case it.word == "":
		case last.kind == it.kind && last.word == it.word:
			tokens[len(tokens)-1].n++
		default:
			tokens = append(tokens, token{it.kind, it.word, 1, 0})
		}
	}
	return tokens, rest
}

// render writes tokens out.
func render(tokens []token) []string {
	var words []string
	replies := 0
	for _, k := range tokens {
		if k.kind == reply {
			replies += k.n
		}
	}
	for i, k := range tokens {
		switch k.kind {
		case verb:
			words = append(words, k.verb())
		case reply:
			words = append(words, k.reply(replies > maxReplies))
		case chunk, text:
			words = append(words, "text "+size(k.octets))
		case handshake:
			if i > 0 && tokens[i-1].kind == handshake {
				words[len(words)-1] = k.after(words[len(words)-1])
				continue
			}
			words = append(words, k.word)
		case alert:
			words = append(words, joined(i, "alert"))
		case encrypted:
			if i > 0 {
				words = append(words, joined(i, size(k.octets)+" encrypted"))
			} else {
				words = append(words, "encrypted "+size(k.octets))
			}
		}
	}
	return words
}

// joined puts a plus sign before what is not the first word.
func joined(i int, word string) string {
	if i == 0 {
		return word
	}
	return "+ " + word
}

// verb returns "RCPT", "RCPT×3", "BDAT 2 KB".
func (k token) verb() string {
	word := k.word
	if k.n > 1 {
		word += "×" + strconv.Itoa(k.n)
	}
	if k.octets > 0 {
		word += " " + size(k.octets)
	}
	return word
}

// reply returns "250 250", or "250 ×2" where there are many.
func (k token) reply(many bool) string {
	if many && k.n > 1 {
		return k.word + " ×" + strconv.Itoa(k.n)
	}
	return strings.TrimSuffix(strings.Repeat(k.word+" ", k.n), " ")
}

// after adds a part of a handshake to those before it: of several that end with the same, the first are told, and of
// those as many as a label can hold.
func (k token) after(words string) string {
	head, _, _ := strings.Cut(words, "…")
	if k.word == "Finished" || k.word == "Done" {
		return leadIn(head, "…"+k.word)
	}
	if more := words + " " + k.word; utf8.RuneCountInString(more) <= maxHead {
		return more
	}
	return leadIn(head, "…")
}

// leadIn puts words before a tail, without the last of them where they are too much.
func leadIn(words, tail string) string {
	for utf8.RuneCountInString(words+tail) > maxHead {
		i := strings.LastIndexByte(words, ' ')
		if i < 0 {
			break
		}
		words = words[:i]
	}
	return words + tail
}

// size writes a number of octets for people: "140 octets", "2.1 KB" of 1024 octets each.
func size(n int64) string {
	switch {
	case n == 1:
		return "1 octet"
	case n < 1000:
		return fmt.Sprintf("%d octets", n)
	}
	v, unit := float64(n)/(1<<10), " KB"
	if v >= 1000 {
		v, unit = v/(1<<10), " MB"
	}
	if v >= 1000 {
		v, unit = v/(1<<10), " GB"
	}
	return strings.TrimSuffix(strconv.FormatFloat(v, 'f', 1, 64), ".0") + unit
}

// shorten joins words and leaves out those that are too much; the first is always told.
func shorten(words []string) string {
	length, told := -1, 1 // characters up to here, and how many words can have the mark behind them
	for i, word := range words {
		length += 1 + utf8.RuneCountInString(word)
		if length <= maxHead {
			told = i + 1
		}
		if length > maxLabel && i > 0 {
			return strings.Join(words[:told], " ") + " …"
		}
	}
	return strings.Join(words, " ")
}

package once

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"strings"
	"time"
	"unicode/utf8"
)

// An outcome, as it lies in a KV. The key:
//
//	octet  kindOutcome
//	[16]   digest of the message
//	[16]   digest of the recipient
//
// The value:
//
//	octet  recordFormat
//	uint64 written      Unix time, milliseconds
//	uint32 life         seconds, after which it is over
//	uint16 code         of the reply
//	octet  lines        of the reply; each: uint16 length, octets
//	[8]    checksum     of the key and all of the above
//
// Numbers are big-endian. The checksum is against damage, and against a record under another's key; who can forge one
// has the key of the KV.
const (
	recordFormat = 1
	kindOutcome  = 'o'
	kindProbe    = 'p' // written to see whether anything can be, and to have something to write

	keySize    = 1 + 2*len(digest{})
	headerSize = 1 + 8 + 4 + 2 + 1
	lineHead   = 2
	sumSize    = 8
)

var (
	errBroken  = errors.New("once: a record is damaged")
	errVersion = errors.New("once: a record is of another version")
)

// A record is the value of an outcome, apart from digests.
type record struct {
	written time.Time     // to the millisecond
	life    time.Duration // to the second, rounded up
	code    int
	text    string // the lines, with line feeds between them
}

func (i id) key() []byte {
	b := make([]byte, 0, keySize)
	b = append(b, kindOutcome)
	b = append(b, i.message[:]...)
	return append(b, i.recipient[:]...)
}

func parseKey(b []byte) (i id, ok bool) {
	if len(b) != keySize || b[0] != kindOutcome {
		return id{}, false
	}
	n := copy(i.message[:], b[1:])
	copy(i.recipient[:], b[1+n:])
	return i, true
}

// appendRecord appends r, whose text is one that replyText has made.
func appendRecord(b []byte, i id, r record) []byte {
	begin := len(b)
	b = append(b, recordFormat)
	b = binary.BigEndian.AppendUint64(b, uint64(r.written.UnixMilli()))
	b = binary.BigEndian.AppendUint32(b, uint32((r.life+time.Second-1)/time.Second))
	b = binary.BigEndian.AppendUint16(b, uint16(r.code))
	lines := strings.Split(r.text, "\n")
	b = append(b, byte(len(lines)))
	for _, line := range lines {
		b = binary.BigEndian.AppendUint16(b, uint16(len(line)))
		b = append(b, line...)
	}
	sum := checksum(i, b[begin:])
	return append(b, sum[:]...)
}

func checksum(i id, b []byte) [sumSize]byte {
	h := sha256.New()
	h.Write(i.key())
	h.Write(b)
	return [sumSize]byte(h.Sum(nil))
}

// parseRecord takes apart what appendRecord has made, and nothing else.
func parseRecord(i id, b []byte) (record, error) {
	if len(b) > 0 && b[0] != recordFormat {
		return record{}, errVersion
	}
	if len(b) < headerSize+sumSize || len(b) > MaxRecord {
		return record{}, errBroken
	}
	body, end := b[:len(b)-sumSize], b[len(b)-sumSize:]
	if sum := checksum(i, body); subtle.ConstantTimeCompare(sum[:], end) != 1 {
		return record{}, errBroken
	}
	millis, life := binary.BigEndian.Uint64(b[1:]), binary.BigEndian.Uint32(b[9:])
	r := record{
		written: time.UnixMilli(int64(millis)),
		life:    time.Duration(life) * time.Second,
		code:    int(binary.BigEndian.Uint16(b[13:])),
	}
	class := r.code / 100
	if class != 2 && class != 4 && class != 5 || life == 0 || r.life > MaxKeep || millis > maxMillis {
		return record{}, errBroken
	}
	var ok bool
	if r.text, ok = parseLines(body[headerSize:], int(b[15])); !ok {
		return record{}, errBroken
	}
	return r, nil
}

// maxMillis is the end of the year 9999, behind which no clock is.
const maxMillis = 253_402_300_799_999

// parseLines reads so many lines, which must be all that there is.
func parseLines(b []byte, lines int) (text string, ok bool) {
	if lines == 0 || lines > MaxLines {
		return "", false
	}
	var s strings.Builder
	for n := range lines {
		if len(b) < lineHead {
			return "", false
		}
		size := int(binary.BigEndian.Uint16(b))
		if b = b[lineHead:]; size > len(b) {
			return "", false
		}
		if n > 0 {
			s.WriteByte('\n')
		}
		line := string(b[:size])
		if cleanLine(line) != line {
			return "", false
		}
		s.WriteString(line)
		b = b[size:]
	}
	return s.String(), len(b) == 0 && s.Len() <= MaxText
}

// replyText joins lines by line feeds, as many as may be kept. It is memory of its own.
func replyText(lines []string) string {
	var s strings.Builder
	for n, line := range lines {
		if n == MaxLines || n > 0 && s.Len()+1+len(line) > MaxText {
			break
		}
		if n > 0 {
			s.WriteByte('\n')
		}
		if len(line) > MaxText {
			line = cut(line, MaxText)
		}
		s.WriteString(cleanLine(line))
	}
	return s.String()
}

// cut shortens a line without leaving part of a rune at its end.
func cut(line string, limit int) string {
	for at := limit; at > limit-utf8.UTFMax; at-- {
		if utf8.RuneStart(line[at]) {
			return line[:at]
		}
	}
	return line[:limit]
}

// cleanLine has a question mark in the place of each control character but the tab, as it would go on the wire.
func cleanLine(s string) string {
	for i := range len(s) {
		if isControl(s[i]) {
			b := []byte(s)
			for j := i; j < len(b); j++ {
				if isControl(b[j]) {
					b[j] = '?'
				}
			}
			return string(b)
		}
	}
	return s
}

func isControl(c byte) bool { return c < ' ' && c != '\t' || c == 0x7f }

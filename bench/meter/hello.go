package meter

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sort"
)

// Types of handshake messages, https://www.rfc-editor.org/rfc/rfc8446#section-4.
const (
	messageClientHello = 1
	messageServerHello = 2
	messageCertificate = 11
	messageDone        = 14
)

// maxHandshake is how many octets of a handshake in clear are read, in round numbers: more than the longest chain of
// certificates in use.
const maxHandshake = 256 << 10

// message is a handshake message in clear.
type message struct {
	typ      byte
	body     []byte
	pos, end int64 // of the record in which it begins
}

// word is what a label says of the message; "" is not worth a word.
func (m message) word(side int) string {
	switch {
	case m.typ == messageClientHello:
		return "ClientHello"
	case m.typ == messageServerHello && parseServerHello(m.body).retry:
		return "HelloRetryRequest"
	case m.typ == messageServerHello:
		return "ServerHello"
	case m.typ == messageCertificate && side == server:
		return "Certificate"
	case m.typ == messageDone:
		return "Done"
	}
	return ""
}

// readHello finds out what the server chose.
func (t *talk) readHello(records []record) {
	s := t.secure
	s.seen, s.whole = t.messages(server, records, false)
	if i := slices.IndexFunc(s.seen, message.isHello); i >= 0 {
		s.hello = parseServerHello(s.seen[i].body)
	}
	if s.hello.tls13() {
		// A second hello may follow what says, without meaning, that keys are used from now on.
		s.seen, _ = t.messages(server, records, true)
		for _, m := range s.seen {
			if m.isHello() {
				s.hello = parseServerHello(m.body)
			}
		}
	}
	s.changed = slices.ContainsFunc(records, func(r record) bool { return r.typ == recordChange })
}

func (m message) isHello() bool { return m.typ == messageServerHello }

// messages returns the handshake messages that one side sent in clear: with TLS 1.2 those before its keys are used.
// whole says that nothing of them was hidden. https://www.rfc-editor.org/rfc/rfc8446#section-5
func (t *talk) messages(side int, records []record, tls13 bool) (all []message, whole bool) {
	whole = true
	var octets []byte
	var parts []record // those that hold the octets
	var ends []int     // how many octets there are with each of them
	for _, r := range records {
		if r.typ == recordData || r.typ == recordChange && !tls13 {
			break
		}
		if r.typ != recordHandshake {
			continue
		}
		body, ok := t.cursor(side, r.pos+recordHeader).read(int(r.length()))
		if !ok || len(octets) > maxHandshake {
			whole = false
			break
		}
		octets = append(octets, body...)
		parts, ends = append(parts, r), append(ends, len(octets))
	}
	for at := 0; len(octets)-at >= 4; {
		n := int(octets[at+1])<<16 | int(octets[at+2])<<8 | int(octets[at+3])
		r := parts[sort.SearchInts(ends, at+1)]
		body := octets[at+4 : min(at+4+n, len(octets))]
		all = append(all, message{octets[at], body, r.pos, r.end})
		at += 4 + n
	}
	return all, whole
}

// serverHello is what matters here of a ServerHello, https://www.rfc-editor.org/rfc/rfc8446#section-4.1.3.
type serverHello struct {
	version uint16 // 0: none was seen
	suite   uint16
	psk     bool // a key of an earlier session was accepted
	retry   bool // it is a HelloRetryRequest
}

func (h serverHello) tls13() bool { return h.version >= 0x0304 }

// retryRandom marks a HelloRetryRequest, https://www.rfc-editor.org/rfc/rfc8446#section-4.1.3.
const retryRandom = "\xCF\x21\xAD\x74\xE5\x9A\x61\x11\xBE\x1D\x8C\x02\x1E\x65\xB8\x91" +
	"\xC2\xA2\x11\x16\x7A\xBB\x8C\x5E\x07\x9E\x09\xE2\xC8\xA8\x33\x9C"

// parseServerHello reads as much as there is.
func parseServerHello(b []byte) serverHello {
	var h serverHello
	if len(b) < 35 {
		return h
	}
	h.version = binary.BigEndian.Uint16(b)
	h.retry = bytes.Equal(b[2:34], []byte(retryRandom))
	b = b[34:]
	if len(b) < 1+int(b[0])+3 {
		return h
	}
	b = b[1+int(b[0]):]
	h.suite = binary.BigEndian.Uint16(b)
	b = b[3:]
	if len(b) < 2 {
		return h
	}
	for b = b[2:]; len(b) >= 4; {
		typ, n := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
		if b = b[4:]; len(b) < n {
			break
		}
		switch {
		case typ == 41: // pre_shared_key
			h.psk = true
		case typ == 43 && n == 2: // supported_versions
			h.version = binary.BigEndian.Uint16(b)
		}
		b = b[n:]
	}
	return h
}

// Resumed says whether the TLS session of the connection began with an earlier one, and whether that can be told: it
// cannot without TLS, nor where the server's part of the handshake is hidden.
//
// TLS 1.3 tells in its hello, https://www.rfc-editor.org/rfc/rfc8446#section-4.2.11. With TLS 1.2 the server of a
// resumed session sends no certificate, https://www.rfc-editor.org/rfc/rfc5246#section-7.3.
func (c Conn) Resumed() (yes, known bool) {
	s := c.read().secure
	switch {
	case s == nil || s.hello.version == 0:
		return false, false
	case s.hello.tls13():
		return s.hello.psk, !s.hello.retry
	}
	for _, m := range s.seen {
		if m.typ == messageCertificate || m.typ == messageDone {
			return false, true
		}
	}
	known = s.changed && s.whole
	return known, known
}

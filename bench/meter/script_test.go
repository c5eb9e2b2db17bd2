package meter_test

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"time"

	"slipstream/bench/meter"
)

var (
	clientEnd = netip.MustParseAddrPort("198.51.100.7:49152")
	serverEnd = netip.MustParseAddrPort(serverAddr)
	begin     = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
)

// ms returns a moment of a script.
func ms(n int) time.Time { return begin.Add(time.Duration(n) * time.Millisecond) }

// turn is a segment of a script. What one side says has the numbers that follow those of its last words.
type turn struct {
	ms   int    // when it enters the link; it leaves it after 50 ms
	from byte   // 'C' or 'S'
	what string // "SYN", "SYN+data", "FIN", "RST", "ACK", or the data
	how  string // "lost", "cut" (no data is kept), "again" (the last words of that side, as far as they are as long)
}

var opening = []turn{{0, 'C', "SYN", ""}, {50, 'S', "SYN", ""}, {100, 'C', "ACK", ""}}

// play makes segments of turns. The numbers of the client turn over soon.
func play(turns ...turn) []meter.Segment {
	next := map[byte]uint32{'C': 0xFFFF_FFE0, 'S': 77_000}
	var all []meter.Segment
	for _, u := range turns {
		s := meter.Segment{At: ms(u.ms), Arrives: ms(u.ms + 50), From: clientEnd, To: serverEnd, ACK: true}
		if u.from == 'S' {
			s.From, s.To = s.To, s.From
		}
		data := u.what
		switch flag, rest, _ := strings.Cut(u.what, "+"); flag {
		case "SYN":
			s.SYN, s.ACK, data = true, u.from == 'S', rest
		case "FIN":
			s.FIN, data = true, ""
		case "RST":
			s.RST, data = true, ""
		case "ACK":
			data = ""
		}
		n := uint32(len(data))
		if s.SYN || s.FIN {
			n++
		}
		s.Seq, s.Len, s.Data, s.Size = next[u.from], len(data), []byte(data), len(data)+headers
		if u.how == "again" {
			s.Seq -= n
		} else {
			next[u.from] += n
		}
		switch u.how {
		case "lost":
			s.Arrives = time.Time{}
		case "cut":
			s.Data = nil
		}
		all = append(all, s)
	}
	return all
}

// after puts turns behind an opening.
func after(turns ...turn) []turn { return append(opening[:len(opening):len(opening)], turns...) }

// Types of records.
const (
	change     = 20
	alerting   = 21
	handshakes = 22
	data       = 23
)

// record is a TLS record with a body of n octets.
func record(typ byte, n int) string { return recordOf(typ, strings.Repeat("\x99", n)) }

func recordOf(typ byte, body string) string {
	return string(append([]byte{typ, 3, 3, byte(len(body) >> 8), byte(len(body))}, body...))
}

// handshake is a handshake message.
func handshake(typ byte, body string) string {
	return string([]byte{typ, byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}) + body
}

// helloOf is a ServerHello in a record, of TLS 1.3 if the suite is of it.
func helloOf(suite uint16, random string, psk bool) string {
	b := []byte{3, 3}
	b = append(b, random...)
	b = append(b, 4, 's', 'e', 's', 's')
	b = binary.BigEndian.AppendUint16(b, suite)
	b = append(b, 0)
	var extensions []byte
	if suite>>8 == 0x13 {
		extensions = append(extensions, 0, 43, 0, 2, 3, 4)
	}
	if psk {
		extensions = append(extensions, 0, 41, 0, 2, 0, 0)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(extensions)))
	return recordOf(handshakes, handshake(2, string(append(b, extensions...))))
}

const (
	retryRandom = "\xCF\x21\xAD\x74\xE5\x9A\x61\x11\xBE\x1D\x8C\x02\x1E\x65\xB8\x91" +
		"\xC2\xA2\x11\x16\x7A\xBB\x8C\x5E\x07\x9E\x09\xE2\xC8\xA8\x33\x9C"
	someRandom = "0123456789abcdef0123456789abcdef"

	aes128of13 = 0x1301
	gcmOf12    = 0xC02F
	chachaOf12 = 0xCCA8
	cbcOf12    = 0xC013
)

var clientHello = recordOf(handshakes, handshake(1, strings.Repeat("h", 200)))

// handshake13 is a handshake of TLS 1.3 over an open connection, from 100 ms to 200 ms; the client goes on at 200 ms.
func handshake13() []turn {
	return after(
		turn{100, 'C', clientHello, ""},
		turn{150, 'S', helloOf(aes128of13, someRandom, false) + record(change, 1) + record(data, 900), ""},
		turn{200, 'C', record(change, 1) + record(data, 53), ""},
	)
}

package tlsstore

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"math"
	"net/netip"
	"time"
)

// A kind is the first octet of a key.
type kind byte

const (
	kindHello   kind = 'h'
	kindQuirk   kind = 'q'
	kindSession kind = 's'
)

func (k kind) String() string {
	switch k {
	case kindHello:
		return "ehlo"
	case kindQuirk:
		return "quirk"
	case kindSession:
		return "session"
	}
	return "unknown"
}

// life is how long a record of the kind may last at most.
func (k kind) life() time.Duration {
	switch k {
	case kindHello:
		return HelloLife
	case kindQuirk:
		return MaxQuirkLife
	case kindSession:
		return SessionLife13
	}
	return 0
}

// A recordKey is a kind and a digest of what the record is about. The digest gives all keys one size; what it stands
// for is in the record, for people.
type recordKey [keySize]byte

const keySize = 1 + 16

// newKey names the record of a kind about something, as described by about without ambiguity.
func newKey(k kind, about []byte) recordKey {
	sum := sha256.Sum256(about)
	key := recordKey{byte(k)}
	copy(key[1:], sum[:])
	return key
}

// A record, as it lies in the KV:
//
//	octet  format        recordFormat
//	octet  kind
//	uint48 written       Unix time, milliseconds
//	uint32 life          milliseconds, after which it expires
//	       body          by kind
//	[8]    checksum      of the key and all of the above
//
// There may be a million of them, so they are short. The checksum is against damage, and against a record under
// another's key; who can forge one has the key of the KV, and could forge a longer one, too.
const (
	recordFormat = 3
	headerSize   = 2 + 6 + 4
	sumSize      = 8
	recordLimit  = 1 << 20 // octets
	maxSkew      = 5 * time.Minute
)

var errBroken = errors.New("tlsstore: a record is damaged or of another version")

// newRecord begins a record. Its body is appended, then it is sealed. One that lasts no time at all, or longer than
// its kind may, does not pass for a record.
func newRecord(k kind, written, expires time.Time) []byte {
	from := written.UnixMilli()
	life := min(max(expires.UnixMilli()-from, 0), math.MaxUint32)
	b := make([]byte, 0, 512)
	b = append(b, recordFormat, byte(k))
	b = binary.BigEndian.AppendUint16(b, uint16(from>>32))
	b = binary.BigEndian.AppendUint32(b, uint32(from))
	return binary.BigEndian.AppendUint32(b, uint32(life))
}

// seal ends a record, and returns it in memory of its size: it may stay there for days.
func seal(key recordKey, b []byte) []byte {
	sum := checksum(key, b)
	return bytes.Clone(append(b, sum[:]...))
}

func checksum(key recordKey, b []byte) [sumSize]byte {
	h := sha256.New()
	h.Write(key[:])
	h.Write(b)
	return [sumSize]byte(h.Sum(nil))
}

// check says whether a record that was read is whole. Whether it is [current] is another question.
func check(key recordKey, b []byte) error {
	if len(b) < headerSize+sumSize || len(b) > recordLimit || b[0] != recordFormat || b[1] != key[0] {
		return errBroken
	}
	end := len(b) - sumSize
	sum := checksum(key, b[:end])
	if subtle.ConstantTimeCompare(sum[:], b[end:]) != 1 {
		return errBroken
	}
	if life := lifeOf(b); life == 0 || life > kind(b[1]).life() {
		return errBroken
	}
	return nil
}

// current reports whether the time of a record has come and is not over. One from the future was written by a clock
// that cannot be compared with ours.
func current(b []byte, now time.Time) bool {
	return now.Before(expiresOf(b)) && !writtenOf(b).After(now.Add(maxSkew))
}

// The parts of a record that was checked.
func writtenOf(b []byte) time.Time {
	return time.UnixMilli(int64(binary.BigEndian.Uint64(b) & (1<<48 - 1)))
}
func lifeOf(b []byte) time.Duration {
	return time.Duration(binary.BigEndian.Uint32(b[8:])) * time.Millisecond
}
func expiresOf(b []byte) time.Time { return writtenOf(b).Add(lifeOf(b)) }
func bodyOf(b []byte) []byte       { return b[headerSize : len(b)-sumSize] }

func milliTime(b []byte) time.Time { return time.UnixMilli(int64(binary.BigEndian.Uint64(b))) }

// appendText appends text or octets so that what follows it cannot be taken for a part of it.
func appendText[T string | []byte](b []byte, s T) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// appendAddr appends an address, as 4 octets or 16 and the zone, so that nothing else looks like it. It is shorter than
// addrText.
func appendAddr(b []byte, a netip.Addr) []byte {
	octets, _ := a.Unmap().MarshalBinary() // never fails
	return appendText(b, octets)
}

// appendHop is appendAddrPort, but shorter.
func appendHop(b []byte, a netip.AddrPort) []byte {
	return binary.BigEndian.AppendUint16(appendAddr(b, a.Addr()), a.Port())
}

func appendTime(b []byte, t time.Time) []byte {
	return binary.BigEndian.AppendUint64(b, uint64(t.UnixMilli()))
}

// A decoder takes a body apart. Once something is wrong it returns zeros; done says whether all was right.
type decoder struct {
	rest []byte
	bad  bool
}

// next returns the next n octets, not copied, or nil.
func (d *decoder) next(n int) []byte {
	if d.bad || n < 0 || n > len(d.rest) {
		d.bad = true
		return nil
	}
	b := d.rest[:n:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) octet() byte {
	if b := d.next(1); b != nil {
		return b[0]
	}
	return 0
}

// octets returns what appendText appended, not copied.
func (d *decoder) octets(limit int) []byte {
	n, size := binary.Uvarint(d.rest)
	if d.bad || size <= 0 || n > uint64(limit) {
		d.bad = true
		return nil
	}
	d.rest = d.rest[size:]
	return d.next(int(n))
}

func (d *decoder) text(limit int) string { return string(d.octets(limit)) }

func (d *decoder) time() time.Time {
	if b := d.next(8); b != nil {
		return milliTime(b)
	}
	return time.Time{}
}

// addr returns what appendAddr appended. IPv4 in the clothes of IPv6 is not among it.
func (d *decoder) addr() netip.Addr {
	var a netip.Addr
	err := a.UnmarshalBinary(d.octets(maxName))
	if d.bad || err != nil || a.Is4In6() {
		d.bad = true
		return netip.Addr{}
	}
	return a
}

// hop returns what appendHop appended.
func (d *decoder) hop() netip.AddrPort { return d.port(d.addr()) }

// addrPort returns what appendAddrPort appended.
func (d *decoder) addrPort() netip.AddrPort {
	var a netip.Addr
	if text := d.text(maxName); text != "" {
		var err error
		a, err = netip.ParseAddr(text)
		d.bad = d.bad || err != nil
	}
	return d.port(a)
}

func (d *decoder) port(a netip.Addr) netip.AddrPort {
	if b := d.next(2); b != nil {
		return netip.AddrPortFrom(a, binary.BigEndian.Uint16(b))
	}
	return netip.AddrPort{}
}

// done reports whether the body was well-formed and is used up.
func (d *decoder) done() bool { return !d.bad && len(d.rest) == 0 }

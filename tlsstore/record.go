package tlsstore

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
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
//	uint64 written       Unix time, milliseconds
//	uint64 expires       likewise
//	       body          by kind
//	[16]   checksum      of the key and all of the above
//
// The checksum is against damage, and against a record under another's key. Secrecy is for whoever keeps the KV.
const (
	recordFormat = 1
	headerSize   = 2 + 8 + 8
	sumSize      = 16
	recordLimit  = 1 << 20 // octets
	maxSkew      = 5 * time.Minute
)

var errBroken = errors.New("tlsstore: a record is damaged or of another version")

// newRecord begins a record. Its body is appended, then it is sealed.
func newRecord(k kind, written, expires time.Time) []byte {
	b := make([]byte, 0, 512)
	b = append(b, recordFormat, byte(k))
	b = binary.BigEndian.AppendUint64(b, uint64(written.UnixMilli()))
	return binary.BigEndian.AppendUint64(b, uint64(expires.UnixMilli()))
}

// seal ends a record.
func seal(key recordKey, b []byte) []byte {
	sum := checksum(key, b)
	return append(b, sum[:]...)
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
	written, expires := writtenOf(b), expiresOf(b)
	if expires.Before(written) || expires.Sub(written) > kind(b[1]).life() {
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
func writtenOf(b []byte) time.Time { return milliTime(b[2:]) }
func expiresOf(b []byte) time.Time { return milliTime(b[10:]) }
func bodyOf(b []byte) []byte       { return b[headerSize : len(b)-sumSize] }

func milliTime(b []byte) time.Time { return time.UnixMilli(int64(binary.BigEndian.Uint64(b))) }

// appendText appends text or octets so that what follows it cannot be taken for a part of it.
func appendText[T string | []byte](b []byte, s T) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
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

func (d *decoder) addr() netip.Addr {
	text := d.text(maxName)
	if text == "" {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(text)
	d.bad = d.bad || err != nil
	return a
}

func (d *decoder) addrPort() netip.AddrPort {
	a := d.addr()
	if b := d.next(2); b != nil {
		return netip.AddrPortFrom(a, binary.BigEndian.Uint16(b))
	}
	return netip.AddrPort{}
}

// done reports whether the body was well-formed and is used up.
func (d *decoder) done() bool { return !d.bad && len(d.rest) == 0 }

package tlsstore

import (
	"bytes"
	"net/netip"
	"time"

	"slipstream/smtpwire"
)

// Phase says on which side of the TLS handshake something was offered.
type Phase uint8

// What is offered in clear and what is offered under TLS are two different sets.
const (
	Clear   Phase = iota // before TLS, or without
	Secured              // inside TLS
)

func (p Phase) String() string {
	if p == Secured {
		return "secured"
	}
	return "clear"
}

// A PeerKey says whose EHLO set it is. The same host may offer different things to different clients, and to the same
// client by name.
type PeerKey struct {
	Host   string // as routing named it, "" if it did not: for people to find it by, and no part of the key
	Addr   netip.AddrPort
	Hello  string     // the name that we say in EHLO
	Source netip.Addr // the address we come from; zero: any
	Phase  Phase
}

const (
	// HelloLife is how long an EHLO set is believed after it was heard. Use does not prolong it.
	HelloLife = 7 * 24 * time.Hour

	helloFresh = time.Hour // the same set is not written again so soon
	maxHello   = 16 << 10  // octets of one record; the largest sets in the field have less than 1 KiB
	maxName    = 1024      // octets of a host name in a record
)

// Known returns what the peer offered when last heard, as [Lasting] has it, and whether that is known.
func (s *Store) Known(k PeerKey) (smtpwire.EHLO, bool) {
	value := s.get(k.key())
	if value == nil {
		return smtpwire.EHLO{}, false
	}
	r, ok := decodeHello(bodyOf(value))
	return r.ehlo, ok
}

// Learn remembers what the peer answered to EHLO. A set that offers nothing, or is larger than any honest one, is
// forgotten instead.
func (s *Store) Learn(k PeerKey, e smtpwire.EHLO) {
	key := k.key()
	e = Lasting(e)
	now := s.now()
	value := encodeHello(key, k, e, now)
	if value == nil {
		s.forget(key)
		return
	}
	s.update(key, func(old []byte) ([]byte, bool) {
		fresh := old != nil && current(old, now) && now.Sub(writtenOf(old)) < helloFresh
		return value, !fresh || !bytes.Equal(offeredIn(bodyOf(old)), offeredIn(bodyOf(value)))
	})
}

// Forget forgets what the peer offered.
func (s *Store) Forget(k PeerKey) { s.forget(k.key()) }

// Lasting is what of an EHLO set may be remembered for the next connection, and so what a later set is to be compared
// with. LIMITS holds for one session only: https://www.rfc-editor.org/rfc/rfc9422
func Lasting(e smtpwire.EHLO) smtpwire.EHLO {
	if !e.Has("LIMITS") {
		return e
	}
	return e.Without("LIMITS")
}

func (k PeerKey) key() recordKey {
	var room [512]byte
	b := appendAddrPort(room[:0], k.Addr)
	b = appendText(b, cleanName(k.Hello))
	b = appendText(b, addrText(k.Source))
	return newKey(kindHello, append(b, byte(k.Phase)))
}

// encodeHello returns the record, nil where there is nothing worth keeping.
func encodeHello(key recordKey, k PeerKey, e smtpwire.EHLO, now time.Time) []byte {
	keywords := e.Keywords()
	if len(keywords) == 0 || len(k.Hello) > maxName || len(k.Host) > maxName {
		return nil
	}
	b := newRecord(kindHello, now, now.Add(HelloLife))
	b = appendText(b, cleanName(k.Host))
	b = appendHop(b, k.Addr)
	b = appendText(b, cleanName(k.Hello))
	b = appendAddr(b, k.Source)
	b = append(b, byte(k.Phase))
	b = appendText(b, e.Host())
	b = append(b, byte(len(keywords))) // smtpwire.EHLO has at most 100
	for _, p := range keywords {
		b = appendKeyword(b, p)
	}
	if len(b) > maxHello {
		return nil
	}
	return seal(key, b)
}

// offeredIn is a body without the host's name: several names may stand for one address, which is no news.
func offeredIn(body []byte) []byte {
	d := decoder{rest: body}
	d.octets(maxName)
	return d.rest
}

// helloRecord is an EHLO set as it was stored.
type helloRecord struct {
	key  PeerKey
	ehlo smtpwire.EHLO
}

func decodeHello(body []byte) (helloRecord, bool) {
	d := decoder{rest: body}
	var r helloRecord
	r.key.Host = d.text(maxName)
	r.key.Addr = d.hop()
	r.key.Hello = d.text(maxName)
	r.key.Source = d.addr()
	r.key.Phase = Phase(d.octet())
	host := d.text(maxName)
	keywords := make([]smtpwire.Param, d.octet())
	for i := range keywords {
		keywords[i] = d.keyword()
	}
	if !d.done() || r.key.Phase > Secured {
		return helloRecord{}, false
	}
	r.ehlo = smtpwire.NewEHLO(host, keywords...)
	return r, true
}

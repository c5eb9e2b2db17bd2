package tlsstore

import (
	"net/netip"
	"time"
)

// A Quirk is something that a peer cannot do, learned by failure: a short word.
type Quirk string

// What peers have been seen not to bear.
const (
	QuirkNoEarly   Quirk = "no-early"   // refuses commands before its greeting or its answer to EHLO
	QuirkNoTickets Quirk = "no-tickets" // breaks the handshake when a ticket comes or is offered
	QuirkNoTLS     Quirk = "no-tls"     // offers STARTTLS and cannot do it; never a reason to weaken a policy
)

const (
	// MaxQuirkLife bounds how long a quirk is believed: peers get repaired.
	MaxQuirkLife = 30 * 24 * time.Hour

	maxQuirk = 64 // octets
)

// Quirk reports whether the peer is known to have the quirk.
func (s *Store) Quirk(addr netip.AddrPort, q Quirk) bool {
	value := s.get(quirkKey(addr, q))
	return value != nil
}

// SetQuirk remembers a quirk for a time, at least a second and at most [MaxQuirkLife].
func (s *Store) SetQuirk(addr netip.AddrPort, q Quirk, ttl time.Duration) {
	if len(q) > maxQuirk {
		return
	}
	now := s.now()
	b := newRecord(kindQuirk, now, now.Add(min(max(ttl, time.Second), MaxQuirkLife)))
	b = appendAddrPort(b, addr)
	b = appendText(b, string(q))
	key := quirkKey(addr, q)
	s.set(key, seal(key, b))
}

// ClearQuirk forgets a quirk.
func (s *Store) ClearQuirk(addr netip.AddrPort, q Quirk) { s.forget(quirkKey(addr, q)) }

func quirkKey(addr netip.AddrPort, q Quirk) recordKey {
	var room [128]byte
	return newKey(kindQuirk, appendText(appendAddrPort(room[:0], addr), string(q)))
}

// quirkRecord is a quirk as it was stored.
type quirkRecord struct {
	addr  netip.AddrPort
	quirk Quirk
}

func decodeQuirk(body []byte) (quirkRecord, bool) {
	d := decoder{rest: body}
	r := quirkRecord{addr: d.addrPort(), quirk: Quirk(d.text(maxQuirk))}
	return r, d.done()
}

package tlsstore

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"time"
)

const (
	maxTicket = 12 << 10 // octets; the largest in the field carry a client's certificates and have some KiB
	// maxState is octets. A chain of three RSA certificates, verified, makes about 8 KiB, and one of 4096 bits with a
	// hundred names not twice that. What is larger saves no more than the rest and fills the front: there is room for
	// a thousand of this size.
	maxState = 16 << 10
	maxWords = 1 << 10 // octets of the names in a Scope; with more of them nothing is stored
	// maxSessions is octets of all sessions of a scope. A single one always has room, and so have four of the usual
	// size: nobody gets more of the store by sending large tickets and chains.
	maxSessions = 48 << 10
	maxGo       = 256 // octets of the name of a version of Go
)

// A session is one that may be resumed.
type session struct {
	ticket   []byte
	state    []byte    // as crypto/tls encodes it: secret, certificates, and what was negotiated
	origin   time.Time // of the full handshake
	expires  time.Time
	used     bool // was offered
	judged   bool // whether it is verified is known
	verified bool
}

// size is what the session takes of a record, at most.
func (s *session) size() int {
	return len(s.ticket) + len(s.state) + 1 + 8 + 8 + 2*binary.MaxVarintLen32
}

// fits reports whether the names can stand in a record.
func (sc Scope) fits() bool {
	return len(sc.Host)+len(sc.ServerName)+len(sc.Node)+len(sc.Level)+len(sc.Addr.Addr().Zone()) <= maxWords
}

const (
	flagUsed = 1 << iota
	flagJudged
	flagVerified
)

// resumption returns the session as crypto/tls wants it. The record is not lent out.
func (s *session) resumption() (*tls.ClientSessionState, error) {
	state, err := tls.ParseSessionState(bytes.Clone(s.state))
	if err != nil {
		return nil, err
	}
	return tls.NewResumptionState(bytes.Clone(s.ticket), state)
}

// encodeSessions returns the record of a scope's sessions, of which there is at least one, the newest first. now may be
// a little earlier than that; see stampOf.
func encodeSessions(key recordKey, sc Scope, sessions []session, now time.Time) []byte {
	expires := sessions[0].expires
	for _, s := range sessions {
		if s.expires.After(expires) {
			expires = s.expires
		}
	}
	if most := now.Add(SessionLife13); expires.After(most) {
		expires = most
	}
	b := newRecord(kindSession, now, expires)
	b = appendText(b, goVersion())
	b = appendText(b, cleanName(sc.Host))
	b = appendHop(b, sc.Addr)
	b = appendText(b, cleanName(sc.ServerName))
	b = appendText(b, sc.Level)
	b = appendText(b, cleanName(sc.Node))
	b = appendAddr(b, sc.Source)
	b = append(b, byte(len(sessions)))
	for _, s := range sessions {
		b = append(b, s.flags())
		b = appendTime(b, s.origin)
		b = appendTime(b, s.expires)
		b = appendText(b, s.ticket)
		b = appendText(b, s.state)
	}
	return seal(key, b)
}

func (s *session) flags() (f byte) {
	if s.used {
		f |= flagUsed
	}
	if s.judged {
		f |= flagJudged
	}
	if s.verified {
		f |= flagVerified
	}
	return f
}

// sessionRecord is the record of a scope's sessions.
type sessionRecord struct {
	goVersion string
	scope     Scope // without digests
	sessions  []session
}

// decodeSessions takes a body apart. Tickets and states are not copied.
func decodeSessions(body []byte) (sessionRecord, bool) {
	d := decoder{rest: body}
	var r sessionRecord
	r.goVersion = d.text(maxGo)
	r.scope.Host = d.text(maxWords)
	r.scope.Addr = d.hop()
	r.scope.ServerName = d.text(maxWords)
	r.scope.Level = d.text(maxWords)
	r.scope.Node = d.text(maxWords)
	r.scope.Source = d.addr()
	n := int(d.octet())
	if n == 0 || n > SessionsKept {
		return sessionRecord{}, false
	}
	r.sessions = make([]session, 0, n)
	for range n {
		flags := d.octet()
		s := session{
			used:     flags&flagUsed != 0,
			judged:   flags&flagJudged != 0,
			verified: flags&flagVerified != 0,
			origin:   d.time(),
			expires:  d.time(),
			ticket:   d.octets(maxTicket),
			state:    d.octets(maxState),
		}
		if flags >= flagVerified<<1 || s.verified && !s.judged || s.expires.Sub(s.origin) > SessionLife13 {
			return sessionRecord{}, false
		}
		r.sessions = append(r.sessions, s)
	}
	return r, d.done()
}

// currentSessions returns the sessions of a record that may be offered, and how many are too old. What another version
// of Go has written is not looked at.
func currentSessions(record []byte, now time.Time) (sessions []session, expired int) {
	if record == nil {
		return nil, 0
	}
	r, ok := decodeSessions(bodyOf(record))
	if !ok || r.goVersion != goVersion() {
		return nil, 0
	}
	sessions = make([]session, 0, len(r.sessions))
	for _, s := range r.sessions {
		if current(record, now) && now.Before(s.expires) && !s.origin.After(now.Add(maxSkew)) {
			sessions = append(sessions, s)
		}
	}
	return sessions, len(r.sessions) - len(sessions)
}

// What follows reads in the encoding of tls.SessionState, which is described where it is declared but promised to
// nobody. Only hints are taken from it, and only ones that make a session's life shorter; where the encoding should
// differ one day nothing fits, and the limits of this package hold alone.

// isTLS13 reports whether the state is of TLS 1.3.
func isTLS13(state []byte) bool {
	return len(state) > 2 && binary.BigEndian.Uint16(state) == tls.VersionTLS13
}

// useBy returns when the ticket's life, which the peer named, is over. Only a time that a ticket can have is believed.
func useBy(state []byte, now time.Time) (time.Time, bool) {
	const tail = 8 + 4 // use_by and age_add are last
	if len(state) < tail {
		return time.Time{}, false
	}
	seconds := binary.BigEndian.Uint64(state[len(state)-tail:])
	first, last := now.Add(-maxSkew), now.Add(SessionLife13+maxSkew)
	if seconds < uint64(first.Unix()) || seconds > uint64(last.Unix()) {
		return time.Time{}, false
	}
	return time.Unix(int64(seconds), 0), true
}

// sameSecret reports whether two states share their secret, as those of TLS 1.2 do when one was made by resuming the
// other.
func sameSecret(a, b []byte) bool {
	sa, sb := secretOf(a), secretOf(b)
	return len(sa) > 0 && bytes.Equal(sa, sb)
}

func secretOf(state []byte) []byte {
	const before = 2 + 1 + 2 + 8 // version, type, cipher suite, time
	if len(state) <= before {
		return nil
	}
	n := int(state[before])
	if len(state) < before+1+n {
		return nil
	}
	return state[before+1 : before+1+n]
}

package tlsstore

import (
	"bytes"
	"crypto/tls"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// SessionLife13 is how long after the full handshake, in which the peer proved who it is, TLS 1.3 sessions that
	// come of it may be resumed. A ticket's own life is no longer than that, but each resumption brings a new ticket.
	// https://www.rfc-editor.org/rfc/rfc8446#section-4.6.1
	SessionLife13 = 7 * 24 * time.Hour
	// SessionLife12 is the same for TLS 1.2, in which all of them share one master secret.
	// https://www.rfc-editor.org/rfc/rfc5246#appendix-F.1.4
	SessionLife12 = 24 * time.Hour
	// SessionsKept is how many sessions are kept of one Scope, and how many of one connection. A peer may send any
	// number; what comes on top is not looked at.
	SessionsKept = 4
)

// A SessionCache is the crypto/tls.ClientSessionCache of one connection. It looks at its Scope only, never at the key
// of crypto/tls, which is no more than the server's name. Its methods may be called from several goroutines.
//
// The connection's VerifyConnection should call SetResumed and SetVerified: under TLS 1.3 sessions come later, with the
// first Read or any other, and keep what was said then.
type SessionCache struct {
	store *Store
	scope Scope
	key   recordKey

	puts atomic.Int64 // sessions that came

	mu       sync.Mutex
	withheld bool
	lost     bool     // the connection is, by what was offered: nothing of it is kept
	onOffer  func()   // may be nil
	offered  *session // what Get returned last
	brought  [][]byte // the tickets of those that were kept
	resumed  bool     // the connection resumes what was offered; as long as nobody says otherwise this is assumed
	judged   bool     // SetVerified was called
	verified bool
	expired  int
}

// Sessions returns the sessions of a scope for one connection.
func (s *Store) Sessions(sc Scope) *SessionCache {
	return &SessionCache{store: s, scope: sc, key: sc.key(), resumed: true}
}

// Get returns a session to offer: the newest that was never offered, else the newest. One that is too old is thrown
// away and counted, not offered.
func (c *SessionCache) Get(string) (*tls.ClientSessionState, bool) {
	state, onOffer := c.offer()
	if state != nil && onOffer != nil {
		onOffer()
	}
	return state, state != nil
}

// OnOffer has f called whenever Get has found a session to offer, on Get's goroutine, which is that of the handshake.
func (c *SessionCache) OnOffer(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onOffer = f
}

// offer is Get but for the call.
func (c *SessionCache) offer() (*tls.ClientSessionState, func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.withheld {
		return nil, nil
	}
	if c.store.look(c.key) == nil { // from here on it is in the front
		c.store.count.misses.Add(1)
		return nil, nil
	}
	for {
		chosen := c.choose()
		if chosen == nil {
			c.store.count.misses.Add(1)
			return nil, nil
		}
		state, err := chosen.resumption()
		if err == nil {
			c.store.count.hits.Add(1)
			c.offered = chosen
			return state, c.onOffer
		}
		c.store.count.broken.Add(1)
		c.remove(chosen.ticket)
	}
}

// choose picks a session, notes in the record that it is used now, and throws away those that are too old. That it is
// used is not worth a write of its own: after a restart it may be offered once more.
func (c *SessionCache) choose() (chosen *session) {
	now, expired := c.store.now(), 0
	c.change(func(old []byte) ([]byte, change) {
		var sessions []session
		sessions, expired = currentSessions(old, now)
		switch {
		case len(sessions) > 0:
		case old != nil:
			chosen = nil
			return nil, written
		default:
			chosen = nil
			return nil, unchanged
		}
		i := newest(sessions)
		same := expired == 0 && sessions[i].used
		sessions[i].used = true
		chosen = &sessions[i]
		if same {
			return nil, unchanged
		}
		return encodeSessions(c.key, c.scope, sessions, stampOf(old, now)), remembered
	})
	c.expired += expired
	c.store.count.expired.Add(uint64(expired))
	return chosen
}

// newest returns the index of the newest session that is not used, else of the newest. The newest is first.
func newest(sessions []session) int {
	for i := range sessions {
		if !sessions[i].used {
			return i
		}
	}
	return 0
}

// Put keeps a session, one of the first few that come on a connection. Of nil, which crypto/tls puts when the session
// that was offered is no good, it does what Drop does.
func (c *SessionCache) Put(_ string, cs *tls.ClientSessionState) {
	if cs == nil {
		c.Drop()
		return
	}
	if c.puts.Load() >= SessionsKept || c.puts.Add(1) > SessionsKept {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now, expired := c.store.now(), 0
	fresh, ok := c.newSession(cs, now)
	if !ok || c.lost {
		return
	}
	c.change(func(old []byte) ([]byte, change) {
		var sessions []session
		sessions, expired = currentSessions(old, now)
		stamp, what := now, written
		if len(sessions) > 0 && now.Sub(writtenOf(old)) < sessionsEvery {
			stamp, what = stampOf(old, now), remembered
		}
		return encodeSessions(c.key, c.scope, with(sessions, fresh), stamp), what
	})
	c.store.count.expired.Add(uint64(expired))
	c.brought = append(c.brought, fresh.ticket)
}

// newSession is what to keep of a session that the peer gave us. A session that was made by resuming another is no
// younger than that, and no better checked.
func (c *SessionCache) newSession(cs *tls.ClientSessionState, now time.Time) (session, bool) {
	ticket, state, err := cs.ResumptionState()
	if err != nil || state == nil {
		return session{}, false
	}
	raw, err := state.Bytes()
	if err != nil || len(ticket) == 0 || len(ticket) > maxTicket || len(raw) > maxState || !c.scope.fits() {
		return session{}, false
	}
	n := session{ticket: ticket, state: raw, origin: now, judged: c.judged, verified: c.judged && c.verified}
	if from := c.offered; from != nil && (c.resumed || sameSecret(from.state, raw)) {
		n.origin = from.origin
		n.judged = n.judged && from.judged
		n.verified = n.verified && from.verified
	}
	n.expires = n.origin.Add(SessionLife13)
	if !isTLS13(raw) {
		n.expires = n.origin.Add(c.store.life12)
	} else if end, ok := useBy(raw, now); ok && end.Before(n.expires) {
		n.expires = end
	}
	return n, now.Before(n.expires)
}

// with puts a session in front of the others, as far as there is room for all of them. What is one too many is the
// oldest that was used, else the oldest.
func with(sessions []session, fresh session) []session {
	all := append(make([]session, 0, SessionsKept+1), fresh)
	octets := fresh.size()
	for _, s := range sessions {
		if !bytes.Equal(s.ticket, fresh.ticket) {
			all = append(all, s)
			octets += s.size()
		}
	}
	for len(all) > SessionsKept || octets > maxSessions {
		drop := len(all) - 1
		for i := drop; i > 0; i-- {
			if all[i].used {
				drop = i
				break
			}
		}
		octets -= all[drop].size()
		all = append(all[:drop], all[drop+1:]...)
	}
	return all
}

// Offered reports whether a session was given to crypto/tls to offer. In rare cases it does not do so after all: when
// the configuration has changed so that version or cipher suite are gone, or the peer's certificate is over.
func (c *SessionCache) Offered() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.offered != nil
}

// Stored returns how many sessions the connection brought that were kept.
func (c *SessionCache) Stored() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.brought)
}

// Expired returns how many sessions were thrown away for their age when one was to be offered.
func (c *SessionCache) Expired() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.expired
}

// Drop forgets the session that was offered: the peer refused it, or broke on it. Others of the scope are kept.
func (c *SessionCache) Drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.offered != nil {
		c.remove(c.offered.ticket)
	}
}

// Discard forgets the session that was offered and those that the connection has brought, and keeps none that it still
// brings: the peer broke on it, so what comes of it is no better.
func (c *SessionCache) Discard() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost = true
	tickets := c.brought
	if c.offered != nil {
		tickets = append(tickets, c.offered.ticket)
	}
	c.brought = nil
	if len(tickets) > 0 {
		c.remove(tickets...)
	}
}

// Withhold ends offering on this cache. New sessions are still kept: it is for the connection that repairs one that
// broke on a ticket.
func (c *SessionCache) Withhold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.withheld = true
}

// Verified returns, of the session that was offered, whether the peer's certificate had passed the check when it was
// made, and whether that is known. A resumed connection shows no certificate: it is verified only if its origin was.
// Without an offered session nothing is known.
func (c *SessionCache) Verified() (origin, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.offered == nil {
		return false, false
	}
	return c.offered.verified, c.offered.judged
}

// SetVerified says whether the peer's certificate passed the check on this connection. For sessions that come of a
// resumed connection, the origin's result counts as well.
func (c *SessionCache) SetVerified(verified bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.judged, c.verified = true, verified
}

// SetResumed says whether the connection resumed what was offered, as tls.ConnectionState.DidResume has it. Unless
// false is said, sessions of a connection that offered one inherit its age and what was checked of it.
func (c *SessionCache) SetResumed(resumed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.resumed = resumed
}

// remove forgets sessions. It is called with the lock held.
func (c *SessionCache) remove(tickets ...[]byte) {
	now := c.store.now()
	c.change(func(old []byte) ([]byte, change) {
		sessions, _ := currentSessions(old, now)
		left := make([]session, 0, len(sessions))
		for _, s := range sessions {
			if !slices.ContainsFunc(tickets, func(t []byte) bool { return bytes.Equal(t, s.ticket) }) {
				left = append(left, s)
			}
		}
		switch {
		case len(left) == len(sessions):
			return nil, unchanged
		case len(left) == 0:
			return nil, written
		}
		return encodeSessions(c.key, c.scope, left, now), written
	})
}

// goVersion is what wrote a session: the encoding of crypto/tls may be another in the next version.
func goVersion() string { return runtime.Version() }

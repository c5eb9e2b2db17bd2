package proxy

import (
	"context"
	"errors"
	"net"
	"time"

	"go.uber.org/zap"

	"slipstream/smtpwire"
)

// An ownPeer is a session's own connection to the backend: for a login, and for
// commands that are passed on. It may have come from the pool, but nobody else
// has it afterwards, and what is not mail on it is never held against others.
//
// Where the client has logged in, all of its mail goes over this connection. When
// it ends the session ends, since the backend knows nothing of the login on
// another. Before a login it may be replaced; mail goes the usual way then.
type ownPeer struct {
	peer      *peer  // nil: none is open
	mechanism string // that the client logged in by; "": it has not
	failures  int    // logins that failed
	passed    int    // commands that were passed on
}

func (o *ownPeer) loggedIn() bool { return o.mechanism != "" }

// holds tells whether a connection is the session's own.
func (o *ownPeer) holds(p *peer) bool { return p != nil && o.peer == p }

// lost tells whether the connection that the client logged in on has ended.
func (o *ownPeer) lost() bool { return o.loggedIn() && o.peer.broken }

// drop ends a connection that nothing depends on.
func (o *ownPeer) drop() {
	if o.peer != nil && !o.loggedIn() {
		o.peer.leave()
		o.peer = nil
	}
}

// endedBy tells whether an error is why the connection with the login has ended,
// so that it is the session's end too. Where the outcome of a message is in doubt,
// that comes first.
func (o *ownPeer) endedBy(err error) bool {
	var doubt *doubtError
	return err != nil && o.lost() && !errors.As(err, &doubt)
}

// readyOwn readies the session's own connection for a transaction: it must be
// there if the client has logged in, and is in the way of others if not.
func (s *session) readyOwn() bool {
	if !s.own.loggedIn() {
		s.own.drop()
		return true
	}
	if p := s.own.peer; p.settled() && p.quiet() {
		return true
	}
	s.log.Info("session ended by us", zap.Error(errLoginLost))
	s.own.peer.close()
	return false
}

// end ends it with the session.
func (o *ownPeer) end() {
	if o.peer != nil {
		o.peer.quit()
	}
}

// errLoginLost: the login ended with the connection it was on.
var errLoginLost = errors.New("the connection to the backend was lost, and the login with it")

// loginLost is what the client hears then.
func (s *session) loginLost() smtpwire.Reply {
	const why = "the mail system has closed the connection that you logged in on, please log in again (S="
	return composed(421, "4.3.2", why+s.id+")")
}

// endLost ends a session whose login is gone, unless it ends already.
func (s *session) endLost() {
	if s.over || s.tx != nil || !s.own.lost() {
		return
	}
	s.log.Info("session ended by us", zap.Error(errLoginLost))
	s.say(s.loginLost())
	s.over = true
}

// ownConnection hands out the session's own connection, which is opened where
// there is none. It has been told who the client is, as any is.
func (s *session) ownConnection(ctx context.Context) (*peer, error) {
	if p := s.own.peer; p != nil {
		switch {
		case p.settled() && p.quiet():
			return p, nil
		case s.own.loggedIn():
			p.close()
			return nil, errLoginLost
		}
		p.close()
		s.own.peer = nil
	}
	setup := s.times.Setup
	ctx, cancel := context.WithTimeoutCause(ctx, setup, &waitError{what: "the next hop", limit: setup})
	defer cancel()
	r, err := s.door.router.Route(ctx, smtpwire.Path{}, smtpwire.Path{})
	if err != nil {
		return nil, err
	}
	s.yieldKept() // what is kept for mail may have the place that this one needs
	t := &transaction{s: s}
	err = &peerError{hop: r.Key, during: duringConnect, err: errors.New("there is no address to connect to")}
	for p, failed := range s.door.caller.peers(ctx, r, t.identity(), inLockStep) {
		if err = failed; err == nil {
			s.own.peer = p
			p.end, p.trialEnd = time.Time{}, time.Time{}
			s.door.learn(p.pipe.EHLO())
			return p, nil
		}
		s.log.Debug("hop gave no answer", zap.Error(err))
	}
	return nil, err
}

// private tells whether nobody between us and the hop can listen: it is on this
// machine, or the connection is protected.
func (p *peer) private() bool {
	if p.tls != nil {
		return true
	}
	switch to := p.wire.RemoteAddr().(type) {
	case *net.UnixAddr:
		return true
	case *net.TCPAddr:
		return to.IP.IsLoopback()
	}
	return false
}

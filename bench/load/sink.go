package load

import (
	"context"
	"crypto/tls"
	"net"
	"sync"

	"slipstream/bench/refpeer"
)

// A sink takes messages at one address. Each turn gets a reference sink of its own, so that none grows with the run.
type sink struct {
	ln   net.Listener
	tls  *tls.Config // nil: no STARTTLS
	done sync.WaitGroup

	mu  sync.Mutex
	now *shift
}

// A shift is the reference sink of one turn.
type shift struct {
	server *refpeer.Server
	ctx    context.Context
	end    context.CancelFunc
	conns  sync.WaitGroup
}

func openSink(secure *tls.Config) (*sink, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &sink{ln: ln, tls: secure}
	s.now = s.newShift()
	s.done.Go(s.accept)
	return s, nil
}

func (s *sink) addr() string { return s.ln.Addr().String() }

func (s *sink) newShift() *shift {
	server := refpeer.Sink("sink.example")
	server.TLS = s.tls
	ctx, end := context.WithCancel(context.Background())
	return &shift{server: server, ctx: ctx, end: end}
}

func (s *sink) accept() {
	for {
		conn, err := s.ln.Accept()
		if err != nil {
			return // closed
		}
		s.mu.Lock()
		shift := s.now
		shift.conns.Go(func() { shift.server.ServeConn(shift.ctx, conn) })
		s.mu.Unlock()
	}
}

// change ends the shift, with every connection that is still open, and returns how often each message came during it.
func (s *sink) change() map[string]int {
	s.mu.Lock()
	old := s.now
	s.now = s.newShift()
	s.mu.Unlock()
	old.end()
	old.conns.Wait()
	return old.server.IDs()
}

func (s *sink) close() {
	_ = s.ln.Close() // what it has accepted is ended below
	s.done.Wait()
	s.change()
	s.now.end()
}

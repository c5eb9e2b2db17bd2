package refpeer

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"
)

const (
	// MaxLine bounds a command line with its CRLF, in octets. It is far above
	// https://www.rfc-editor.org/rfc/rfc5321#section-4.5.3.1.4, since every
	// extension adds to that.
	MaxLine = 8192
	// MaxText bounds one message, in octets, where Server.Keywords.Size does not.
	MaxText = 256 << 20
	// MaxOctets is the default of Server.Record.
	MaxOctets = 1 << 20
	// MaxOpen bounds the connections that a Server serves at once; more get 421.
	MaxOpen = 2000
	// MaxRecords bounds each list that a Server keeps: of connections, of messages
	// and of violations. What comes later is served and counted, but not listed.
	MaxRecords = 1 << 20
	// DefaultIdle is the default of Server.Idle:
	// https://www.rfc-editor.org/rfc/rfc5321#section-4.5.3.2.7
	DefaultIdle = 5 * time.Minute

	readBuffer = 32 << 10
)

// Server is a scripted SMTP or LMTP server. The zero value is a modern server
// without extensions. Fields may not change once it serves.
type Server struct {
	Hostname string // in the banner and in the reply to EHLO; default "mx.example"
	Banner   string // the text behind "220 "; default Hostname and "ESMTP"
	Old      bool   // knows HELO alone; EHLO gets 500
	LMTP     bool   // LHLO, and one final reply for each recipient
	Keywords Keywords

	TLS      *tls.Config // offers STARTTLS
	Implicit bool        // TLS begins before the banner, with TLS

	// ProxyHeader expects a PROXY header, version 1 or 2, before all else, and
	// closes the connection where there is none.
	ProxyHeader bool

	// StrictLockstep ends a connection with 554 whose client did not wait: more
	// input is at hand when a reply is due that it may not be sent ahead of. Without
	// PIPELINING that is every reply, with it the replies to commands that end a
	// group: https://www.rfc-editor.org/rfc/rfc2920#section-3.1. It can only see what
	// was read already; Action.Delay makes it look longer, before the banner too.
	StrictLockstep bool

	// Behave, if set, is asked before every reply. It is called from one goroutine
	// for each connection.
	Behave func(Event) Action

	// RcptReplies and FinalReplies hold replies, "550 5.1.1 unknown", for
	// recipients by mailbox, "u@example.org": those to RCPT, and those at the end
	// of data. With SMTP, the first recipient that is listed decides for all.
	RcptReplies  map[string]string
	FinalReplies map[string]string

	// Cut, if set, is asked for each connection, by number, where to break off.
	Cut func(conn int) Cut

	// Lenient makes a message end not only at CRLF.CRLF but at these too, as
	// vulnerable servers do, and accepts command lines that end in a bare LF.
	Lenient []Ending

	// Overhear, if set, is told of what passes inside of TLS: what was read, and what is about to be written. It is
	// called from one goroutine for each connection, and may not keep the octets.
	Overhear func(conn int, sent bool, octets []byte)

	// Record bounds the octets kept of each direction of each connection; default
	// MaxOctets, negative: none.
	Record int
	// Brief keeps of a message its size, digest and id, and of a connection
	// nothing once it has ended.
	Brief bool
	// Idle is how long a read may wait; default DefaultIdle.
	Idle time.Duration

	mu         sync.Mutex
	changed    chan struct{} // closed at the next delivery
	stop       func()
	done       chan struct{} // closed when a started Serve returned
	conns      []*Connection
	accepted   int
	open       int
	messages   []*Message // complete ones, refused or not
	delivered  int
	violations []Violation
}

// Keywords is what a server offers.
type Keywords struct {
	Pipelining, Chunking, EightBitMIME, SMTPUTF8, DSN, EnhancedStatusCodes bool

	PipeConnect bool     // a client that knows us need not wait for banner and EHLO
	Size        int64    // of a message, in octets; 0: not offered, no limit but MaxText
	Xclient     string   // attributes that we take: "NAME ADDR PORT"
	Extra       []string // further lines, as they are: "LIMITS RCPTMAX=10"
}

// Modern returns everything a large receiver offers, without PipeConnect.
func Modern() Keywords {
	return Keywords{Pipelining: true, Chunking: true, EightBitMIME: true, SMTPUTF8: true, DSN: true,
		EnhancedStatusCodes: true, Size: 50 << 20}
}

// Cut breaks a connection off once After octets were read from it, below TLS and
// with a PROXY header; 0 never. Answers to what was read earlier have gone out;
// those to the last octets have only with Answered.
type Cut struct {
	After    int64
	Reset    bool // reset, not close
	Answered bool // everything that is complete in the octets is done and answered before
}

// Ending is a sequence of octets at which some server ends a message.
type Ending string

// Endings that are known from servers in use, and that are not the one of
// https://www.rfc-editor.org/rfc/rfc5321#section-4.1.1.4.
const (
	LFDotLF     Ending = "\n.\n"
	LFDotCRLF   Ending = "\n.\r\n"
	CRLFDotLF   Ending = "\r\n.\n"
	LFDotCR     Ending = "\n.\r"
	CRLFDotCR   Ending = "\r\n.\r"
	CRDotCR     Ending = "\r.\r"
	CRDotLF     Ending = "\r.\n"
	CRDotCRLF   Ending = "\r.\r\n"
	crlfDotCRLF Ending = "\r\n.\r\n"
)

// Start serves in the background until Close.
func (s *Server) Start(ln net.Listener) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	s.mu.Lock()
	s.stop, s.done = cancel, done
	s.mu.Unlock()
	go func() {
		defer close(done)
		s.Serve(ctx, ln)
	}()
}

// Close ends what Start began: listener, connections and goroutines.
func (s *Server) Close() {
	s.mu.Lock()
	stop, done := s.stop, s.done
	s.mu.Unlock()
	if stop != nil {
		stop()
		<-done
	}
}

// Serve takes connections from ln until ctx ends, and then closes ln and all of
// them. It returns once every goroutine is gone: nil after ctx, else why ln
// failed.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	for {
		conn, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			ln.Close()
			return err
		}
		wg.Go(func() { s.serveConn(ctx, conn) })
	}
}

// ServeConn serves one connection until it ends or ctx does, and closes it.
func (s *Server) ServeConn(ctx context.Context, conn net.Conn) { s.serveConn(ctx, conn) }

func (s *Server) serveConn(ctx context.Context, conn net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer conn.Close()
	rec, crowded := s.enter(conn)
	c := newSession(ctx, s, conn, rec)
	err := errCrowded
	if crowded {
		c.write("421 4.3.2 too many connections\r\n")
		c.w.Flush()
	} else {
		err = c.serve()
	}
	if errors.Is(err, errDone) {
		err = nil
	}
	s.leave(rec, err)
}

func (s *Server) hostname() string {
	if s.Hostname == "" {
		return "mx.example"
	}
	return s.Hostname
}

func (s *Server) idle() time.Duration {
	if s.Idle <= 0 {
		return DefaultIdle
	}
	return s.Idle
}

// offer returns the lines of the EHLO reply behind the first.
func (s *Server) offer(secured bool) []string {
	var lines []string
	add := func(on bool, line string) {
		if on {
			lines = append(lines, line)
		}
	}
	k := s.Keywords
	add(k.Pipelining, "PIPELINING")
	add(k.PipeConnect, "PIPECONNECT")
	add(k.Size > 0, "SIZE "+decimal(k.Size))
	add(k.EightBitMIME, "8BITMIME")
	add(k.DSN, "DSN")
	add(k.SMTPUTF8, "SMTPUTF8")
	add(k.EnhancedStatusCodes, "ENHANCEDSTATUSCODES")
	add(k.Chunking, "CHUNKING")
	add(s.TLS != nil && !secured, "STARTTLS")
	add(k.Xclient != "", "XCLIENT "+k.Xclient)
	return append(lines, k.Extra...)
}

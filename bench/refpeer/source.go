package refpeer

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// Sink returns a Server for throughput: it offers everything, and keeps of a
// message only what tells whether it came, and how often.
func Sink(hostname string) *Server {
	return &Server{Hostname: hostname, Keywords: Modern(), Brief: true, Record: -1}
}

// IDs returns how often a message of each id was accepted.
func (s *Server) IDs() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make(map[string]int)
	for _, m := range s.messages {
		if m.Accepted {
			ids[m.ID]++
		}
	}
	return ids
}

// Source sends many messages over TCP. Each has an id of its own in its IDField.
type Source struct {
	Addr     string
	Sessions int // clients at work at the same time; default 1
	Messages int // to send, in all; default 1
	PerConn  int // messages on one connection; default 1
	Size     int // of a body, in octets, at least; default and minimum: that of the fields
	Style    Style
	TLS      *tls.Config
	Implicit bool
	Name     string        // in EHLO
	From, To string        // mailboxes; default "source@client.example", "sink@mx.example"
	Prefix   string        // of the ids, to tell runs apart
	Timeout  time.Duration // for one reply
}

// Stats is what became of the messages of a Source.
type Stats struct {
	Acknowledged []string // ids with a final 2xx
	Refused      []string // ids with another reply
	Unsure       []string // ids without a final reply: the connection failed
	Connections  int
	Elapsed      time.Duration
	Latencies    []time.Duration // of the acknowledged, ascending; the first on a connection includes its making
	Err          error           // the first failure
}

// Quantile returns the latency that a share q of the messages, 0 to 1, did not
// exceed.
func (s Stats) Quantile(q float64) time.Duration {
	if len(s.Latencies) == 0 {
		return 0
	}
	return s.Latencies[min(len(s.Latencies)-1, int(q*float64(len(s.Latencies))))]
}

// Run sends all messages, or as many as it can until ctx ends.
func (s *Source) Run(ctx context.Context) Stats {
	var (
		mu    sync.Mutex
		wg    sync.WaitGroup
		stats Stats
	)
	start := time.Now()
	work := make(chan int)
	for range max(1, s.Sessions) {
		wg.Go(func() { s.session(ctx, work, &mu, &stats) })
	}
	for i := range max(1, s.Messages) {
		select {
		case work <- i:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(work)
	wg.Wait()
	stats.Elapsed = time.Since(start)
	slices.Sort(stats.Latencies)
	return stats
}

// session sends what it gets from work.
func (s *Source) session(ctx context.Context, work <-chan int, mu *sync.Mutex, stats *Stats) {
	var c *Client
	sent := 0
	for i := range work {
		start := time.Now()
		id := fmt.Sprintf("%s%d", s.Prefix, i)
		var res Result
		var err error
		fresh := c == nil
		if fresh {
			c, err = s.dial(ctx)
			sent = 0
		}
		if err == nil {
			res, err = c.Send(ctx, s.message(id))
			sent++
		}
		mu.Lock()
		if fresh {
			stats.Connections++
		}
		stats.add(id, res, time.Since(start), err)
		mu.Unlock()
		switch {
		case err != nil && c != nil:
			c.Conn.Close()
			c = nil
		case c != nil && sent >= s.PerConn:
			c.Quit(ctx)
			c = nil
		}
	}
	if c != nil {
		c.Quit(ctx)
	}
}

func (s *Source) dial(ctx context.Context) (*Client, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.Addr)
	if err != nil {
		return nil, err
	}
	return &Client{Conn: conn, Style: s.Style, Name: s.Name, TLS: s.TLS, Implicit: s.Implicit, Timeout: s.Timeout}, nil
}

// message makes the message of an id.
func (s *Source) message(id string) Mail {
	m := Mail{From: s.From, To: []string{s.To}}
	if s.From == "" {
		m.From = "source@client.example"
	}
	if s.To == "" {
		m.To[0] = "sink@mx.example"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\r\nFrom: <%s>\r\nTo: <%s>\r\nSubject: %s\r\n\r\n", IDField, id, m.From, m.To[0], id)
	const line = "0123456789012345678901234567890123456789012345678901234567890123456789\r\n"
	for b.Len() < s.Size {
		b.WriteString(line)
	}
	m.Body = []byte(b.String())
	return m
}

func (s *Stats) add(id string, res Result, took time.Duration, err error) {
	switch {
	case err != nil:
		s.Unsure = append(s.Unsure, id)
		if s.Err == nil {
			s.Err = err
		}
	case res.OK():
		s.Acknowledged = append(s.Acknowledged, id)
		s.Latencies = append(s.Latencies, took)
	default:
		s.Refused = append(s.Refused, id)
	}
}

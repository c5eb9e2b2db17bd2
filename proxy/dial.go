package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// A DialFunc opens a connection. local is the address to come from; the zero
// value leaves it to the system.
type DialFunc func(ctx context.Context, network string, local netip.Addr, remote string) (net.Conn, error)

// netDial is the DialFunc of real networks.
func netDial(ctx context.Context, network string, local netip.Addr, remote string) (net.Conn, error) {
	d := dialer(local)
	return d.DialContext(ctx, network, remote)
}

// DialFast is a [DialFunc] for who speaks first: what is written first rides in the SYN where the system has a cookie
// of the address (TCP Fast Open). Then failures to connect show no sooner than at the first read, and a read that comes
// before the first write waits for nothing.
func DialFast(ctx context.Context, network string, local netip.Addr, remote string) (net.Conn, error) {
	return netDialFast(ctx, network, local, remote)
}

// dialer is the system's, coming from an address if that is valid.
func dialer(local netip.Addr) (d net.Dialer) {
	if local.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
	}
	return d
}

// raceDelay is how long the next address waits for the one before it: the
// Connection Attempt Delay of RFC 8305 §5.
// https://www.rfc-editor.org/rfc/rfc8305#section-5
const raceDelay = 250 * time.Millisecond

// A raced is the outcome of one attempt.
type raced struct {
	i    int
	conn net.Conn
	err  error
}

// race connects to the first of several addresses that answers. Each gets a
// head start of raceDelay over the next; a failure starts the next one at once.
// It returns the index of the winner; the losers are closed. When all failed it
// returns every reason.
func race(ctx context.Context, n int, dial func(ctx context.Context, i int) (net.Conn, error)) (int, net.Conn, error) {
	if n == 1 {
		conn, err := dial(ctx, 0)
		return 0, conn, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan raced)
	start := func(i int) {
		go func() { // ends with its dial, which ctx ends
			conn, err := dial(ctx, i)
			results <- raced{i, conn, err}
		}()
	}
	timer := time.NewTimer(raceDelay)
	defer timer.Stop()
	started, running := 1, 1
	start(0)
	var errs []error
	for running > 0 {
		select {
		case <-timer.C:
		case r := <-results:
			running--
			if r.err == nil {
				cancel()
				go closeLosers(results, running) // ends when the cancelled dials have
				return r.i, r.conn, nil
			}
			errs = append(errs, r.err)
		}
		if started < n && ctx.Err() == nil {
			start(started)
			started, running = started+1, running+1
			timer.Reset(raceDelay)
		}
	}
	return 0, nil, errors.Join(errs...)
}

func closeLosers(results <-chan raced, running int) {
	for range running {
		if r := <-results; r.conn != nil {
			_ = r.conn.Close()
		}
	}
}

// hopLabel names a hop in replies and logs: "mx.example.net[192.0.2.7]:25".
func hopLabel(host string, addr netip.AddrPort) string {
	if host == "" || host == addr.Addr().String() {
		return fmt.Sprintf("[%s]:%d", addr.Addr(), addr.Port())
	}
	return fmt.Sprintf("%s[%s]:%d", host, addr.Addr(), addr.Port())
}

// The words of fastopen: what may ride in the SYN of a connection.
const (
	fastOff      = "off"
	fastCommands = "commands"
	fastMessage  = "message"
)

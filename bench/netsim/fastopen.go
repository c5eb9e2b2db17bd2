package netsim

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// MaxSynData is how many octets ride in a SYN: what Linux puts there where a
// packet has room for 1500, with IPv4.
const MaxSynData = 1420

// SetFastOpen says whether the listener at an address with a port takes data in
// SYNs (https://www.rfc-editor.org/rfc/rfc7413), and gives cookies for it. It
// panics if the address is malformed.
func (n *Network) SetFastOpen(address string, on bool) {
	addr := unmap(netip.MustParseAddrPort(address))
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fastOpen == nil {
		n.fastOpen = make(map[netip.AddrPort]bool)
	}
	n.fastOpen[addr] = on
}

// FastDialer is Dialer with Fast Open, as a socket with TCP_FASTOPEN_CONNECT has
// it. The first contact between two addresses takes its round trip; if the
// listener takes data in SYNs, that leaves a cookie, good for all ports there.
// From then on Dial returns at once and sends nothing:
//
//   - The first Write goes out in the SYN, up to MaxSynData octets. It arrives
//     after one delay, and Accept returns the connection with them. The rest
//     waits for the SYN-ACK, and so does the second Write.
//   - Where the listener does not take them any more, they are sent again behind
//     the SYN-ACK.
//   - Where nobody listens or answers, the first Read says so. A listener must be
//     there when the SYN leaves.
//   - A Read before the first Write waits for nothing but its deadline.
//   - CloseWrite before the SYN-ACK is here breaks the connection off: the next
//     Read says syscall.ECONNRESET.
func (n *Network) FastDialer(from string) func(
	ctx context.Context, network string, source netip.Addr, to string) (net.Conn, error) {
	return n.dialer(from, n.connectFast)
}

// connectFast returns a connection whose SYN is yet to be sent, or shakes hands
// if there is no cookie.
func (n *Network) connectFast(ctx context.Context, client, server netip.AddrPort) (*Conn, error) {
	r := route{client.Addr(), server.Addr()}
	n.mu.Lock()
	known := n.cookies[r]
	n.mu.Unlock()
	if known && ctx.Err() == nil {
		near, far := newPair(n, client, server)
		near.end.syn = synHeld
		near.end.far = far
		return near, nil
	}
	c, err := n.connect(ctx, client, server)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fastOpen[server] {
		if n.cookies == nil {
			n.cookies = make(map[route]bool)
		}
		n.cookies[r] = true
	}
	return c, nil
}

// SynData reports whether the SYN-ACK is here and has acknowledged data that rode
// in our SYN.
func (c *Conn) SynData() bool {
	e := c.end
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.carried && e.open(time.Now())
}

// How far the handshake of an end has come.
type synState uint8

const (
	synDone synState = iota // it is open
	synHeld                 // the SYN waits for data
	synSent
)

// open reports whether the handshake is over.
func (e *end) open(now time.Time) bool {
	if e.syn != synSent || !come(e.opens, now) || come(e.resetAt, now) {
		return e.syn == synDone
	}
	if e.cut(e.answered) { // the SYN-ACK was lost
		e.unanswered(e.called)
		return false
	}
	e.syn = synDone
	return true
}

// opening returns when the SYN-ACK arrives, or zero.
func (e *end) opening() time.Time {
	if e.syn == synSent {
		return e.opens
	}
	return time.Time{}
}

// unanswered enters that there will be no SYN-ACK.
func (e *end) unanswered(since time.Time) {
	e.opens = time.Time{}
	e.giveUp(since.Add(ConnectTimeout), syscall.ETIMEDOUT)
}

// giveUp enters an end that the peer does not bring about, or not knowingly.
func (e *end) giveUp(at time.Time, why syscall.Errno) {
	e.resetAt, e.why = at, why
	e.changed.broadcast()
}

// call sends the SYN with the beginning of p, and enters what becomes of it. It
// returns how much of p that is. The lock is given up meanwhile, and nobody else
// may write.
func (e *end) call(p []byte, now time.Time) int {
	data := bytes.Clone(p[:min(len(p), MaxSynData, e.window)])
	e.syn, e.called = synSent, now
	e.window -= len(data)
	e.sent++
	server := e.peer.addr
	e.mu.Unlock()
	ln := e.net.listener(server)
	e.mu.Lock()
	ready := e.answer(data, ln, now)
	if !ready.IsZero() {
		far := e.far
		e.mu.Unlock()
		ln.deliver(far, ready)
		e.mu.Lock()
	}
	return len(data)
}

// answer enters the SYN and the answer to it. It returns when the connection can
// be accepted, or zero.
func (e *end) answer(data []byte, ln *Listener, now time.Time) (ready time.Time) {
	arrival, ok := e.transmit(Segment{At: now, SYN: true, Len: len(data), Data: data})
	if !ok || ln == nil {
		e.lost++
		e.awaitAck(len(data), now, time.Time{})
	}
	if !ok {
		e.unanswered(now)
		return ready
	}
	back, _ := e.peer.transmit(Segment{At: arrival, SYN: ln != nil, RST: ln == nil})
	if ln == nil {
		e.giveUp(back, syscall.ECONNREFUSED)
		return ready
	}
	e.opens, e.answered = back, arrival
	e.net.mu.Lock()
	e.carried = e.net.fastOpen[e.peer.addr]
	e.net.mu.Unlock()
	ready = arrival
	if !e.carried { // once more, behind the handshake
		if ready, ok = e.transmit(Segment{At: back, Len: len(data), Data: data}); !ok {
			ready = back
		}
	}
	e.awaitAck(len(data), now, ready)
	e.peer.inbox = append(e.peer.inbox, packet{at: ready, data: data})
	e.changed.broadcast()
	return ready
}

// breakOff ends a connection that is not open yet. The other side, if it knows
// of it at all, gets a reset in return for its SYN-ACK.
func (e *end) breakOff() {
	if e.syn == synSent && !e.opens.IsZero() {
		e.reset(e.opens)
		if !e.carried { // the data was to follow the handshake
			e.peer.inbox = nil
			e.lost++
		}
	}
	e.ended = true
}

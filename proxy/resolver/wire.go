package resolver

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"time"

	"github.com/miekg/dns"
)

// newQuery makes the message that asks q. With edns it offers udpSize and asks for the AD bit without asking for signatures
// (https://www.rfc-editor.org/rfc/rfc6840#section-5.7); without, it is a query of 1987.
func newQuery(q question, edns bool) *dns.Msg {
	m := new(dns.Msg)
	m.Id = dns.Id() // cryptographically random
	m.RecursionDesired = true
	m.Question = []dns.Question{{Name: q.name, Qtype: q.qtype, Qclass: dns.ClassINET}}
	if edns {
		m.AuthenticatedData = true
		m.SetEdns0(udpSize, false)
	}
	return m
}

var (
	errStray = errors.New("too many datagrams that do not match the question")
	errWrong = errors.New("the answer does not match the question")
)

// exchange asks q of one server: over UDP, and over TCP where the answer was cut short or somebody seems to be guessing.
func (r *Resolver) exchange(ctx context.Context, sv *server, q question, edns bool) (*dns.Msg, error) {
	query := newQuery(q, edns)
	packed, err := query.Pack()
	if err != nil {
		return nil, err
	}
	m, err := r.udp(ctx, sv, q, query.Id, packed)
	if errors.Is(err, errStray) || err == nil && m.Truncated {
		m, err = r.tcp(ctx, sv, q, query.Id, packed)
	}
	return m, err
}

// udp sends query and waits for the answer to it. Each query has a socket, hence a port, of its own, connected to the server:
// with the random id that is what a forger has to guess (https://www.rfc-editor.org/rfc/rfc5452#section-9.2).
func (r *Resolver) udp(ctx context.Context, sv *server, q question, id uint16, query []byte) (*dns.Msg, error) {
	conn, err := r.dial(ctx, "udp", sv.addr.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer cutOff(ctx, conn)()
	if _, err := conn.Write(query); err != nil {
		return nil, err
	}
	buf := make([]byte, udpBuffer)
	for range maxStray {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		if m := match(buf[:n], q, id); m != nil {
			return m, nil
		}
	}
	return nil, errStray
}

// tcp asks over a connection of its own, https://www.rfc-editor.org/rfc/rfc7766
func (r *Resolver) tcp(ctx context.Context, sv *server, q question, id uint16, query []byte) (*dns.Msg, error) {
	conn, err := r.dial(ctx, "tcp", sv.addr.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer cutOff(ctx, conn)()
	if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)); err != nil {
		return nil, err
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return nil, err
	}
	buf := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(conn, buf); err != nil {
		return nil, err
	}
	m := match(buf, q, id)
	if m == nil || m.Truncated {
		return nil, errWrong
	}
	return m, nil
}

// cutOff makes every wait on conn end with ctx. Call what it returns when the last wait is over.
func cutOff(ctx context.Context, conn net.Conn) (stop func() bool) {
	return context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
}

// match parses packet and gives it if it is the answer to q, else nil.
// https://www.rfc-editor.org/rfc/rfc5452#section-9.1
func match(packet []byte, q question, id uint16) *dns.Msg {
	m := new(dns.Msg)
	if m.Unpack(packet) != nil || m.Id != id || !m.Response || m.Opcode != dns.OpcodeQuery {
		return nil
	}
	if len(m.Question) == 0 && m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return m // some servers refuse with a bare header
	}
	if len(m.Question) != 1 {
		return nil
	}
	asked := m.Question[0]
	if asked.Qtype != q.qtype || asked.Qclass != dns.ClassINET || dns.CanonicalName(asked.Name) != q.name {
		return nil
	}
	return m
}

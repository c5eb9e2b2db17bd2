package authload

import (
	"net"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// serveDNS answers the questions of all contestants at addr, which is host:port, until the test ends.
func (w *world) serveDNS(tb testing.TB, addr string) {
	tb.Helper()
	conn, err := net.ListenPacket("udp4", addr)
	if err != nil {
		tb.Skipf("no name server here, whose port must be the usual one: %v", err)
	}
	done := make(chan struct{})
	tb.Cleanup(func() {
		conn.Close()
		<-done
	})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if reply, err := w.answer(buf[:n]); err == nil {
				_, _ = conn.WriteTo(reply, from) // who does not hear asks again
			}
		}
	}()
}

// answer answers one question, with authority and as if it had asked others.
func (w *world) answer(packet []byte) ([]byte, error) {
	var p dnsmessage.Parser
	header, err := p.Start(packet)
	if err != nil {
		return nil, err
	}
	q, err := p.Question()
	if err != nil {
		return nil, err
	}
	header.Response, header.Authoritative, header.RecursionAvailable = true, true, true
	name := strings.ToLower(q.Name.String())
	list := w.dns[strings.TrimPrefix(q.Type.String(), "Type")+" "+name]
	if len(list) == 0 && !w.exists(name) {
		header.RCode = dnsmessage.RCodeNameError
	}
	b := dnsmessage.NewBuilder(make([]byte, 0, 1232), header)
	b.EnableCompression()
	if err := b.StartQuestions(); err != nil {
		return nil, err
	}
	if err := b.Question(q); err != nil {
		return nil, err
	}
	const ttl = 86400
	resource := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: ttl}
	if err := b.StartAnswers(); err != nil {
		return nil, err
	}
	for _, text := range list {
		if err := appendRecord(&b, resource, q.Type, text); err != nil {
			return nil, err
		}
	}
	if len(list) == 0 {
		if err := b.StartAuthorities(); err != nil {
			return nil, err
		}
		resource.Name = dnsmessage.MustNewName(".")
		soa := dnsmessage.SOAResource{NS: resource.Name, MBox: resource.Name, Serial: 1, Refresh: ttl, Retry: ttl,
			Expire: ttl, MinTTL: ttl}
		if err := b.SOAResource(resource, soa); err != nil {
			return nil, err
		}
	}
	return b.Finish()
}

// exists reports whether there is anything at a name or below it.
func (w *world) exists(name string) bool {
	for key := range w.dns {
		_, known, _ := strings.Cut(key, " ")
		if known == name || strings.HasSuffix(known, "."+name) {
			return true
		}
	}
	return name == "."
}

func appendRecord(b *dnsmessage.Builder, h dnsmessage.ResourceHeader, kind dnsmessage.Type, text string) error {
	switch kind {
	case dnsmessage.TypeTXT:
		var parts []string
		for len(text) > 255 { // the longest string of a record
			parts, text = append(parts, text[:255]), text[255:]
		}
		return b.TXTResource(h, dnsmessage.TXTResource{TXT: append(parts, text)})
	case dnsmessage.TypeA:
		var a dnsmessage.AResource
		copy(a.A[:], net.ParseIP(text).To4())
		return b.AResource(h, a)
	case dnsmessage.TypePTR:
		return b.PTRResource(h, dnsmessage.PTRResource{PTR: dnsmessage.MustNewName(text)})
	case dnsmessage.TypeMX:
		return b.MXResource(h, dnsmessage.MXResource{Pref: 10, MX: dnsmessage.MustNewName(text)})
	}
	return nil
}

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"slipstream/proxy"
	"slipstream/proxy/resolver"
)

// A message is one from standard input or from a file.
type message struct {
	raw           []byte // as it came
	lf            bool   // its first line ends in LF alone
	mended        bool   // some line does
	section, body []byte // header and body with CRLF at the end of lines, the empty line in neither
}

// maxMessage is the longest message that is taken.
const maxMessage = 100 << 20

func readMessage(r io.Reader) (message, error) {
	raw, err := io.ReadAll(io.LimitReader(r, maxMessage+1))
	switch {
	case err != nil:
		return message{}, err
	case len(raw) == 0:
		return message{}, errors.New("there is no message on standard input")
	case len(raw) > maxMessage:
		return message{}, fmt.Errorf("the message has more than %d MiB", maxMessage>>20)
	}
	return newMessage(raw), nil
}

func readMessageFile(name string) (message, error) {
	f, err := os.Open(name)
	if err != nil {
		return message{}, err
	}
	defer f.Close()
	m, err := readMessage(f)
	if err != nil {
		return message{}, fmt.Errorf("%s: %w", name, err)
	}
	return m, nil
}

func newMessage(raw []byte) message {
	m := message{raw: raw}
	first := bytes.IndexByte(raw, '\n')
	m.lf = first == 0 || first > 0 && raw[first-1] != '\r'
	text := withCRLF(raw)
	m.section, m.mended = text, len(text) > len(raw)
	if bytes.HasPrefix(text, []byte("\r\n")) {
		m.section, m.body = nil, text[2:]
	} else if end := bytes.Index(text, []byte("\r\n\r\n")); end >= 0 {
		m.section, m.body = text[:end+2], text[end+4:]
	}
	return m
}

// withCRLF puts a CR before every LF that has none. Where none is missing the text is returned as it is.
func withCRLF(text []byte) []byte {
	missing := bytes.Count(text, []byte("\n")) - bytes.Count(text, []byte("\r\n"))
	if missing == 0 {
		return text
	}
	out := make([]byte, 0, len(text)+missing)
	for line := range bytes.Lines(text) {
		if n := len(line); line[n-1] == '\n' && (n < 2 || line[n-2] != '\r') {
			out = append(append(out, line[:n-1]...), "\r\n"...)
			continue
		}
		out = append(out, line...)
	}
	return out
}

// asLines gives fields the line ends of the message.
func (m message) asLines(fields []byte) []byte {
	if !m.lf {
		return fields
	}
	return bytes.ReplaceAll(fields, []byte("\r\n"), []byte("\n"))
}

// dnsOf asks the name servers given, or those of the system.
func dnsOf(servers []string) (*resolver.Resolver, error) {
	conf := proxy.DefaultConfig().DNS
	for _, s := range servers {
		server, err := parseServer(s)
		if err != nil {
			return nil, &exitError{exitUsage, fmt.Errorf("--dns: %w", err)}
		}
		conf.Servers = append(conf.Servers, server)
	}
	return newResolver(conf)
}

// isTemporary tells whether nobody knows, as opposed to a clear no.
func isTemporary(err error) bool {
	var d *net.DNSError
	return errors.As(err, &d) && d.Temporary() && !d.IsNotFound
}

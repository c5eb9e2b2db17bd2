//go:build linux

package authload

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slipstream/auth/arc"
)

// startMilters runs OpenDKIM and OpenDMARC, the latter with its own SPF.
func startMilters(tb testing.TB, _ *world, _ mail) contestant {
	program, _, libraries := peer(tb, "opendkim", "usr/sbin/opendkim")
	dir := tb.TempDir()
	dkimAddr := filepath.Join(dir, "dkim") // a socket of the file system: over TCP, libmilter waits for acknowledgements
	config := writeFile(tb, dir, "opendkim.conf", fmt.Sprintf("Mode v\nSyslog no\nSocket %s\nAuthservID %s\n"+
		"Nameservers %s\nBackground no\nTemporaryDirectory %s\nInternalHosts 127.0.0.2\nAlwaysAddARHeader yes\n",
		"local:"+dkimAddr, authservID, nameserver, dir))
	dkim := launch(tb, nameserver, libraries, dkimAddr, program, "-f", "-x", config)

	program, _, libraries = peer(tb, "opendmarc", "usr/sbin/opendmarc")
	dmarcAddr := filepath.Join(dir, "dmarc")
	config = writeFile(tb, dir, "opendmarc.conf", fmt.Sprintf("Syslog false\nSocket %s\nAuthservID %s\n"+
		"TrustedAuthservIDs %s\nSPFSelfValidate true\nSPFIgnoreResults true\nBackground false\nIgnoreHosts %s\n",
		"local:"+dmarcAddr, authservID, authservID, writeFile(tb, dir, "ignore", "127.0.0.2\n")))
	dmarc := launch(tb, nameserver, libraries, dmarcAddr, program, "-f", "-c", config)

	return contestant{pids: []int{dkim, dmarc}, dial: func() (session, error) {
		first, err := dialMilter(dkimAddr)
		if err != nil {
			return nil, err
		}
		second, err := dialMilter(dmarcAddr)
		if err != nil {
			first.close()
			return nil, err
		}
		return &milters{first, second}, nil
	}}
}

// milters are asked one after the other; the second one sees the fields that the first one adds.
type milters struct{ dkim, dmarc *milter }

func (m *milters) check(message mail) error {
	added, err := m.dkim.check(message)
	if err != nil {
		return fmt.Errorf("opendkim: %w", err)
	}
	if !strings.Contains(added, "dkim=pass") {
		return fmt.Errorf("opendkim: %q", added)
	}
	message.header = append([]byte(added), message.header...)
	if added, err = m.dmarc.check(message); err != nil {
		return fmt.Errorf("opendmarc: %w", err)
	}
	if !strings.Contains(added, "dmarc=pass") || !strings.Contains(added, "spf=pass") {
		return fmt.Errorf("opendmarc: %q", added)
	}
	return nil
}

func (m *milters) close() {
	m.dkim.close()
	m.dmarc.close()
}

// A milter is a connection to a filter, in the protocol of Sendmail's libmilter, version 6.
type milter struct {
	conn  net.Conn
	r     *bufio.Reader
	out   []byte // what goes out together
	steps uint32 // what it wants to be left out, and what it does not answer
}

// Bits of the protocol: the step is left out, or it is not answered.
const (
	noConnect, noHelo, noMail, noRcpt                        = 1 << 0, 1 << 1, 1 << 2, 1 << 3
	noBody, noHeader, noEOH, noData                          = 1 << 4, 1 << 5, 1 << 6, 1 << 9
	quietConnect, quietHelo, quietMail, quietRcpt, quietData = 1 << 12, 1 << 13, 1 << 14, 1 << 15, 1 << 16
	quietHeader, quietEOH, quietBody                         = 1 << 7, 1 << 18, 1 << 19
	leadingSpace                                             = 1 << 20

	allSteps   uint32 = 0x1fffff
	allActions uint32 = 0x1ff
)

// patience is how long a reply may take.
const patience = 20 * time.Second

func dialMilter(addr string) (*milter, error) {
	conn, err := net.Dial("unix", addr)
	if err != nil {
		return nil, err
	}
	m := &milter{conn: conn, r: bufio.NewReader(conn)}
	offer := binary.BigEndian.AppendUint32(nil, 6)
	offer = binary.BigEndian.AppendUint32(offer, allActions)
	offer = binary.BigEndian.AppendUint32(offer, allSteps)
	m.put('O', offer)
	code, data, err := m.get()
	if err != nil || code != 'O' || len(data) < 12 {
		conn.Close()
		return nil, fmt.Errorf("%s: no agreement: %c %w", addr, code, err)
	}
	m.steps = binary.BigEndian.Uint32(data[8:])
	port := binary.BigEndian.AppendUint16(nil, 50000)
	err = m.step('C', noConnect, quietConnect, clientName+"\x004"+string(port)+clientIP+"\x00")
	if err == nil {
		err = m.step('H', noHelo, quietHelo, clientName+"\x00")
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return m, nil
}

func (m *milter) close() {
	m.put('Q', nil)
	_, _ = m.conn.Write(m.out) // it goes either way
	m.conn.Close()
}

func (m *milter) put(code byte, data []byte) {
	m.out = binary.BigEndian.AppendUint32(m.out, uint32(1+len(data)))
	m.out = append(append(m.out, code), data...)
}

// get sends what is to be sent, and reads one reply.
func (m *milter) get() (code byte, data []byte, err error) {
	if err := m.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return 0, nil, err
	}
	if len(m.out) > 0 {
		if _, err := m.conn.Write(m.out); err != nil {
			return 0, nil, err
		}
		m.out = m.out[:0]
	}
	var head [5]byte
	if _, err := io.ReadFull(m.r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < 1 || n > 1<<20 {
		return 0, nil, errors.New("a reply of no sensible size")
	}
	data = make([]byte, n-1)
	_, err = io.ReadFull(m.r, data)
	return head[4], data, err
}

// step sends a step unless it is to be left out, and takes the answer unless there is none.
func (m *milter) step(code byte, omit, quiet uint32, data string) error {
	if m.steps&omit != 0 {
		return nil
	}
	m.put(code, []byte(data))
	if m.steps&quiet != 0 {
		return nil
	}
	reply, text, err := m.get()
	if err == nil && reply != 'c' && reply != 's' {
		err = fmt.Errorf("to %c it says %c %q", code, reply, text)
	}
	return err
}

// check has one message looked at, and returns the fields that are to be added on top.
func (m *milter) check(message mail) (added string, err error) {
	m.put('D', []byte("Mi\x004TZ9Qk1XyZz9sVp\x00{auth_type}\x00\x00"))
	steps := []error{
		m.step('M', noMail, quietMail, "<"+mailFrom+">\x00"),
		m.step('R', noRcpt, quietRcpt, "<"+rcptTo+">\x00"),
		m.step('T', noData, quietData, ""),
	}
	headers, err := arc.SplitHeader(message.header)
	if err != nil {
		return "", err
	}
	for _, h := range headers {
		value := strings.ReplaceAll(strings.TrimPrefix(string(h.Value()), " "), "\r\n", "\n")
		if m.steps&leadingSpace != 0 {
			value = strings.ReplaceAll(string(h.Value()), "\r\n", "\n")
		}
		steps = append(steps, m.step('L', noHeader, quietHeader, h.Name+"\x00"+value+"\x00"))
	}
	steps = append(steps, m.step('N', noEOH, quietEOH, ""))
	for body := message.body; len(body) > 0; {
		const chunk = 65535
		n := min(len(body), chunk)
		steps = append(steps, m.step('B', noBody, quietBody, string(body[:n])))
		body = body[n:]
	}
	if err := errors.Join(steps...); err != nil {
		return "", err
	}
	m.put('E', nil)
	var top strings.Builder
	for {
		code, data, err := m.get()
		switch {
		case err != nil:
			return "", err
		case code == 'i' || code == 'h': // a field to be put in, with its place or at the end
			if code == 'i' {
				data = data[4:]
			}
			name, value, _ := bytes.Cut(bytes.TrimSuffix(data, []byte{0}), []byte{0})
			lines := strings.ReplaceAll(string(value), "\r\n", "\n")
			fmt.Fprintf(&top, "%s: %s\r\n", name, strings.ReplaceAll(lines, "\n", "\r\n"))
		case code == 'c' || code == 'a':
			return top.String(), nil
		case code == 'p' || code == 'm': // it is still at work, or changes a field
		default:
			return "", fmt.Errorf("at the end it says %c %q", code, data)
		}
	}
}

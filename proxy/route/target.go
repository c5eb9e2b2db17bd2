package route

import (
	"net"
	"strconv"
)

// Target is a fixed place to send mail to: Host and Port, or Unix.
type Target struct {
	Host     string // a name in lower case and A-labels, or the text of an address
	Port     uint16
	Unix     string // absolute path of a socket
	LMTP     bool   // LMTP instead of SMTP
	Implicit bool   // TLS from the first byte
}

// String is t as a configuration has it.
func (t Target) String() string {
	hostPort := net.JoinHostPort(t.Host, strconv.Itoa(int(t.Port)))
	switch {
	case t.Unix != "" && t.LMTP:
		return "lmtp+unix:" + t.Unix
	case t.Unix != "":
		return "unix:" + t.Unix
	case t.LMTP:
		return "lmtp://" + hostPort
	case t.Implicit:
		return "smtps://" + hostPort
	}
	return hostPort
}

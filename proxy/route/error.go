package route

import (
	"errors"
	"fmt"
	"net"

	"slipstream/smtpwire"
)

// Error says why there is no route, and what to tell the client.
type Error struct {
	// Reply is our refusal of the recipient. Its text names the domain and what the DNS said.
	Reply smtpwire.Reply
	// Temporary: another try may find a route. It agrees with the code of Reply.
	Temporary bool
	// Err is what went wrong underneath, or nil.
	Err error
}

func (e *Error) Error() string { return "no route: " + e.Reply.String() }

func (e *Error) Unwrap() error { return e.Err }

// refuse makes an error of a reply of ours.
func refuse(code int, enhanced string, err error, format string, args ...any) *Error {
	return &Error{
		Reply:     smtpwire.NewReply(code, enhanced, printable(fmt.Sprintf(format, args...))),
		Temporary: code/100 == 4,
		Err:       err,
	}
}

// isNotFound reports whether err says that the name does not exist.
func isNotFound(err error) bool {
	var d *net.DNSError
	return errors.As(err, &d) && d.IsNotFound
}

// saying is what the DNS said, without the address of the server that said it: that is nobody's business.
func saying(err error) string {
	var d *net.DNSError
	if errors.As(err, &d) {
		return d.Err
	}
	return err.Error()
}

// printable makes s fit for one reply line of at most 512 octets: our text may quote what others published.
// https://www.rfc-editor.org/rfc/rfc5321#section-4.5.3.1.5
func printable(s string) string {
	const limit = 400
	b := make([]byte, 0, min(len(s), limit))
	for i := 0; i < len(s) && i < limit; i++ {
		c := s[i]
		if c < ' ' || c > '~' {
			c = '?'
		}
		b = append(b, c)
	}
	return string(b)
}

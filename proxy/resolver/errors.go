package resolver

import (
	"context"
	"errors"
	"net"

	"github.com/miekg/dns"
)

// errNXDomain marks the errors of names that do not exist.
var errNXDomain = errors.New("no such domain")

// IsNXDomain reports whether err says that the name does not exist at all, as opposed to a name that exists without a record
// of the type asked for (https://www.rfc-editor.org/rfc/rfc2308#section-2). Of both, the *net.DNSError says IsNotFound.
func IsNXDomain(err error) bool { return errors.Is(err, errNXDomain) }

// notFound says no: to the name itself, or to the type only.
func notFound(name, text string, nxdomain bool) *net.DNSError {
	e := &net.DNSError{Err: text, Name: name, IsNotFound: true}
	if nxdomain {
		e.UnwrapErr = errNXDomain
	}
	return e
}

// failed says that a server did not answer the question. Asking again later may help.
func failed(q question, server, text string) *net.DNSError {
	return &net.DNSError{Err: text, Name: plainName(q.name), Server: server, IsTemporary: true}
}

// stopped says that ctx ended before the answer came.
func stopped(ctx context.Context, q question) *net.DNSError {
	err := ctx.Err()
	return &net.DNSError{
		Err: err.Error(), Name: plainName(q.name), UnwrapErr: err,
		IsTimeout: errors.Is(err, context.DeadlineExceeded), IsTemporary: true,
	}
}

// typeName is "MX" and so on.
func typeName(qtype uint16) string { return dns.Type(qtype).String() }

package proxy

import (
	"slices"
	"strings"

	"go.uber.org/zap"

	"slipstream/smtpwire"
)

// A passage is what an inbound door passes to its backend besides mail.
type passage struct {
	auth  bool            // relay_auth
	verbs []smtpwire.Verb // relay_commands
}

func (c *InboundConfig) passes() passage {
	r := passage{auth: c.RelayAuth}
	for _, verb := range c.RelayCommands {
		r.verbs = append(r.verbs, smtpwire.Verb(verb))
	}
	return r
}

// Bounds on the mechanisms that are passed on.
const (
	maxMechanisms   = 32
	maxMechanismLen = 20 // https://www.rfc-editor.org/rfc/rfc4422#section-3.1
)

// tied are mechanisms that mean the connection that they are used on, which ends
// here: the backend has another one. By the beginning of their names.
//
//   - EXTERNAL: it is the client's certificate, or its address, that proves who it
//     is. The backend would see ours.
//   - GSSAPI, GS2-, KERBEROS_: a ticket for the host that the client believes to
//     talk to, and a security layer over all that follows.
//   - NTLM, MSN, NEGOTIATE, SPNEGO, GSS-SPNEGO: the same, in Microsoft's ways.
//   - DIGEST-MD5, SRP, PASSDSS: they can agree on a security layer, of which we
//     would see no more than that nothing makes sense any more; the first also
//     signs the name of the host.
//
// So are all whose names end in -PLUS: they bind the login to the TLS connection
// (https://www.rfc-editor.org/rfc/rfc5056#section-2).
func tied() []string {
	return []string{
		"EXTERNAL", "GSSAPI", "GS2-", "KERBEROS_", "NTLM", "MSN", "NEGOTIATE", "SPNEGO", "GSS-SPNEGO",
		"DIGEST-MD5", "SRP", "PASSDSS",
	}
}

const bindingSuffix = "-PLUS"

// passable picks the mechanisms of an AUTH keyword that survive being passed on,
// as the backend ordered them.
//
// Where SCRAM-X-PLUS is offered to us SCRAM-X is left out as well: a client that
// could have used the former says so in the latter, and the backend then must take
// us for somebody who hid it, as we did
// (https://www.rfc-editor.org/rfc/rfc5802#section-6).
func passable(mechanisms string) []string {
	all := strings.Fields(strings.ToUpper(mechanisms))
	var pass []string
	for _, m := range all {
		isTied := func(name string) bool { return strings.HasPrefix(m, name) }
		switch {
		case len(m) > maxMechanismLen || len(pass) == maxMechanisms || slices.Contains(pass, m):
		case strings.HasSuffix(m, bindingSuffix) || slices.Contains(all, m+bindingSuffix) || slices.ContainsFunc(tied(),
			isTied):
		default:
			pass = append(pass, m)
		}
	}
	return pass
}

// offers adds to our own EHLO what is passed on, and the backend offers.
func (r *passage) offers(own, next smtpwire.EHLO, secured bool) smtpwire.EHLO {
	if mechanisms, _ := next.Get("AUTH"); r.auth && secured {
		if pass := passable(mechanisms); len(pass) > 0 {
			own = own.With(smtpwire.Param{Name: "AUTH", Value: strings.Join(pass, " ")})
		}
	}
	for _, verb := range r.verbs {
		if next.Has(string(verb)) {
			own = own.With(smtpwire.Param{Name: string(verb)})
		}
	}
	return own
}

// with gives an EHLO that stands for the backend's its mechanisms.
func (r *passage) with(e, backend smtpwire.EHLO) smtpwire.EHLO {
	if mechanisms, ok := backend.Get("AUTH"); ok {
		e = e.With(smtpwire.Param{Name: "AUTH", Value: mechanisms})
	}
	return e
}

// missing says why nobody can log in, where the configuration means them to; ""
// where they can.
func (r *passage) missing(backend smtpwire.EHLO) string {
	mechanisms, ok := backend.Get("AUTH")
	switch {
	case !r.auth || len(passable(mechanisms)) > 0:
		return ""
	case ok:
		return "the backend offers only mechanisms that are tied to the connection: " + mechanisms
	}
	return "the backend offers no AUTH on our connection; where it does so inside TLS alone, set backend_tls"
}

// warn tells the log so.
func (r *passage) warn(log *zap.Logger, backend smtpwire.EHLO) {
	if why := r.missing(backend); why != "" {
		log.Warn("relay_auth is set, but nobody can log in", zap.String("why", why))
	}
}

// asserted is the AUTH parameter of MAIL as the backend may see it: of a client
// that has not logged in it would be our word for somebody else's.
//
// "if the client is not authenticated, then the server MUST behave as if the
// AUTH=<> parameter was supplied":
// https://www.rfc-editor.org/rfc/rfc4954#section-5
func (s *session) asserted(mail smtpwire.Command) smtpwire.Command {
	if _, ok := mail.Params.Get("AUTH"); ok && !s.own.loggedIn() {
		mail.Params = mail.Params.With("AUTH", "<>")
	}
	return mail
}

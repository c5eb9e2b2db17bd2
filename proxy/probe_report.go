package proxy

import (
	"crypto/tls"
	"strconv"
	"time"

	"slipstream/smtpwire"
)

// A ProbeReport is what a probe of one host found. Where Failure is set, the
// fields that come later in the conversation are zero. Texts are the host's own
// and not to be trusted with a terminal.
type ProbeReport struct {
	Host          string    `json:"host"`
	Address       string    `json:"address,omitempty"` // that answered
	Greeting      string    `json:"greeting,omitempty"`
	GreetingAfter Millis    `json:"greeting_after_ms"` // from the connection, or TLS, to the greeting
	EHLO          []string  `json:"ehlo"`              // before STARTTLS, or the only one
	TLS           *ProbeTLS `json:"tls,omitempty"`     // nil in clear
	EHLOInTLS     []string  `json:"ehlo_in_tls,omitempty"`
	Offers        []string  `json:"offers"` // extensions that we know, at the end
	Lacks         []string  `json:"lacks"`  // and those worth having that are not there
	Trip          ProbeTrip `json:"trip"`
	Cost          ProbeCost `json:"cost"`
	Failure       string    `json:"failure,omitempty"`
}

// newProbeReport has no list that is null in JSON.
func newProbeReport(host string) ProbeReport {
	return ProbeReport{
		Host: host, EHLO: []string{}, Offers: []string{}, Lacks: []string{},
		Trip: ProbeTrip{Samples: []Millis{}},
	}
}

// ProbeTLS describes a connection's protection.
type ProbeTLS struct {
	How       string    `json:"how"`     // ProbeStartTLS or ProbeImplicit
	Version   string    `json:"version"` // "TLS 1.3"
	Cipher    string    `json:"cipher"`
	Subject   string    `json:"subject"`
	Names     []string  `json:"names"` // DNS names and addresses that the certificate is for
	Issuer    string    `json:"issuer"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	Verified  bool      `json:"verified"`          // "verify" would take it
	Problem   string    `json:"problem,omitempty"` // why not
	Took      Millis    `json:"took_ms"`           // the handshake, and STARTTLS

	version uint16
}

// ProbeTrip is the time that a round trip takes.
type ProbeTrip struct {
	Connect Millis   `json:"connect_ms"`
	Median  Millis   `json:"median_ms"`  // of Samples
	Samples []Millis `json:"samples_ms"` // one for each EHLO and NOOP, in order
}

// Millis is a duration that is milliseconds in JSON.
type Millis time.Duration

// MarshalJSON implements [encoding/json.Marshaler].
func (m Millis) MarshalJSON() ([]byte, error) { return []byte(m.String()), nil }

// String returns the milliseconds with two decimals.
func (m Millis) String() string {
	return strconv.FormatFloat(float64(m)/float64(time.Millisecond), 'f', 2, 64)
}

// ProbeCost is what one small message to one recipient costs, in round trips to
// the final reply: from our SYN, and on a connection that is warm.
type ProbeCost struct {
	FirstContact ProbeWays `json:"first_contact"`
	Warm         ProbeWays `json:"warm"`
}

// ProbeWays are the ways to send one message; 0 is one that the host does not
// offer.
type ProbeWays struct {
	LockStep  int `json:"lock_step"` // each command waits for its reply
	Pipelined int `json:"pipelined"` // PIPELINING, RFC 2920: MAIL, RCPT and DATA leave together
	Chunked   int `json:"chunked"`   // and CHUNKING, RFC 3030: so does the text, as BDAT
}

// costOf counts trips. MAIL, RCPT, DATA and the text cost one each in lock step;
// PIPELINING saves two of them, CHUNKING with it all but one.
func costOf(offer smtpwire.EHLO, how string, version uint16) ProbeCost {
	warm := ProbeWays{LockStep: 4}
	if offer.Has("PIPELINING") {
		warm.Pipelined = 2
		if offer.Has("CHUNKING") {
			warm.Chunked = 1
		}
	}
	before := contactTrips(how, version)
	first := warm
	for _, n := range []*int{&first.LockStep, &first.Pipelined, &first.Chunked} {
		if *n > 0 {
			*n += before
		}
	}
	return ProbeCost{FirstContact: first, Warm: warm}
}

// contactTrips counts the trips from our SYN until MAIL may be said.
//
// A TLS 1.3 handshake takes one trip, an older one two
// (https://www.rfc-editor.org/rfc/rfc8446#section-2). With TLS on connect both
// come to two, since with TLS 1.3 the greeting waits for our Finished, and
// before that it travels with the server's.
func contactTrips(how string, version uint16) int {
	const connect, greeting, hello, starttls = 1, 1, 1, 1
	handshake := 2
	if version >= tls.VersionTLS13 {
		handshake = 1
	}
	switch how {
	case ProbeImplicit:
		return connect + 2 + hello
	case ProbeStartTLS:
		return connect + greeting + hello + starttls + handshake + hello
	}
	return connect + greeting + hello
}

package auth

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"slipstream/auth/arc"
)

// A Report is everything that was found out about one message, and what follows from it.
type Report struct {
	Envelope Envelope
	IPRev    IPRevResult  // zero without a client
	SPF      SPFResult    // of MAIL FROM, or for the null path of HELO; zero without a client
	HELO     SPFResult    // of HELO; zero where SPF is that already
	DKIM     []DKIMResult // one for each signature; none: the message is not signed
	ARC      arc.Result
	Author   Author

	// Identifiers are those of the above that hold, and DMARC the verdict on them.
	Identifiers Identifiers
	DMARC       Verdict
	Decision    Decision
	// Would is what the decision would be if all that policies ask for were done: if the Limit were reject. It says
	// what turning enforcement on would change.
	Would Decision

	// Results is the Authentication-Results field.
	Results Results
	// Late says that the deadline cut something short.
	Late bool
	// MessageID is the value of the first Message-ID field, printable ASCII that may stand in a log; "" where there is
	// none, or none of that kind, or it is longer than 255 octets. Nobody vouches for it.
	MessageID string

	checker *Checker
	body    *arc.BodyHash
}

// QuarantineField is the name of the field that mail gets which is to be quarantined. Its value is "dmarc" and the
// author domain.
const QuarantineField = "X-Slipstream-Quarantine"

// Fields returns what goes on top of the message, each line with its CRLF: the Authentication-Results field, over it
// the ARC set where messages are sealed, below it the QuarantineField where that is what was decided. kept is the header
// that the message has then, without what [StripOwn] took out; fields that come between the two must not be among those
// that are sealed.
//
// With an error, which is about the seal, come all fields but the seal's. A chain that may not be sealed is no error.
func (r *Report) Fields(kept []byte) ([]byte, error) {
	fields := r.Results.Field()
	if r.Envelope.UTF8 {
		fields = r.Results.FieldUTF8()
	}
	if r.Decision.Action == ActionQuarantine {
		fields = fmt.Appendf(fields, "%s: dmarc %s\r\n", QuarantineField, r.quarantined())
	}
	seal, err := r.seal(fields, kept)
	return append(seal, fields...), err
}

// quarantined names whom a message is quarantined for. An author domain is canonical: it can be written as it is.
func (r *Report) quarantined() string {
	if r.DMARC.Domain == "" {
		return "unknown"
	}
	return r.DMARC.Domain
}

// seal makes the ARC set of a message that has fields and below them the header kept.
func (r *Report) seal(fields, kept []byte) ([]byte, error) {
	if r.checker == nil || r.checker.Sealer == nil || r.body == nil {
		return nil, nil
	}
	section := append(slices.Clip(slices.Clone(OnTop(fields, kept))), kept...)
	headers, err := arc.SplitHeader(section)
	if headers == nil && err != nil {
		return nil, err
	}
	payload := r.Results.Payload()
	if r.Envelope.UTF8 {
		payload = r.Results.PayloadUTF8()
	}
	body := r.body
	r.body = nil // it is ended by sealing
	set, err := r.checker.Sealer.Seal(headers, body, r.ARC, payload)
	if errors.Is(err, arc.ErrSealedFailed) || errors.Is(err, arc.ErrSealedFull) {
		return nil, nil
	}
	return set, err
}

// maxMessageID is the longest Message-ID that is told: longer than those of programs, short enough for a line of log.
const maxMessageID = 255

// messageID finds the value of the first Message-ID field.
func messageID(headers []arc.Header) string {
	for _, h := range headers {
		if !strings.EqualFold(h.Name, "Message-ID") {
			continue
		}
		id := strings.Trim(string(h.Value()), " \t\r\n") // it may be folded before
		if len(id) > maxMessageID || strings.ContainsFunc(id, func(c rune) bool { return c < ' ' || c > '~' }) {
			return ""
		}
		return id
	}
	return ""
}

// identifiers are what r has authenticated, and what it might have.
func identifiers(r *Report) Identifiers {
	var ids Identifiers
	switch r.SPF.Value {
	case ResultPass:
		ids.SPF = r.SPF.Domain
	case ResultTemperror:
		ids.SPFUnknown = r.SPF.Domain
	}
	for _, d := range r.DKIM {
		switch d.Value {
		case ResultPass:
			ids.DKIM = append(ids.DKIM, d.Domain)
		case ResultTemperror:
			ids.DKIMUnknown = append(ids.DKIMUnknown, d.Domain)
		}
	}
	var seals []Seal
	for _, set := range r.ARC.Sets {
		seal := Seal{Domain: set.Domain, Results: set.Results}
		if r.ARC.Unsure && set.MessageDomain != set.Domain {
			seal.Domain = "" // whose key did not come may be somebody else's
		}
		seals = append(seals, seal)
	}
	switch {
	case r.ARC.Value == arc.Pass:
		ids.Seals = seals
	case r.ARC.Unsure:
		ids.SealsUnknown = seals
	}
	return ids
}

// unsure reports whether something could not be looked up.
func (r *Report) unsure() bool {
	return r.IPRev.Value == ResultTemperror || r.SPF.Value == ResultTemperror || r.HELO.Value == ResultTemperror ||
		slices.ContainsFunc(r.DKIM, func(d DKIMResult) bool { return d.Value == ResultTemperror }) ||
		r.ARC.Value == arc.Fail
}

// results lays out what was found for the field.
func (r *Report) results() Results {
	out := Results{ID: r.checker.ID}
	if r.IPRev.Value != "" {
		out.List = append(out.List, r.IPRev.AuthResult())
	}
	for _, s := range []SPFResult{r.SPF, r.HELO} {
		if s.Value != "" {
			out.List = append(out.List, s.AuthResult())
		}
	}
	for _, d := range r.DKIM {
		out.List = append(out.List, d.AuthResult())
	}
	if len(r.DKIM) == 0 {
		out.List = append(out.List, Result{Method: MethodDKIM, Value: ResultNone})
	}
	if r.ARC.Value != "" {
		out.List = append(out.List, r.arcResult())
	}
	if d, ok := r.DMARC.AuthResult(); ok {
		if r.Would.Exempt != "" {
			d.Comment = "exempt: " + r.Would.Exempt // so that whoever filters by this field can tell
		}
		out.List = append(out.List, d)
	}
	return out
}

// AuthResult is the result as it stands in the Authentication-Results field.
// https://www.rfc-editor.org/rfc/rfc8601#section-2.7.3
func (r IPRevResult) AuthResult() Result {
	out := Result{Method: MethodIPRev, Value: r.Value, Comment: r.Name}
	if r.Value != ResultPass {
		out.Reason = r.Reason
	}
	out.Properties = []Property{NewProperty(PropPolicyIPRev, r.IP.String())}
	return out
}

// AuthResult is the result as it stands in the Authentication-Results field. Of a mailbox the domain alone is named:
// that is what was judged. https://www.rfc-editor.org/rfc/rfc8601#section-2.7.2
func (r SPFResult) AuthResult() Result {
	out := Result{Method: MethodSPF, Value: r.Value}
	switch r.Value {
	case ResultTemperror, ResultPermerror:
		out.Reason = r.Reason
	}
	name := PropMailFrom
	if r.Scope == ScopeHELO {
		name = PropHelo
	}
	if r.Domain != "" {
		out.Properties = []Property{NewProperty(name, r.Domain)}
	}
	return out
}

// AuthResult is the result as it stands in the Authentication-Results field.
// https://www.rfc-editor.org/rfc/rfc8601#section-2.7.1
func (r DKIMResult) AuthResult() Result {
	out := Result{Method: MethodDKIM, Value: r.Value, Reason: r.Reason}
	if r.Testing {
		out.Comment = "test mode"
	}
	for _, p := range []struct{ name, value string }{
		{PropHeaderD, r.Domain}, {PropHeaderI, r.Identity}, {PropHeaderS, r.Selector}, {PropHeaderA, r.Algorithm},
		{PropHeaderB, r.B},
	} {
		if p.value != "" {
			out.Properties = append(out.Properties, NewProperty(p.name, p.value))
		}
	}
	return out
}

// arcResult is the result of the chain, with the address that a later seal would speak of.
// https://www.rfc-editor.org/rfc/rfc8617#section-6
func (r *Report) arcResult() Result {
	out := Result{Method: MethodARC, Value: r.ARC.Value, Reason: r.ARC.Reason}
	if r.ARC.Value == arc.Pass {
		out.Properties = append(out.Properties, NewProperty(PropOldestPass, strconv.Itoa(r.ARC.OldestPass)))
		out.Comment = fmt.Sprintf("i=%d", r.ARC.Instance)
	}
	if client := r.Envelope.Client; client.IsValid() {
		out.Properties = append(out.Properties, NewProperty(PropRemoteIP, client.Unmap().WithZone("").String()))
	}
	return out
}

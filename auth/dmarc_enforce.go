package auth

import (
	"net/netip"
	"slices"
)

// Enforcement says what is done about verdicts. The zero value does nothing.
type Enforcement struct {
	// Limit is the harshest that is done: none (or ""), quarantine or reject. A policy of quarantine is never made a
	// rejection of.
	Limit Policy
	// Networks are those of trusted forwarders, whose mail is let through whatever it fails.
	Networks []netip.Prefix
	// Domains are those of trusted forwarders and lists. Mail is let through where one of them, or a name below, was
	// authenticated, be it by SPF or by a signature. An author domain that is merely claimed exempts nothing.
	Domains []string
	// FaultyFrom acts on mail with a From field that readers may take for different authors as on mail for whose domain
	// the policy is Limit, whatever the domains in it ask for. Else these policies count, as far as they can be read. A
	// field that is missing, or in which there is no address at all, deceives nobody: see [FromFault.Deceptive].
	FaultyFrom bool
	// Unknown says what becomes of mail of which the DNS does not tell, for the time being, whether it fails: while
	// nothing is enforced, and where the author's policy is known to be none, it is accepted anyway.
	Unknown Unknown
}

// Unknown is what is done about verdicts of [StatusTempError].
type Unknown string

const (
	UnknownAccept Unknown = "accept" // as is where nothing is said
	UnknownDefer  Unknown = "defer"  // the client is to try again later
)

// An Action is what is done with a message.
type Action string

const (
	ActionAccept     Action = "accept"
	ActionQuarantine Action = "quarantine" // it is delivered, with a field that says so
	ActionReject     Action = "reject"
	ActionDefer      Action = "defer" // it is refused for now
)

// A Decision is what is done with a message, and why.
type Decision struct {
	Action Action
	// Exempt says why less is done than policy and Limit ask for: "network", "domain example.org", "sealer
	// example.org".
	Exempt string
	// Code, Enhanced and Text are the reply to the end of data, where that is refused.
	Code           int
	Enhanced, Text string
}

// An Origin is what exemptions go by.
type Origin struct {
	Client      netip.Addr
	Identifiers Identifiers
}

// Decide is what follows from a verdict on a message from o.
func (e Enforcement) Decide(v Verdict, o Origin) Decision {
	action := e.action(v)
	switch {
	case v.Sealer != "" && e.limited(v.Policy) != ActionAccept:
		return Decision{Action: ActionAccept, Exempt: "sealer " + v.Sealer}
	case action == ActionAccept:
		return Decision{Action: action}
	}
	if exempt := e.exempts(o); exempt != "" {
		return Decision{Action: ActionAccept, Exempt: exempt}
	}
	switch action {
	case ActionQuarantine:
		return Decision{Action: action}
	case ActionDefer:
		// https://www.rfc-editor.org/rfc/rfc9989#appendix-B.3.1
		return Decision{Action: action, Code: 451, Enhanced: "4.7.0", Text: "DMARC policy or authentication of " +
			v.Domain + " cannot be looked up now, please try again"}
	}
	// "Multiple authentication checks failed": https://www.rfc-editor.org/rfc/rfc7372#section-3.3. The word DMARC
	// tells programs what happened: https://www.rfc-editor.org/rfc/rfc9989#section-7.2
	d := Decision{Action: action, Code: 550, Enhanced: "5.7.26"}
	if v.Status == StatusReject {
		d.Text = "Message rejected per DMARC policy of " + v.Domain
	} else {
		d.Text = "Message rejected, DMARC cannot be applied: " + string(v.Fault)
	}
	return d
}

// action is what is done about a verdict, whoever sends the mail.
func (e Enforcement) action(v Verdict) Action {
	if e.FaultyFrom && v.Fault.Deceptive() {
		return e.limited(e.Limit)
	}
	if v.open() && e.Unknown == UnknownDefer && e.limited(PolicyReject) != ActionAccept {
		return ActionDefer
	}
	return e.limited(v.demands())
}

// demands is the policy that a verdict calls for.
func (v Verdict) demands() Policy {
	switch v.Status {
	case StatusReject:
		return PolicyReject
	case StatusQuarantine:
		return PolicyQuarantine
	}
	return PolicyNone
}

// limited is what is done at most for a policy.
func (e Enforcement) limited(p Policy) Action {
	switch {
	case p == PolicyReject && e.Limit == PolicyReject:
		return ActionReject
	case (p == PolicyReject || p == PolicyQuarantine) && (e.Limit == PolicyReject || e.Limit == PolicyQuarantine):
		return ActionQuarantine
	}
	return ActionAccept
}

// exempts says why mail from o is let through; "": it is not.
func (e Enforcement) exempts(o Origin) string {
	client := o.Client.Unmap().WithZone("")
	if slices.ContainsFunc(e.Networks, func(n netip.Prefix) bool { return n.Contains(client) }) {
		return "network"
	}
	for _, exempt := range e.Domains {
		exempt, ok := CanonicalDomain(exempt)
		if !ok {
			continue
		}
		for _, domain := range append([]string{o.Identifiers.SPF}, o.Identifiers.DKIM...) {
			if domain, ok := CanonicalDomain(domain); ok && within(domain, exempt) {
				return "domain " + exempt
			}
		}
	}
	return ""
}

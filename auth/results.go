package auth

import "strings"

// Results is what one Authentication-Results field says.
//
// https://www.rfc-editor.org/rfc/rfc8601#section-2.2
type Results struct {
	// ID is the authserv-id: whose word this is. When a field is written it must be one that CheckID accepts.
	ID string

	// Version of the field's grammar. A field without one is of version 1, which is the only one that is written.
	Version int

	// List has the results in the order of the field; an empty one is written as "none".
	List []Result
}

// A Result says what one method found. Method, Value and the names of properties are words of the registered
// vocabulary (the constants of this package), in lower case.
type Result struct {
	Method, Value string

	// Reason is text for people, and so is Comment. What must not stand in a field is replaced when they are written.
	Reason, Comment string

	Properties []Property

	// Version of the method; 0 where none was said. It is never written.
	Version int
}

// A Property is one thing that a method looked at: header.d=example.org has Type "header", Name "d" and Value
// "example.org". Value is without the quotes of a quoted-string; only the local part of a mailbox keeps its own.
type Property struct{ Type, Name, Value string }

// NewProperty makes a property of one of the names below and a value as it came from the message or the envelope: a
// value that is not what the name promises is left out when the field is written.
func NewProperty(name, value string) Property {
	ptype, name, _ := strings.Cut(name, ".")
	return Property{Type: ptype, Name: name, Value: value}
}

// Find returns the value of the first property of a name such as PropHeaderD.
func (r Result) Find(name string) (value string, ok bool) {
	ptype, name, _ := strings.Cut(name, ".")
	for _, p := range r.Properties {
		if p.Type == ptype && p.Name == name {
			return p.Value, true
		}
	}
	return "", false
}

// Methods whose results are written.
//
// https://www.iana.org/assignments/email-auth
const (
	MethodARC    = "arc"    // https://www.rfc-editor.org/rfc/rfc8617#section-10.1
	MethodAuth   = "auth"   // https://www.rfc-editor.org/rfc/rfc8601#section-2.7.4
	MethodDKIM   = "dkim"   // https://www.rfc-editor.org/rfc/rfc8601#section-2.7.1
	MethodDMARC  = "dmarc"  // https://www.rfc-editor.org/rfc/rfc9989
	MethodDNSWL  = "dnswl"  // https://www.rfc-editor.org/rfc/rfc8904
	MethodIPRev  = "iprev"  // https://www.rfc-editor.org/rfc/rfc8601#section-2.7.3
	MethodSPF    = "spf"    // https://www.rfc-editor.org/rfc/rfc8601#section-2.7.2
	methodNobody = "none"   // no method: nothing was checked
	reasonWord   = "reason" // what a reason is introduced by
)

// Results of methods. Which of them a method may have differs: the registry knows no iprev=none, for one.
const (
	ResultNone      = "none"
	ResultPass      = "pass"
	ResultFail      = "fail"
	ResultSoftfail  = "softfail"
	ResultPolicy    = "policy"
	ResultNeutral   = "neutral"
	ResultTemperror = "temperror"
	ResultPermerror = "permerror"
)

// Properties of methods.
const (
	PropHeaderA     = "header.a"           // dkim: algorithm
	PropHeaderB     = "header.b"           // dkim: the start of b=, https://www.rfc-editor.org/rfc/rfc6008#section-4
	PropHeaderD     = "header.d"           // dkim: domain
	PropHeaderI     = "header.i"           // dkim: agent or user
	PropHeaderS     = "header.s"           // dkim: selector
	PropMailFrom    = "smtp.mailfrom"      // spf, auth
	PropHelo        = "smtp.helo"          // spf
	PropHeaderFrom  = "header.from"        // dmarc: author domain
	PropPolicyDMARC = "policy.dmarc"       // dmarc: none, quarantine, reject
	PropRemoteIP    = "smtp.remote-ip"     // arc
	PropOldestPass  = "header.oldest-pass" // arc
	PropPolicyIPRev = "policy.iprev"       // iprev
	PropAuth        = "smtp.auth"          // auth
	PropDNSZone     = "dns.zone"           // dnswl
	PropDNSSec      = "dns.sec"            // dnswl: yes, no, na
	PropPolicyIP    = "policy.ip"          // dnswl: what the list answered
	PropPolicyTXT   = "policy.txt"         // dnswl: what the list says of the entry
)

// Bounds of what is written. An inbound message gets five results and at most ten signatures, so that none of them is
// near; they hold should a caller pass on what a stranger wrote.
const (
	maxWrittenResults    = 64
	maxWrittenProperties = 16
	maxWrittenText       = 200 // octets of a reason or a comment
	maxWrittenValue      = 512 // a local part and a domain name of 255 octets each, as they come in MAIL

	// https://www.rfc-editor.org/rfc/rfc5322#section-2.1.1
	foldAt = 78
)

// hasResult reports whether a method may have a result.
func hasResult(method, value string) bool {
	switch value {
	case ResultPass, ResultFail, ResultTemperror, ResultPermerror, ResultNone:
		switch method {
		case MethodAuth, MethodDKIM, MethodDMARC, MethodSPF:
			return true
		case MethodIPRev:
			return value != ResultNone
		case MethodARC:
			return value != ResultTemperror && value != ResultPermerror
		case MethodDNSWL:
			return value != ResultFail
		}
	case ResultNeutral, ResultPolicy:
		return method == MethodDKIM || method == MethodSPF
	case ResultSoftfail:
		return method == MethodSPF
	}
	return false
}

// valueKind is what the value of a property must be.
type valueKind int

const (
	kindNone     valueKind = iota // not a property of the method
	kindDomain                    // domain name
	kindHelo                      // domain name or address literal
	kindMailbox                   // mailbox, "@" and domain, or domain
	kindUser                      // mailbox or the name of an account
	kindSelector                  // labels with dots between
	kindAddress                   // IP address
	kindBase64
	kindNumber
	kindWord // letters, digits and hyphens
	kindText
)

// propertyKind returns what a property of a method must be.
func propertyKind(method, name string) valueKind {
	switch method {
	case MethodDKIM:
		switch name {
		case PropHeaderD:
			return kindDomain
		case PropHeaderI:
			return kindMailbox
		case PropHeaderS:
			return kindSelector
		case PropHeaderA:
			return kindWord
		case PropHeaderB:
			return kindBase64
		}
	case MethodSPF:
		switch name {
		case PropMailFrom:
			return kindMailbox
		case PropHelo:
			return kindHelo
		}
	case MethodDMARC:
		switch name {
		case PropHeaderFrom:
			return kindDomain
		case PropPolicyDMARC:
			return kindWord
		}
	case MethodARC:
		switch name {
		case PropRemoteIP:
			return kindAddress
		case PropOldestPass:
			return kindNumber
		}
	case MethodIPRev:
		if name == PropPolicyIPRev {
			return kindAddress
		}
	case MethodAuth:
		switch name {
		case PropAuth:
			return kindUser
		case PropMailFrom:
			return kindMailbox
		}
	case MethodDNSWL:
		switch name {
		case PropDNSZone:
			return kindDomain
		case PropPolicyIP:
			return kindAddress
		case PropPolicyTXT:
			return kindText
		case PropDNSSec:
			return kindWord
		}
	}
	return kindNone
}

package auth

import (
	"errors"

	"slipstream/auth/arc"
)

// maxPicks bounds the library's search for the fields that h= names: names times fields. Beyond, a message is made to
// be slow, and our own search, which does not grow like that, takes over.
const maxPicks = 1 << 15

// ownMessage is a message as signatures need it that are verified without the library: those that the library would
// get wrong, and those of a message whose body is hashed anyway, in the form that they want, for its ARC chain. There
// the library would only do over again what was done, which takes as long as two RSA verifications, a third of what
// such a message takes in all.
type ownMessage struct {
	headers []arc.Header
	chain   *arc.Verifier    // nil: there is none
	fields  *arc.Fields      // once they were wanted
	bodies  [2]*arc.BodyHash // by arc.Canon; nil where no signature wants it, or the chain has it
}

// hashed reports whether the chain hashes the body in that form.
func (m *ownMessage) hashed(c arc.Canon) bool { return m.chain != nil && m.chain.BodyHash(c) != nil }

// hash has the body hashed in that form.
func (m *ownMessage) hash(c arc.Canon) {
	if !m.hashed(c) && m.bodies[c] == nil {
		m.bodies[c] = arc.NewBodyHash(c)
	}
}

func (m *ownMessage) write(p []byte) {
	for _, hash := range m.bodies {
		if hash != nil {
			hash.Write(p) // fails after its end alone
		}
	}
}

func (m *ownMessage) body(c arc.Canon) *arc.BodyHash {
	if m.hashed(c) {
		return m.chain.BodyHash(c)
	}
	return m.bodies[c]
}

func (m *ownMessage) laidOut() *arc.Fields {
	if m.fields == nil && m.chain != nil {
		m.fields = m.chain.Fields()
	}
	if m.fields == nil {
		m.fields = arc.NewFields(m.headers)
	}
	return m.fields
}

// verifyOwn verifies a signature without the library.
func (s *dkimSignature) verifyOwn(m *ownMessage) {
	err := s.parsed.CheckBody(m.body(s.parsed.Body))
	if err == nil {
		err = s.parsed.Verify(m.laidOut(), s.key)
	}
	switch {
	case err == nil:
		s.decide("pass", "")
	case errors.Is(err, arc.ErrPartial):
		// Whoever passed the message on could have written the rest, https://www.rfc-editor.org/rfc/rfc6376#section-8.2
		s.decide("policy", "l= leaves part of the body unsigned")
	case errors.Is(err, arc.ErrBodyHash), errors.Is(err, arc.ErrMismatch):
		s.decide("fail", err.Error())
	default:
		s.decide("permerror", err.Error())
	}
}

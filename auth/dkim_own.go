package auth

import (
	"errors"

	"slipstream/auth/arc"
)

// maxPicks bounds the library's search for the fields that h= names: names times fields. Beyond, a message is made to
// be slow, and our own search, which does not grow like that, takes over.
const maxPicks = 1 << 15

// ownHashes are the hashes of the body for those signatures that the library would get wrong, one for each form.
type ownHashes map[arc.Canon]*arc.BodyHash

func newOwnHashes(list []*dkimSignature) ownHashes {
	h := make(ownHashes)
	for _, s := range list {
		if h[s.parsed.Body] == nil {
			h[s.parsed.Body] = arc.NewBodyHash(s.parsed.Body)
		}
	}
	return h
}

func (h ownHashes) write(p []byte) {
	for _, hash := range h {
		hash.Write(p) // fails after its end alone
	}
}

// verifyOwn verifies a signature without the library.
func (s *dkimSignature) verifyOwn(fields *arc.Fields, hashes ownHashes) {
	err := s.parsed.CheckBody(hashes[s.parsed.Body])
	if err == nil {
		err = s.parsed.Verify(fields, s.key)
	}
	switch {
	case err == nil:
		s.decide("pass", "")
	case errors.Is(err, arc.ErrBodyHash), errors.Is(err, arc.ErrMismatch):
		s.decide("fail", err.Error())
	default:
		s.decide("permerror", err.Error())
	}
}

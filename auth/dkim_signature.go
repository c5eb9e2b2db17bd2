package auth

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"slipstream/auth/arc"
)

const dkimField = "DKIM-Signature"

// dkimSignature is one signature on its way to a result.
type dkimSignature struct {
	at      int    // which of the fields it is
	asks    string // the name under which the library asks for the key
	own     bool   // the library would get it wrong, so it is verified without
	parsed  *arc.Signature
	key     *arc.Key
	b       string // b= without white space
	inside  bool   // i= names a subdomain of d=
	decided bool
	result  DKIMResult
}

func (s *dkimSignature) open() bool { return !s.decided }

// decide sets the result, once.
func (s *dkimSignature) decide(value, reason string) {
	if !s.decided {
		s.result.Value, s.result.Reason, s.decided = value, reason, true
	}
}

// readDKIM checks everything about a signature that can be checked without its key, and the rest is left open. The
// order is that of https://www.rfc-editor.org/rfc/rfc6376#section-6.1.1
func readDKIM(h arc.Header, now time.Time) *dkimSignature {
	s := new(dkimSignature)
	tags, err := arc.ParseTags(h.Value())
	if err != nil {
		s.decide("neutral", err.Error())
		return s
	}
	s.describe(tags)
	if v, _ := tags.Get("v"); v != "1" {
		s.decide("neutral", "unknown v=")
	}
	if a, _ := tags.Get("a"); a == "rsa-sha1" { // https://www.rfc-editor.org/rfc/rfc8301#section-3.1
		s.decide("permerror", "rsa-sha1 proves nothing")
	}
	if s.parsed, err = arc.ParseSignature(h); err != nil {
		s.decide("neutral", err.Error())
		return s
	}
	if s.result.Domain == "" || s.result.Selector == "" { // an address, which arc takes for a name
		s.decide("neutral", "d= is no domain")
		return s
	}
	s.identify(tags)
	if s.froms() == 0 {
		s.decide("permerror", "From is not signed")
	}
	if s.parsed.CheckTime(now) != nil {
		s.decide("permerror", "the signature has expired")
	}
	s.own = s.own || s.parsed.Length >= 0 // the library takes no l=, not even one that covers the whole body
	s.asks = s.parsed.Selector + "._domainkey." + s.parsed.Domain
	// The library would count the signature itself among the fields, https://www.rfc-editor.org/rfc/rfc6376#section-3.7
	s.own = s.own || slices.ContainsFunc(s.parsed.Headers, func(n string) bool { return strings.EqualFold(n, dkimField) })
	s.own = s.own || !blanksOnlyB(h)
	return s
}

// froms is the number of From fields that the signature covers, or would.
func (s *dkimSignature) froms() int {
	n := 0
	for _, name := range s.parsed.Headers {
		if strings.EqualFold(name, "from") {
			n++
		}
	}
	return n
}

// describe fills in what the result says about the signature, as far as each thing is what it should be.
func (s *dkimSignature) describe(tags arc.Tags) {
	d, _ := tags.Get("d")
	s.result.Domain, _ = plainDomain(d)
	sel, _ := tags.Get("s")
	s.result.Selector, _ = CanonicalDomain(sel)
	a, _ := tags.Get("a")
	if a == arc.RSASHA256 || a == arc.Ed25519SHA256 || a == "rsa-sha1" {
		s.result.Algorithm = a
	}
	b, _ := tags.Get("b")
	s.b = withoutBlanks(b)
	for i := range len(s.b) {
		if c := s.b[i]; !isAlnum(c) && c != '+' && c != '/' && c != '=' {
			s.b = ""
			break
		}
	}
}

// withoutBlanks removes the white space of a tag's value.
func withoutBlanks(s string) string {
	if strings.IndexByte(s, ' ') < 0 && strings.IndexByte(s, '\t') < 0 {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := range len(s) {
		if s[i] != ' ' && s[i] != '\t' {
			b = append(b, s[i])
		}
	}
	return string(b)
}

// identify reads i=, whose domain must be that of d= or below it. The library compares case and encoding, too: where
// that makes a difference, it is not asked.
func (s *dkimSignature) identify(tags arc.Tags) {
	s.result.Identity = "@" + s.result.Domain
	raw, ok := tags.Get("i")
	if !ok {
		return
	}
	local, domain, ok := parseIdentity(raw)
	if !ok {
		s.decide("neutral", "i= is no identity")
		return
	}
	s.inside = strings.HasSuffix(domain, "."+s.result.Domain)
	if !s.inside && domain != s.result.Domain {
		s.decide("permerror", "i= is of another domain than d=")
		return
	}
	s.result.Identity = local + "@" + domain
	bare := withoutBlanks(raw)
	s.own = !strings.HasSuffix(bare, "@"+s.parsed.Domain) && !strings.HasSuffix(bare, "."+s.parsed.Domain)
}

// parseIdentity reads i=: dkim-quoted-printable of an optional local part, "@" and a domain
// (https://www.rfc-editor.org/rfc/rfc6376#section-3.5). A local part that is more than a dot-atom comes back empty:
// nobody needs it, and it would have to be quoted wherever it is shown. The domain comes back as plainDomain has it.
func parseIdentity(raw string) (local, domain string, ok bool) {
	text := unquoteDKIM(raw)
	at := strings.LastIndexByte(text, '@')
	if at < 0 {
		return "", "", false
	}
	if domain, ok = plainDomain(text[at+1:]); !ok {
		return "", "", false
	}
	local = text[:at]
	if len(local) > maxShownLocal || !isShownLocal(local) {
		local = ""
	}
	return local, domain, true
}

// maxShownLocal is the longest local part, https://www.rfc-editor.org/rfc/rfc5321#section-4.5.3.1.1
const maxShownLocal = 64

func isShownLocal(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !isAlnum(c) && strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) < 0 &&
			(c != '.' || i == 0 || i == len(s)-1 || s[i-1] == '.') {
			return false
		}
	}
	return true
}

// unquoteDKIM decodes dkim-quoted-printable, https://www.rfc-editor.org/rfc/rfc6376#section-2.11. White space does not
// count. A "=" that introduces nothing stands for itself: many senders put their mailboxes in as they are.
func unquoteDKIM(s string) string {
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == ' ' || c == '\t':
		case c == '=' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]):
			b = append(b, unhex(s[i+1])<<4|unhex(s[i+2]))
			i += 2
		default:
			b = append(b, c)
		}
	}
	return string(b)
}

// isHex takes upper case alone, as the grammar does: "a=bc" in a mailbox is more likely itself than an octet.
func isHex(c byte) bool { return isDigit(c) || c >= 'A' && c <= 'F' }

func unhex(c byte) byte {
	if isDigit(c) {
		return c - '0'
	}
	return c - 'A' + 10
}

// blanksOnlyB reports whether the library, which empties whatever looks like b= anywhere in the field, empties b= and
// nothing else. Its expression is (b\s*=)[^;]+
func blanksOnlyB(h arc.Header) bool {
	raw, found := h.Raw, 0
	for i := 0; i < len(raw); i++ {
		if raw[i] != 'b' {
			continue
		}
		eq := i + 1
		for eq < len(raw) && strings.IndexByte(" \t\r\n\f", raw[eq]) >= 0 {
			eq++
		}
		if eq+1 >= len(raw) || raw[eq] != '=' || raw[eq+1] == ';' {
			continue
		}
		before := bytes.TrimRight(raw[:i], " \t\r\n")
		if !bytes.HasSuffix(before, []byte(";")) && len(before) != len(dkimField)+1 {
			return false
		}
		found++
		if end := bytes.IndexByte(raw[eq:], ';'); end >= 0 {
			i = eq + end
		} else {
			i = len(raw)
		}
	}
	return found == 1
}

// useKey decides what the look-up of the key has to say; what then is still open has its key.
func (s *dkimSignature) useKey(ctx context.Context, k *dkimKey) {
	switch {
	case dnsTemporary(k.err), k.late:
		s.decide("temperror", "no answer from the DNS")
		return
	case k.err != nil:
		s.decide("permerror", "no key")
		return
	}
	key, err := arc.ChooseKey(k.records, s.parsed.Algorithm)
	switch {
	case errors.Is(err, arc.ErrKeySize): // https://www.rfc-editor.org/rfc/rfc8301#section-3.2
		s.decide("policy", err.Error())
		return
	case err != nil:
		s.decide("permerror", err.Error())
		return
	}
	s.key, s.result.Testing = key, key.Testing
	if key.Strict && s.inside { // https://www.rfc-editor.org/rfc/rfc6376#section-3.6.1
		s.decide("permerror", "the key is not for subdomains, and i= names one")
	}
}

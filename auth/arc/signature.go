package arc

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

var (
	ErrSignature = errors.New("malformed signature")               // the field cannot be used
	ErrBodyHash  = errors.New("the body is not what was signed")   // bh= differs
	ErrPartial   = errors.New("the body is not signed to its end") // l= leaves something out
	ErrMismatch  = errors.New("the signature does not verify")     // b= differs
	ErrExpired   = errors.New("the signature has expired")         // x= is past
)

// Signature is what DKIM-Signature and ARC-Message-Signature have in common
// (https://www.rfc-editor.org/rfc/rfc6376#section-3.5). What v=, i= and the
// From in h= must be differs between the two and is left to the caller.
type Signature struct {
	Tags             Tags
	Algorithm        string // RSASHA256 or Ed25519SHA256
	Domain, Selector string // d= and s=, as written; see [KeyName]
	Header, Body     Canon
	Headers          []string  // h=, as written; a name may be empty
	BodyHash         []byte    // bh=
	Signature        []byte    // b=
	Signed, Expires  time.Time // t= and x=; zero where they are missing
	Length           int64     // l=; -1 where it is missing

	raw []byte
	key keyName
}

// keyName is where a key is: see [KeyName].
type keyName struct{ selector, domain string }

// ParseSignature reads a field. Every error is an ErrTags or ErrSignature.
func ParseSignature(h Header) (*Signature, error) {
	tags, err := ParseTags(h.Value())
	if err != nil {
		return nil, err
	}
	return parseSignature(tags, h.Raw)
}

// parseSignature reads the tags of the field raw.
func parseSignature(tags Tags, raw []byte) (s *Signature, err error) {
	s = &Signature{Tags: tags, Length: -1, raw: raw}
	if err := s.parseCommon(); err != nil {
		return nil, err
	}
	c, ok := tags.Get("c")
	if !ok {
		c = "simple/simple"
	}
	header, body, both := strings.Cut(c, "/")
	if !both {
		body = "simple"
	}
	var ok1, ok2 bool
	s.Header, ok1 = parseCanon(header)
	s.Body, ok2 = parseCanon(body)
	if !ok1 || !ok2 {
		return nil, fmt.Errorf("%w: unknown c=", ErrSignature)
	}
	hash, _ := tags.Get("bh")
	if s.BodyHash, err = decodeBase64(hash); err != nil || len(s.BodyHash) != sha256.Size {
		return nil, fmt.Errorf("%w: bh= is no SHA-256", ErrSignature)
	}
	list, ok := tags.Get("h")
	if !ok {
		return nil, fmt.Errorf("%w: no h=", ErrSignature)
	}
	s.Headers = strings.Split(list, ":")
	for i := range s.Headers {
		s.Headers[i] = trimWSP(s.Headers[i])
	}
	if q, ok := tags.Get("q"); ok && !listed(q, "dns/txt") {
		return nil, fmt.Errorf("%w: unknown q=", ErrSignature)
	}
	if l, ok := tags.Get("l"); ok {
		if s.Length, ok = parseNumber(l, 18); !ok {
			return nil, fmt.Errorf("%w: l= is no number", ErrSignature)
		}
	}
	return s, s.parseExpiry()
}

// parseCommon reads what an ARC-Seal has too.
func (s *Signature) parseCommon() (err error) {
	s.Algorithm, _ = s.Tags.Get("a")
	if s.Algorithm != RSASHA256 && s.Algorithm != Ed25519SHA256 {
		return fmt.Errorf("%w: unknown a=", ErrSignature)
	}
	b, _ := s.Tags.Get("b")
	if s.Signature, err = decodeBase64(b); err != nil || len(s.Signature) == 0 {
		return fmt.Errorf("%w: b= is not base64", ErrSignature)
	}
	s.Domain, _ = s.Tags.Get("d")
	s.Selector, _ = s.Tags.Get("s")
	if s.key.selector, s.key.domain, err = KeyName(s.Selector, s.Domain); err != nil {
		return err
	}
	if t, ok := s.Tags.Get("t"); ok {
		if s.Signed, ok = parseTime(t); !ok {
			return fmt.Errorf("%w: t= is no time", ErrSignature)
		}
	}
	return nil
}

func (s *Signature) parseExpiry() error {
	x, ok := s.Tags.Get("x")
	if !ok {
		return nil
	}
	if s.Expires, ok = parseTime(x); !ok || !s.Signed.IsZero() && !s.Expires.After(s.Signed) {
		return fmt.Errorf("%w: x= is no time, or not behind t=", ErrSignature)
	}
	return nil
}

// CheckTime returns ErrExpired if x= is before now. That t= may be in the future
// is nobody's harm.
func (s *Signature) CheckTime(now time.Time) error {
	if !s.Expires.IsZero() && now.After(s.Expires) {
		return ErrExpired
	}
	return nil
}

// CheckBody compares bh= with the hash of a whole body in the form that s.Body
// names. A body that l= does not cover to its end gives ErrPartial: whoever
// passed the message on could have written the rest
// (https://www.rfc-editor.org/rfc/rfc6376#section-8.2).
func (s *Signature) CheckBody(b *BodyHash) error {
	if s.Length >= 0 && s.Length < b.Size() {
		return ErrPartial
	}
	if sum := b.Sum(); b.canon != s.Body || s.Length > b.Size() || !bytes.Equal(sum[:], s.BodyHash) {
		return ErrBodyHash
	}
	return nil
}

// Digest returns the hash of the fields that h= chooses and of the signature
// itself. A name chooses from the bottom up, and nothing where no such field is
// left (https://www.rfc-editor.org/rfc/rfc6376#section-5.4.2). f must have been
// made of the same fields that the signature was.
func (s *Signature) Digest(f *Fields) []byte {
	hash := sha256.New()
	left := slices.Clone(f.bottom) // where the next field to be chosen is, by the number of its name
	for _, name := range s.Headers {
		n, ok := f.number(name)
		if !ok {
			continue
		}
		at := left[n]
		// A signature never covers itself by name, only as it does below.
		if at >= 0 && isSame(f.headers[at].Raw, s.raw) {
			at = f.above[at]
		}
		if at >= 0 {
			hash.Write(f.canonical(at, s.Header))
			at = f.above[at]
		}
		left[n] = at
	}
	hash.Write(s.unsigned(s.Header))
	return hash.Sum(nil)
}

// isSame reports whether two slices begin at the same place in memory.
func isSame(a, b []byte) bool { return len(a) > 0 && len(b) > 0 && &a[0] == &b[0] }

// unsigned returns the signature's own field in canonical form, with an empty
// b= and without the final CRLF.
func (s *Signature) unsigned(c Canon) []byte {
	b := s.Tags[s.Tags.index("b")]
	at := bytes.IndexByte(s.raw, ':') + 1
	raw := make([]byte, 0, len(s.raw))
	raw = append(raw, s.raw[:at+b.start]...)
	raw = append(raw, s.raw[at+b.end:]...)
	if c == Relaxed {
		raw = Relaxed.AppendHeader(make([]byte, 0, len(raw)), raw)
	}
	return bytes.TrimSuffix(raw, crlf)
}

// Verify checks b= of the fields with a key. Neither the body nor the time is
// looked at.
func (s *Signature) Verify(f *Fields, k *Key) error { return s.verify(s.Digest(f), k) }

func (s *Signature) verify(digest []byte, k *Key) error {
	if k.Algorithm() != s.Algorithm {
		return fmt.Errorf("%w: the key is for another algorithm", ErrNoKey)
	}
	switch pub := k.Public.(type) {
	case *rsa.PublicKey:
		if rsa.VerifyPKCS1v15(pub, crypto.SHA256, digest, s.Signature) == nil {
			return nil
		}
	case ed25519.PublicKey:
		if ed25519.Verify(pub, digest, s.Signature) {
			return nil
		}
	}
	return ErrMismatch
}

// parseNumber reads a number of at most so many digits.
func parseNumber(s string, digits int) (n int64, ok bool) {
	if s == "" || len(s) > digits || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

// parseTime reads seconds since 1970, of which twelve digits are enough for
// everybody (https://www.rfc-editor.org/rfc/rfc6376#section-3.5).
func parseTime(s string) (time.Time, bool) {
	n, ok := parseNumber(s, 12)
	return time.Unix(n, 0), ok
}

// KeyName returns s= and d= as DNS wants them, in lower case and A-labels
// (https://www.rfc-editor.org/rfc/rfc8616#section-4). The key is at
// selector._domainkey.domain.
func KeyName(selector, domain string) (s, d string, err error) {
	const infix = len("._domainkey.")
	s, ok1 := dnsName(selector)
	d, ok2 := dnsName(domain)
	if !ok1 || !ok2 || !strings.Contains(d, ".") || len(s)+infix+len(d) > maxName {
		return "", "", fmt.Errorf("%w: s= or d= is no name", ErrSignature)
	}
	return s, d, nil
}

// maxName and maxLabel are DNS's own bounds
// (https://www.rfc-editor.org/rfc/rfc1035#section-3.1), the first as text.
const (
	maxName  = 253
	maxLabel = 63
)

// dnsName returns a name in lower case and A-labels. Underscores are taken,
// since there are selectors with them.
func dnsName(name string) (string, bool) {
	if len(name) > maxName || !utf8.ValidString(name) {
		return "", false
	}
	if strings.IndexFunc(name, func(r rune) bool { return r >= 0x80 }) >= 0 {
		ascii, err := idna.Lookup.ToASCII(name)
		if err != nil {
			return "", false
		}
		name = ascii
	}
	name = lower(name)
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > maxLabel || label[0] == '-' || label[len(label)-1] == '-' ||
			!isLabel(label) {
			return "", false
		}
	}
	return name, true
}

func isLabel(s string) bool {
	for i := range len(s) {
		if c := s[i]; ('a' > c || c > 'z') && ('0' > c || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

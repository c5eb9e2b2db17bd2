package arc

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

var (
	// ErrSealedFailed means that a seal already says cv=fail. Nothing is put
	// above it (https://www.rfc-editor.org/rfc/rfc8617#section-5.1).
	ErrSealedFailed = errors.New("the chain is already sealed as failed")

	// ErrSealedFull means a chain of MaxSets.
	ErrSealedFull = errors.New("the chain has all the sets it may have")

	// ErrSealer means a Sealer that cannot seal anything.
	ErrSealer = errors.New("bad sealer")

	// ErrSealInput means a message, or results, that cannot be sealed.
	ErrSealInput = errors.New("cannot be sealed")
)

// Sealer seals messages in the name of a domain. It may be used by several
// goroutines at once if its Key may.
type Sealer struct {
	// Domain and Selector are d= and s=: the public key is at
	// Selector._domainkey.Domain.
	Domain, Selector string

	// Key is an RSA key of MinRSABits to MaxRSABits, or an Ed25519 key. Few
	// verifiers know Ed25519.
	Key crypto.Signer

	// Headers are the fields to sign, as often as the message has them; nil
	// stands for DefaultHeaders. DKIM-Signature is signed in any case
	// (https://www.rfc-editor.org/rfc/rfc8617#section-4.1.2). ARC fields and
	// Authentication-Results must not be among them.
	Headers []string

	// Oversign are those of the fields, missing ones included, to which none
	// may be added: they are signed once more than the message has them. Nil
	// stands for From; an empty list for none. From is signed in any case.
	Oversign []string

	// Now is the clock of t=; nil stands for time.Now.
	Now func() time.Time

	layout layout
}

// DefaultHeaders returns the fields that are signed where nothing else is said:
// those of https://www.rfc-editor.org/rfc/rfc6376#section-5.4.1 that do not
// change on the way.
func DefaultHeaders() []string {
	return []string{
		"From", "Reply-To", "Subject", "Date", "To", "Cc", "Message-ID", "In-Reply-To", "References",
		"MIME-Version", "Content-Type", "Content-Transfer-Encoding", "Content-ID", "Content-Description",
		"Resent-Date", "Resent-From", "Resent-To", "Resent-Cc", "Resent-Message-ID",
		"List-Id", "List-Help", "List-Unsubscribe", "List-Unsubscribe-Post", "List-Subscribe",
		"List-Post", "List-Owner", "List-Archive", "DKIM-Signature",
	}
}

// Check returns an ErrSealer if s cannot seal anything.
func (s *Sealer) Check() error {
	if _, _, err := KeyName(s.Selector, s.Domain); err != nil {
		return fmt.Errorf("%w: the domain or the selector is no name", ErrSealer)
	}
	if _, err := s.algorithm(); err != nil {
		return err
	}
	for _, name := range slices.Concat(s.Headers, s.Oversign) {
		if name == "" || fieldName([]byte(name+":")) != name {
			return fmt.Errorf("%w: %q is no name of a field", ErrSealer, name)
		}
		if !signable(name) {
			return fmt.Errorf("%w: a seal must not cover %s", ErrSealer, name)
		}
	}
	return nil
}

// algorithm returns the a= of the key.
func (s *Sealer) algorithm() (string, error) {
	if s.Key == nil {
		return "", fmt.Errorf("%w: no key", ErrSealer)
	}
	switch pub := s.Key.Public().(type) {
	case *rsa.PublicKey:
		if n := pub.N.BitLen(); n < MinRSABits || n > MaxRSABits {
			return "", fmt.Errorf("%w: an RSA key of %d bits; from %d to %d will do",
				ErrSealer, n, MinRSABits, MaxRSABits)
		}
		return RSASHA256, nil
	case ed25519.PublicKey:
		return Ed25519SHA256, nil
	}
	return "", fmt.Errorf("%w: a key that is neither RSA nor Ed25519", ErrSealer)
}

// Seal returns the next set for a message: ARC-Seal, ARC-Message-Signature and
// ARC-Authentication-Results, each ending in CRLF, to be put above headers.
//
// headers and body are the message as it will go out, our own
// Authentication-Results included; body must be in Relaxed form and is ended.
// verified is what [Verifier.Close] said of the same header. results is what
// stands behind "Authentication-Results:" for everything that our
// administrative domain found: its id, then the results of all its fields
// combined, arc= among them. It may be folded.
//
// A chain that failed is sealed with cv=fail, the seal covering nothing but the
// new set (https://www.rfc-editor.org/rfc/rfc8617#section-5.1.2). Other errors
// than ErrSealedFailed, ErrSealedFull, ErrSealer and ErrSealInput are the key's.
func (s *Sealer) Seal(headers []Header, body *BodyHash, verified Result, results []byte) ([]byte, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	c := collect(headers)
	if err := checkSealable(c, headers, body, verified); err != nil {
		return nil, err
	}
	results = bytes.Trim(results, " \t\r\n")
	if err := checkResults(results); err != nil {
		return nil, err
	}
	n := newSet{Sealer: s, instance: c.top + 1, now: time.Now()}
	if s.Now != nil {
		n.now = s.Now()
	}
	n.results = fmt.Appendf(nil, "%s: i=%d; %s\r\n", fieldResults, n.instance, results)
	fields := NewFields(headers)
	if err := n.signMessage(fields, body); err != nil {
		return nil, err
	}
	if err := n.signSeal(fields, c, verified.Value); err != nil {
		return nil, err
	}
	return slices.Concat(n.seal, n.message, n.results), nil
}

// checkSealable reports why a message cannot be sealed.
func checkSealable(c *chain, headers []Header, body *BodyHash, verified Result) error {
	switch {
	case c.marked():
		return ErrSealedFailed
	case c.top >= MaxSets:
		return ErrSealedFull
	case slices.ContainsFunc(headers, func(h Header) bool { return h.Name == "" }):
		return fmt.Errorf("%w: %w", ErrSealInput, ErrHeaderSyntax)
	case body == nil || body.canon != Relaxed:
		return fmt.Errorf("%w: the body is not hashed in relaxed form", ErrSealInput)
	}
	sound := c.err == nil && c.fields > 0
	if verified.Instance != c.top || verified.Value == None && c.fields > 0 || verified.Value == Pass && !sound ||
		verified.Value == Fail && c.fields == 0 || !slices.Contains([]string{None, Pass, Fail}, verified.Value) {
		return fmt.Errorf("%w: this is not the chain that was verified", ErrSealInput)
	}
	return nil
}

// checkResults reports why results cannot be the value of a field.
func checkResults(results []byte) error {
	if len(results) == 0 || len(results) > MaxResults || !utf8.Valid(results) {
		return fmt.Errorf("%w: results of %d octets, or not UTF-8", ErrSealInput, len(results))
	}
	for i, line := range bytes.Split(results, crlf) {
		if isBlank(line) || i > 0 && !isWSP(line[0]) || len(line) > maxLine-len(fieldResults+": i=50; ") {
			return fmt.Errorf("%w: results with a bad line", ErrSealInput)
		}
		for _, b := range line {
			if b < ' ' && b != '\t' || b == 0x7f {
				return fmt.Errorf("%w: results with a control character", ErrSealInput)
			}
		}
	}
	return nil
}

// newSet is the set that is being made.
type newSet struct {
	*Sealer
	instance               int
	now                    time.Time
	results, message, seal []byte
}

// signMessage makes the ARC-Message-Signature.
func (n *newSet) signMessage(fields *Fields, body *BodyHash) error {
	sum := body.Sum()
	tags := append(n.tags(),
		Tag{Name: "c", Value: "relaxed/relaxed"},
		Tag{Name: "h", Value: strings.Join(n.covered(fields), ":")},
		Tag{Name: "bh", Value: base64.StdEncoding.EncodeToString(sum[:])})
	var err error
	n.message, err = n.sign(fieldMessage, tags, func(s *Signature) []byte { return s.Digest(fields) })
	return err
}

// signSeal makes the ARC-Seal.
func (n *newSet) signSeal(fields *Fields, c *chain, cv string) error {
	running := sha256.New()
	if cv == Pass {
		for _, s := range c.sets {
			for _, i := range []int{s.results, s.message, s.seal} {
				running.Write(fields.canonical(i, Relaxed))
			}
		}
	}
	running.Write(Relaxed.AppendHeader(nil, n.results))
	running.Write(Relaxed.AppendHeader(nil, n.message))
	tags := append(n.tags(), Tag{Name: "cv", Value: cv})
	var err error
	n.seal, err = n.sign(fieldSeal, tags, func(s *Signature) []byte { return finish(running, s.unsigned(Relaxed)) })
	return err
}

// tags are those that both signatures have. Gmail wants t= in both.
func (n *newSet) tags() []Tag {
	algorithm, _ := n.algorithm()
	return []Tag{
		{Name: "i", Value: strconv.Itoa(n.instance)},
		{Name: "a", Value: algorithm},
		{Name: "d", Value: n.Domain},
		{Name: "s", Value: n.Selector},
		{Name: "t", Value: strconv.FormatInt(n.now.Unix(), 10)},
	}
}

// covered returns the names of h=.
func (n *newSet) covered(fields *Fields) []string {
	headers, oversign := n.Headers, n.Oversign
	if headers == nil {
		headers = DefaultHeaders()
	}
	if oversign == nil {
		oversign = []string{"From"}
	}
	var covered []string
	done := make(map[string]bool)
	for _, name := range slices.Concat(headers, oversign, []string{"From", "DKIM-Signature"}) {
		key := lower(name)
		if done[key] {
			continue
		}
		done[key] = true
		times := fields.count(key)
		if slices.ContainsFunc(oversign, func(s string) bool { return lower(s) == key }) {
			times++
		}
		covered = append(covered, slices.Repeat([]string{name}, times)...)
	}
	return covered
}

// sign makes a field of tags and the signature of what digest returns for it.
func (n *newSet) sign(name string, tags []Tag, digest func(*Signature) []byte) ([]byte, error) {
	size := ed25519.SignatureSize
	var opts crypto.SignerOpts = crypto.Hash(0)
	if pub, ok := n.Key.Public().(*rsa.PublicKey); ok {
		size, opts = pub.Size(), crypto.SHA256
	}
	// The field is laid out with a signature of the right length first: filling
	// in the true one then moves no fold.
	tags = append(tags, Tag{Name: "b", Value: base64.StdEncoding.EncodeToString(make([]byte, size))})
	n.layout.sort(tags)
	blank := n.layout.compose(name, tags)
	parsed, err := ParseTags(Header{Raw: blank}.Value())
	if err != nil {
		return nil, fmt.Errorf("%w: too many fields to sign", ErrSealInput)
	}
	sum := digest(&Signature{Tags: parsed, Header: Relaxed, Headers: splitList(parsed), raw: blank})
	signature, err := n.Key.Sign(rand.Reader, sum, opts)
	if err != nil {
		return nil, fmt.Errorf("signing %s: %w", name, err)
	}
	if len(signature) != size {
		return nil, fmt.Errorf("signing %s: a signature of %d octets", name, len(signature))
	}
	for i := range tags {
		if tags[i].Name == "b" {
			tags[i].Value = base64.StdEncoding.EncodeToString(signature)
		}
	}
	return n.layout.compose(name, tags), nil
}

// splitList returns the names of h=, if it is there.
func splitList(tags Tags) []string {
	list, _ := tags.Get("h")
	names := strings.Split(list, ":")
	for i := range names {
		names[i] = strings.Trim(names[i], " \t")
	}
	return names
}

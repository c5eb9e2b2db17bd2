package arc

import (
	"bytes"
	"errors"
	"fmt"
)

// The three fields of a set.
const (
	fieldResults = "ARC-Authentication-Results"
	fieldMessage = "ARC-Message-Signature"
	fieldSeal    = "ARC-Seal"
)

// The values of cv= (https://www.rfc-editor.org/rfc/rfc8617#section-4.4).
const (
	None = "none"
	Pass = "pass"
	Fail = "fail"
)

var errChain = errors.New("broken chain")

// signable reports whether a message signature may cover a field. ARC fields and
// Authentication-Results must not be covered
// (https://www.rfc-editor.org/rfc/rfc8617#section-4.1.2).
func signable(name string) bool {
	return bearable(name) && !equalFold(name, fieldMessage) && !equalFold(name, fieldResults)
}

// bearable reports whether a message signature of others may cover a field. It
// differs from signable in two fields that do stay on a message, and that have
// been signed in practice: the validation suite of the ARC project wants both
// taken.
func bearable(name string) bool {
	return !equalFold(name, fieldSeal) && !equalFold(name, "Authentication-Results")
}

// set is one instance of a chain.
type set struct {
	results, message, seal int // where the fields are in the header; -1 where one is missing

	payload []byte     // of the ARC-Authentication-Results
	ams     *Signature // the ARC-Message-Signature
	as      *Signature // the ARC-Seal, as far as it is one
	cv      string     // of the ARC-Seal
}

// chain is what ARC fields a header has.
type chain struct {
	fields int   // how many
	top    int   // the highest instance seen
	sets   []set // instance i is sets[i-1]
	err    error // what is wrong with the structure, if anything
}

// collect finds the chain of a header and checks its structure, steps 1 to 3 of
// https://www.rfc-editor.org/rfc/rfc8617#section-5.2. It goes on behind an
// error, since a seal over a broken chain needs the highest instance.
func collect(headers []Header) *chain {
	c := new(chain)
	size := 0
	malformed := len(headers) > MaxFields
	for i, h := range headers {
		size += len(h.Raw)
		malformed = malformed || h.Name == "" || size > MaxHeaderSize
		var err error
		switch {
		case equalFold(h.Name, fieldResults):
			err = c.addResults(i, h)
		case equalFold(h.Name, fieldMessage), equalFold(h.Name, fieldSeal):
			err = c.addSigned(i, h, equalFold(h.Name, fieldSeal))
		default:
			continue
		}
		if c.fields++; c.fields > 3*MaxSets {
			c.fail(fmt.Errorf("%w: too many fields", errChain))
			return c
		}
		c.fail(err)
	}
	switch {
	case c.fields == 0:
		return c
	case c.marked():
		c.err = fmt.Errorf("%w: already sealed as failed", errChain)
	case malformed:
		c.fail(ErrHeaderSyntax)
	}
	c.checkStructure()
	return c
}

// fail keeps the first error.
func (c *chain) fail(err error) {
	if c.err == nil {
		c.err = err
	}
}

// marked reports whether the newest set says that the chain is broken.
func (c *chain) marked() bool { return c.top > 0 && c.sets[c.top-1].cv == Fail }

// at returns the set of an instance.
func (c *chain) at(instance int) *set {
	for len(c.sets) < instance {
		c.sets = append(c.sets, set{results: -1, message: -1, seal: -1})
	}
	c.top = max(c.top, instance)
	return &c.sets[instance-1]
}

// addResults takes in an ARC-Authentication-Results.
func (c *chain) addResults(i int, h Header) error {
	instance, payload, ok := parseResults(h.Value())
	if !ok {
		return fmt.Errorf("%w: results without i=", errChain)
	}
	s := c.at(instance)
	if s.results >= 0 {
		return fmt.Errorf("%w: two results of set %d", errChain, instance)
	}
	s.results, s.payload = i, payload
	return nil
}

// addSigned takes in an ARC-Message-Signature or ARC-Seal.
func (c *chain) addSigned(i int, h Header, isSeal bool) error {
	tags, err := ParseTags(h.Value())
	if err != nil {
		return fmt.Errorf("%w: %w", errChain, err)
	}
	value, _ := tags.Get("i")
	instance, rest, ok := cutInstance([]byte(value))
	if !ok || len(rest) > 0 {
		return fmt.Errorf("%w: a bad i=", errChain)
	}
	s := c.at(instance)
	if isSeal {
		if s.seal >= 0 {
			return fmt.Errorf("%w: two seals of set %d", errChain, instance)
		}
		s.seal = i
		s.cv, _ = tags.Get("cv")
		if s.as, err = parseSeal(tags, h.Raw); err != nil {
			return fmt.Errorf("%w: seal %d: %w", errChain, instance, err)
		}
		return nil
	}
	if s.message >= 0 {
		return fmt.Errorf("%w: two signatures of set %d", errChain, instance)
	}
	s.message = i
	if s.ams, err = parseMessage(tags, h.Raw); err != nil {
		return fmt.Errorf("%w: signature %d: %w", errChain, instance, err)
	}
	return nil
}

// parseMessage reads an ARC-Message-Signature. Its v= is ignored, if there is one.
func parseMessage(tags Tags, raw []byte) (*Signature, error) {
	s, err := parseSignature(tags, raw)
	if err != nil {
		return nil, err
	}
	for _, name := range s.Headers {
		if !bearable(name) {
			return nil, fmt.Errorf("%w: h= covers what it must not", ErrSignature)
		}
	}
	return s, nil
}

// readings returns the ways to read the message signature. Without c= there are
// two: RFC 8617 leaves DKIM's simple/simple in force, while the validation suite
// of the ARC project, and so what was built by it, takes relaxed/relaxed.
func (s *set) readings() []*Signature {
	if _, ok := s.ams.Tags.Get("c"); ok {
		return []*Signature{s.ams}
	}
	relaxed := *s.ams
	relaxed.Header, relaxed.Body = Relaxed, Relaxed
	return []*Signature{s.ams, &relaxed}
}

// parseSeal reads the tags of an ARC-Seal
// (https://www.rfc-editor.org/rfc/rfc8617#section-4.1.3).
func parseSeal(tags Tags, raw []byte) (*Signature, error) {
	if _, ok := tags.Get("h"); ok {
		return nil, fmt.Errorf("%w: a seal with h=", ErrSignature)
	}
	s := &Signature{Tags: tags, Header: Relaxed, Length: -1, raw: raw}
	return s, s.parseCommon()
}

// checkStructure checks that every set is whole and every cv= as it must be.
func (c *chain) checkStructure() {
	for i := range c.sets {
		s, want := &c.sets[i], Pass
		if i == 0 {
			want = None
		}
		if s.results < 0 || s.message < 0 || s.seal < 0 {
			c.fail(fmt.Errorf("%w: set %d is not whole", errChain, i+1))
		}
		if s.cv != want {
			c.fail(fmt.Errorf("%w: cv= of seal %d", errChain, i+1))
		}
	}
}

// parseResults takes an ARC-Authentication-Results apart, i= and what follows
// (https://www.rfc-editor.org/rfc/rfc8617#section-4.1.1).
func parseResults(value []byte) (instance int, payload []byte, ok bool) {
	p, ok := cutCFWS(value)
	if !ok || len(p) == 0 || p[0] != 'i' {
		return 0, nil, false
	}
	if p, ok = cutCFWS(p[1:]); !ok || len(p) == 0 || p[0] != '=' {
		return 0, nil, false
	}
	if p, ok = cutCFWS(p[1:]); !ok {
		return 0, nil, false
	}
	if instance, p, ok = cutInstance(p); !ok || len(p) == 0 || p[0] != ';' {
		return 0, nil, false
	}
	return instance, bytes.Trim(p[1:], " \t\r\n"), true
}

// cutInstance takes an instance and the comments behind it off the front of p.
func cutInstance(p []byte) (instance int, rest []byte, ok bool) {
	n := 0
	for n < len(p) && '0' <= p[n] && p[n] <= '9' {
		n++
	}
	number, ok := parseNumber(string(p[:n]), 2)
	if !ok || number < 1 || number > MaxSets {
		return 0, nil, false
	}
	rest, ok = cutCFWS(p[n:])
	return int(number), rest, ok
}

// cutCFWS takes white space, folds and comments off the front of p, and reports
// whether every comment ends.
func cutCFWS(p []byte) (rest []byte, ok bool) {
	depth := 0
	for i := 0; i < len(p); i++ {
		switch c := p[i]; {
		case c == '(':
			depth++
		case depth > 0 && c == ')':
			depth--
		case depth > 0 && c == '\\':
			i++
		case depth == 0 && !isWSP(c) && c != '\r' && c != '\n':
			return p[i:], true
		}
	}
	return nil, depth == 0
}

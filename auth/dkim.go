package auth

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"slipstream/auth/arc"
)

// Limits of one message. Together with those of package arc they bound what a stranger can make us do: at most 10
// look-ups, 10 public-key operations and 10 hashes over the body.
const (
	// maxSignatures is the number of signatures that are verified, from the top. Mail that went through several lists
	// has four or five. https://www.rfc-editor.org/rfc/rfc6376#section-6.1 leaves the bound to us.
	maxSignatures = 10
	// maxKeyWait bounds the look-up of a key where the caller sets no deadline.
	maxKeyWait = 15 * time.Second
	// minShownB and maxShownB are how much of b= is shown, enough to tell the signatures of a message apart:
	// https://www.rfc-editor.org/rfc/rfc6008#section-4
	minShownB, maxShownB = 8, 32
)

// DKIMResult says what one signature is worth. Whatever is in it may stand in a header field: the names are domain
// names, and what breaks their grammar is left out.
type DKIMResult struct {
	// Value is one of pass, fail, policy, neutral, temperror and permerror,
	// https://www.rfc-editor.org/rfc/rfc8601#section-2.7.1
	//
	// fail: the text is not what was signed. policy: we do not trust such a signature, whatever it proves. neutral: the
	// signature has no meaning. permerror: it can never be verified; temperror: not now.
	Value  string
	Reason string // in words of ours; empty for pass

	Domain    string // d=: lower case, A-labels
	Identity  string // i=, or what it defaults to: "@" or "local@" and a domain like Domain, which that ends in
	Selector  string // s=: lower case, A-labels
	Algorithm string // a=: "rsa-sha256"
	B         string // the beginning of b=, which no other signature of this message shares
	Testing   bool   // the key says t=y: the domain is only trying
}

// DKIMVerifier verifies the DKIM signatures of one message while it arrives. Make one with [NewDKIM] once the header
// is there, write the body, and end it with Close or Abort, whatever happens: it owns goroutines. It is for one
// goroutine.
type DKIMVerifier struct {
	signatures []*dkimSignature
	beyond     int // signatures that are not looked at
	headers    []arc.Header
	keys       map[string]*dkimKey // by the name that the library asks for

	body    *bodyQueue
	cancel  context.CancelFunc
	done    chan struct{} // closed once every verdict is there; nil: they were from the start
	results []DKIMResult
}

// dkimKey is one look-up. Its fields are there once done is closed.
type dkimKey struct {
	done    chan struct{}
	records []string
	err     error
}

// NewDKIM looks at the signatures among headers and asks for their keys at once; ctx ends the look-ups, which is a
// temperror, and Close does. now is the time that signatures expire by. headers is the whole header as it came, and
// must not change.
func NewDKIM(ctx context.Context, headers []arc.Header, r Resolver, now time.Time) *DKIMVerifier {
	v := newDKIM(headers, now)
	v.start(ctx, r)
	return v
}

// newDKIM decides what can be decided without a key.
func newDKIM(headers []arc.Header, now time.Time) *DKIMVerifier {
	v := &DKIMVerifier{headers: headers, keys: make(map[string]*dkimKey)}
	froms, sound := 0, true
	for _, h := range headers {
		if strings.EqualFold(h.Name, "from") {
			froms++
		}
		sound = sound && h.Name != ""
	}
	for i, h := range headers {
		if !strings.EqualFold(h.Name, dkimField) {
			continue
		}
		if len(v.signatures) == maxSignatures {
			v.beyond++
			continue
		}
		s := readDKIM(h, now)
		if s.at = i; !sound {
			// Where we see a strange field, another reader sees the body begin.
			s.decide("policy", "the header is malformed")
		}
		if s.open() && froms > 1 && froms > s.froms() {
			// Somebody reads the one that is not signed, https://www.rfc-editor.org/rfc/rfc6376#section-8.15
			s.decide("policy", "more than one From, and one of them not signed")
		}
		v.signatures = append(v.signatures, s)
	}
	return v
}

// start sets to work on what is open: a goroutine for each key, and one that waits for these and reads the body.
func (v *DKIMVerifier) start(ctx context.Context, r Resolver) {
	if !slices.ContainsFunc(v.signatures, (*dkimSignature).open) {
		return
	}
	v.body, v.done = newBodyQueue(), make(chan struct{})
	ctx, v.cancel = context.WithTimeout(ctx, maxKeyWait)
	for _, s := range v.signatures {
		if s.open() {
			v.ask(ctx, r, s)
		}
	}
	go v.run(ctx)
}

// ask starts the look-up of a key, unless another signature uses the same.
func (v *DKIMVerifier) ask(ctx context.Context, r Resolver, s *dkimSignature) {
	if v.keys[s.asks] != nil {
		return
	}
	k := &dkimKey{done: make(chan struct{})}
	v.keys[s.asks] = k
	go func() {
		defer close(k.done)
		k.records, k.err = r.LookupTXT(ctx, s.result.Selector+"._domainkey."+s.result.Domain)
	}()
}

// Write takes the next part of the body as it came, with CRLF at the end of lines, and copies it. It never fails. It
// waits where 128 KiB are there that were not hashed yet: because the keys are still being looked up, or because the
// machine is busy.
func (v *DKIMVerifier) Write(p []byte) (int, error) {
	if v.body != nil {
		v.body.write(p)
	}
	return len(p), nil
}

// Close ends the body and returns a result for each of the first 10 signatures, from the top, and one more that speaks
// for all others if there are any. Nil: the message is not signed. Look-ups that are under way are waited for until
// ctx ends; their signatures are temperror then. No goroutine is left.
func (v *DKIMVerifier) Close(ctx context.Context) []DKIMResult {
	if v.results != nil || len(v.signatures) == 0 {
		return v.results
	}
	if v.done != nil {
		v.body.end()
		select {
		case <-v.done:
		case <-ctx.Done():
		}
		v.cancel()
		<-v.done
	}
	for _, s := range v.signatures {
		v.results = append(v.results, s.result)
	}
	v.showB()
	if v.beyond > 0 {
		v.results = append(v.results, DKIMResult{
			Value: "policy", Reason: fmt.Sprintf("%d more signatures, which were not looked at", v.beyond),
		})
	}
	return v.results
}

// Abort gives the message up: there is no verdict. No goroutine is left.
func (v *DKIMVerifier) Abort() {
	if v.done != nil {
		v.cancel()
		v.body.drop()
		<-v.done
	}
}

// showB shortens each b= as far as no other begins in the same way.
func (v *DKIMVerifier) showB() {
	for i := range v.signatures {
		n := minShownB
		for j := range v.signatures {
			if j != i {
				n = max(n, 1+commonPrefix(v.signatures[i].b, v.signatures[j].b))
			}
		}
		b := v.signatures[i].b
		v.results[i].B = b[:min(n, len(b), maxShownB)]
	}
}

func commonPrefix(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// run waits for the keys and verifies. It is the one that reads the body.
func (v *DKIMVerifier) run(ctx context.Context) {
	defer close(v.done)
	defer v.body.drop() // what nobody reads is not kept
	for _, k := range v.keys {
		<-k.done
	}
	var own, library []*dkimSignature
	for _, s := range v.signatures {
		if !s.open() {
			continue
		}
		s.useKey(ctx, v.keys[s.asks])
		switch {
		case !s.open():
		case s.own || len(s.parsed.Headers)*len(v.headers) > maxPicks:
			own = append(own, s)
		default:
			library = append(library, s)
		}
	}
	if len(own) == 0 && len(library) == 0 {
		return
	}
	hashes := newOwnHashes(own)
	if len(library) > 0 {
		verifyByLibrary(v.headers, library, v.body, hashes)
	}
	for chunk := v.body.next(); chunk != nil; chunk = v.body.next() {
		hashes.write(chunk)
	}
	if len(own) > 0 && !v.body.dropped() {
		fields := arc.NewFields(v.headers)
		for _, s := range own {
			s.verifyOwn(fields, hashes)
		}
	}
}

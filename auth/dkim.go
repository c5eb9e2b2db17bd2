package auth

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"slipstream/auth/arc"
)

// Limits of one message. Together with those of package arc they bound what a stranger can make us do: at most 10
// look-ups, 10 public-key operations and 10 hashes over the body.
const (
	// maxSignatures is the number of signatures that are verified, from the top. Mail that went through several lists
	// has four or five. https://www.rfc-editor.org/rfc/rfc6376#section-6.1 leaves the bound to us.
	maxSignatures = 10
	// maxLibrary is the number of signatures that the library verifies at the same time. It takes some 40 KiB for each
	// while the body arrives, and hashes it for each; what a message has more than honest ones do is left to our own
	// arithmetic, which takes less.
	maxLibrary = 2
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
	results    []DKIMResult

	ctx     context.Context // of the look-ups
	cancel  context.CancelFunc
	keys    map[string]*dkimKey // by the name that the library asks for
	looking bool                // something is looked up, and ctx is ours
	asking  sync.WaitGroup

	// The signatures that need their keys, by who verifies them.
	library  []*dkimSignature
	body     *bodyQueue    // for the library; nil: it has nothing to do
	gathered int           // how much was written to it
	done     chan struct{} // closed once it is done; nil: it was not begun
	own      []*dkimSignature
	message  ownMessage
}

// maxGathered is how much of a body is there before the library begins to read it. Most mail is shorter: it is verified
// where it ends, which takes 0.2 ms then, and is less work than to hand it to another goroutine bit by bit.
const maxGathered = 32 << 10

// dkimKey is one look-up. Its answer is there once done is closed.
type dkimKey struct {
	name    string
	done    chan struct{} // nil: the answer was known
	records []string
	err     error
	late    bool // the look-up was cut short
}

func (k *dkimKey) look(ctx context.Context, r Resolver) {
	defer close(k.done)
	k.records, k.err = r.LookupTXT(ctx, k.name)
	k.late = k.err != nil && ctx.Err() != nil
}

func (k *dkimKey) wait() {
	if k.done != nil {
		<-k.done
	}
}

// NewDKIM looks at the signatures among headers and asks for their keys at once; ctx ends the look-ups, which is a
// temperror, and Close does. now is the time that signatures expire by. headers is the whole header as it came, and
// must not change.
func NewDKIM(ctx context.Context, headers []arc.Header, r Resolver, now time.Time) *DKIMVerifier {
	return NewDKIMBeside(ctx, nil, headers, r, now)
}

// NewDKIMBeside is NewDKIM for a message whose ARC chain is verified too: what is hashed for chain, which was made from
// the same headers, is not hashed again. The same goroutine uses both. chain must have got the whole body when Close is
// called; whether it was closed itself does not matter.
func NewDKIMBeside(ctx context.Context, chain *arc.Verifier, headers []arc.Header, r Resolver,
	now time.Time) *DKIMVerifier {
	v := newDKIM(headers, now)
	v.start(ctx, chain, r)
	return v
}

// newDKIM decides what can be decided without a key.
func newDKIM(headers []arc.Header, now time.Time) *DKIMVerifier {
	v := &DKIMVerifier{headers: headers}
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

// start has every key asked for.
func (v *DKIMVerifier) start(ctx context.Context, chain *arc.Verifier, r Resolver) {
	v.message = ownMessage{headers: v.headers, chain: chain}
	for _, s := range v.signatures {
		switch {
		case !s.open():
		case s.own || len(v.library) == maxLibrary || len(s.parsed.Headers)*len(v.headers) > maxPicks ||
			v.message.hashed(s.parsed.Body):
			v.own = append(v.own, s)
			v.message.hash(s.parsed.Body)
		default:
			v.library = append(v.library, s)
		}
	}
	if len(v.own)+len(v.library) == 0 {
		return
	}
	if len(v.library) > 0 {
		v.body = newBodyQueue()
	}
	v.ctx, v.cancel = ctx, func() {}
	v.keys = make(map[string]*dkimKey, len(v.signatures))
	remembered := recallFrom(r)
	for _, s := range v.signatures {
		if s.open() && v.keys[s.asks] == nil {
			v.keys[s.asks] = v.ask(s.result.Selector+"._domainkey."+s.result.Domain, remembered, r)
		}
	}
}

// ask starts the look-up of a key, unless the answer is remembered.
func (v *DKIMVerifier) ask(name string, remembered *recall, r Resolver) *dkimKey {
	k := &dkimKey{name: name}
	if remembered != nil {
		if k.records, k.err = remembered.LookupTXT(v.ctx, name); !dnsTemporary(k.err) {
			return k
		}
	}
	if !v.looking {
		v.looking = true
		v.ctx, v.cancel = context.WithTimeout(v.ctx, maxKeyWait)
	}
	k.done = make(chan struct{})
	lookups := v.ctx
	v.asking.Go(func() { k.look(lookups, r) })
	return k
}

// Write takes the next part of the body as it came, with CRLF at the end of lines, and copies it. It never fails. It
// waits where 32 KiB are there that were not hashed yet: because the keys are still being looked up, or because the
// machine is busy.
func (v *DKIMVerifier) Write(p []byte) (int, error) {
	v.message.write(p)
	if v.body == nil {
		return len(p), nil
	}
	if v.gathered += len(p); v.gathered > maxGathered && v.done == nil {
		v.done = make(chan struct{})
		go v.run()
	}
	v.body.write(p)
	return len(p), nil
}

// Close ends the body and returns a result for each of the first 10 signatures, from the top, and one more that speaks
// for all others if there are any. Nil: the message is not signed. Look-ups that are under way are waited for until
// ctx ends; their signatures are temperror then. No goroutine is left.
func (v *DKIMVerifier) Close(ctx context.Context) []DKIMResult {
	if v.results != nil || len(v.signatures) == 0 {
		return v.results
	}
	if v.cancel != nil {
		v.judge(ctx)
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

// judge verifies what was not verified beside this.
func (v *DKIMVerifier) judge(ctx context.Context) {
	if v.looking {
		defer context.AfterFunc(ctx, v.cancel)()
	}
	if v.body != nil {
		v.body.end()
	}
	for _, s := range v.withKeys(v.own) {
		s.verifyOwn(&v.message)
	}
	if v.done != nil {
		<-v.done
	} else if list := v.withKeys(v.library); len(list) > 0 {
		text, together := v.body.next(), 1 // all of it; with one signature at a time, the library starts nothing
		if headerSize(v.headers) > maxGathered {
			together = len(list) // it need not read such a header more than once
		}
		for some := range slices.Chunk(list, together) {
			verifyByLibrary(v.headers, some, &bodyText{text: text})
		}
	}
	v.cancel()
	v.asking.Wait()
}

func headerSize(headers []arc.Header) int {
	n := 0
	for _, h := range headers {
		n += len(h.Raw)
	}
	return n
}

// withKeys waits for the keys of signatures and returns those that can be verified.
func (v *DKIMVerifier) withKeys(signatures []*dkimSignature) []*dkimSignature {
	list := make([]*dkimSignature, 0, len(signatures))
	for _, s := range signatures {
		k := v.keys[s.asks]
		k.wait()
		if s.useKey(v.ctx, k); s.open() {
			list = append(list, s)
		}
	}
	return list
}

// Abort gives the message up: there is no verdict. No goroutine is left.
func (v *DKIMVerifier) Abort() {
	if v.cancel == nil {
		return
	}
	v.cancel()
	if v.body != nil {
		v.body.drop()
	}
	if v.done != nil {
		<-v.done
	}
	v.asking.Wait()
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

// run has the library verify while the body arrives.
func (v *DKIMVerifier) run() {
	defer close(v.done)
	defer v.body.drop() // what nobody reads is not kept
	if list := v.withKeys(v.library); len(list) > 0 {
		verifyByLibrary(v.headers, list, v.body)
	}
}

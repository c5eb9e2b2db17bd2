package arc

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"sync"
	"sync/atomic"
	"time"
)

// KeyLookup returns the TXT records at selector._domainkey.domain, the strings
// of each joined. Both names are in lower case, in A-labels and fit DNS
// together. It must return soon after ctx is done, and may be called by several
// goroutines. A missing name may be an error or nothing at all.
type KeyLookup func(ctx context.Context, selector, domain string) ([]string, error)

// Result is what a chain is worth.
type Result struct {
	// Value is None, Pass or Fail. Fail means no more than None
	// (https://www.rfc-editor.org/rfc/rfc8617#section-5.2).
	Value string

	// Reason tells why it is Fail, in plain words of ours: nothing that the
	// message says is repeated.
	Reason string

	// Instance is the highest instance that was found, zero without any.
	Instance int

	// OldestPass is header.oldest-pass of Pass: the oldest instance whose
	// message signature still verifies, or zero if all do.
	OldestPass int

	// Unsure says that it is Fail for want of a key that could not be looked up
	// just now: at another time it might be Pass. ARC does not know the
	// difference (https://www.rfc-editor.org/rfc/rfc8617#section-5.2.1); who goes
	// by more than the chain may.
	Unsure bool

	// Sets are the sets of a chain of sound structure, instance 1 first.
	// They say nothing that may be believed unless Value is Pass.
	Sets []SetInfo
}

// SetInfo is what one set says.
type SetInfo struct {
	Instance         int
	Domain, Selector string // of the ARC-Seal, in lower case and A-labels
	CV               string // of the ARC-Seal
	Results          []byte // the Authentication-Results, folded as they came; shares the memory of the header
	Message          string // the ARC-Message-Signature: Pass, Fail, or empty if it was not looked at
	MessageDomain    string // its d=
}

// Keys are where a Verifier gets keys from. Lookup must be set.
type Keys struct {
	Lookup KeyLookup

	// Known tells without waiting what Lookup would return, if it knows: it is
	// asked first, and where it does, nothing has to be started and waited for.
	// It may be nil.
	Known func(ctx context.Context, selector, domain string) (records []string, known bool, err error)
}

// recall returns the answer that is known for a name, or a new one to be filled in.
func (k Keys) recall(ctx context.Context, name keyName) *keyAnswer {
	if k.Known != nil {
		if records, known, err := k.Known(ctx, name.selector, name.domain); known {
			return &keyAnswer{records: records, err: err}
		}
	}
	return &keyAnswer{ready: make(chan struct{})}
}

// keyAnswer is what DNS said. ready is closed when it has, or nil if it had.
type keyAnswer struct {
	records []string
	err     error
	ready   chan struct{}

	chosen map[string]*Key // by algorithm: those that were read already
}

// Verifier verifies one chain. Its methods must not be called by two goroutines
// at once. Close must be called, whatever happens.
type Verifier struct {
	fields  *Fields
	chain   *chain
	now     time.Time
	bodies  [2]*BodyHash // by Canon; nil where no signature wants it
	answers map[keyName]*keyAnswer
	cancel  context.CancelFunc // nil once closed, or if nothing was asked
	askers  sync.WaitGroup
	result  Result
	decided bool
}

// NewVerifier begins to verify the chain of a header and asks for its keys,
// newest first. Nothing is asked if there is no chain or if it is broken
// already. The questions end with ctx or with Close. now is the time for x=.
func NewVerifier(ctx context.Context, headers []Header, lookup KeyLookup, now time.Time) *Verifier {
	return NewVerifierFrom(ctx, headers, Keys{Lookup: lookup}, now)
}

// NewVerifierFrom is NewVerifier for keys some of which may be at hand.
func NewVerifierFrom(ctx context.Context, headers []Header, keys Keys, now time.Time) *Verifier {
	c := collect(headers)
	v := &Verifier{chain: c, now: now}
	v.result.Instance = c.top
	switch {
	case c.fields == 0:
		v.decide(None, nil)
		return v
	case c.err != nil:
		v.decide(Fail, c.err)
		return v
	}
	v.fields = NewFields(headers)
	v.result.Sets = make([]SetInfo, len(c.sets))
	var names []keyName
	v.answers = make(map[keyName]*keyAnswer, 2*len(c.sets))
	want := func(name keyName) keyName {
		if v.answers[name] == nil && len(v.answers) < MaxLookups {
			a := keys.recall(ctx, name)
			if v.answers[name] = a; a.ready != nil {
				names = append(names, name)
			}
		}
		return name
	}
	for i := len(c.sets) - 1; i >= 0; i-- {
		s := &c.sets[i]
		for _, reading := range s.readings() {
			v.bodies[reading.Body] = NewBodyHash(reading.Body)
		}
		message, seal := want(s.ams.key), want(s.as.key)
		v.result.Sets[i] = SetInfo{
			Instance: i + 1, Domain: seal.domain, Selector: seal.selector, CV: s.cv,
			Results: s.payload, MessageDomain: message.domain,
		}
	}
	v.ask(ctx, names, keys.Lookup)
	return v
}

// ask looks names up, MaxParallel at a time.
func (v *Verifier) ask(ctx context.Context, names []keyName, lookup KeyLookup) {
	if len(names) == 0 {
		return
	}
	ctx, v.cancel = context.WithCancel(ctx)
	var next atomic.Int64
	for range min(len(names), MaxParallel) {
		v.askers.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(names)); i = next.Add(1) - 1 {
				a := v.answers[names[i]]
				if a.err = ctx.Err(); a.err == nil {
					a.records, a.err = lookup(ctx, names[i].selector, names[i].domain)
				}
				close(a.ready)
			}
		})
	}
}

// NeedsBody reports whether the body can still change the result.
func (v *Verifier) NeedsBody() bool { return !v.decided }

// Write takes the next part of the body, as it came, with CRLF at the end of
// lines. It never fails.
func (v *Verifier) Write(p []byte) (int, error) {
	if !v.decided {
		for _, b := range v.bodies {
			if b != nil {
				b.Write(p)
			}
		}
	}
	return len(p), nil
}

// BodyHash returns the hash of the body in a form that the chain has use for, or
// nil. Other signatures of the message may share it; once the whole body was
// written they may end it, whether or not Close was called.
func (v *Verifier) BodyHash(c Canon) *BodyHash { return v.bodies[c] }

// Fields returns the header laid out, or nil if nothing of it is to be verified.
func (v *Verifier) Fields() *Fields { return v.fields }

// Close ends the body, waits for the keys, at most until ctx is done, and
// returns the result. No look-up is left behind. To give a message up, close
// with a context that is done.
func (v *Verifier) Close(ctx context.Context) Result {
	if !v.decided {
		if err := v.judge(ctx); err != nil {
			v.decide(Fail, err)
		} else {
			v.decide(Pass, nil)
		}
	}
	if v.cancel != nil {
		v.cancel()
		v.cancel = nil
		v.askers.Wait()
	}
	return v.result
}

func (v *Verifier) decide(value string, err error) {
	v.decided = true
	v.result.Value = value
	if value != Pass {
		v.result.OldestPass = 0
	}
	if err != nil {
		v.result.Reason = err.Error()
		v.result.Unsure = errors.Is(err, errLate) || errors.Is(err, errNotNow)
	}
}

// judge does steps 4 to 6 of https://www.rfc-editor.org/rfc/rfc8617#section-5.2.
// The optional step 5 comes last here, when the rest has passed.
func (v *Verifier) judge(ctx context.Context) error {
	top := len(v.chain.sets)
	var unsure error
	if err := v.checkMessage(ctx, top); err != nil {
		err = fmt.Errorf("message signature %d: %w", top, err)
		if !errors.Is(err, errLate) && !errors.Is(err, errNotNow) {
			return err
		}
		unsure = err
	}
	digests := v.sealDigests()
	for i := top; i >= 1; i-- {
		s := v.chain.sets[i-1].as
		k, err := v.key(ctx, s)
		if err == nil {
			err = s.verify(digests[i-1], k)
		}
		if err != nil {
			err = fmt.Errorf("seal %d: %w", i, err)
			if !errors.Is(err, errLate) && !errors.Is(err, errNotNow) {
				return err
			}
			unsure = cmp.Or(unsure, err)
		}
	}
	if unsure != nil {
		return unsure
	}
	for i := top - 1; i >= 1; i-- {
		if v.checkMessage(ctx, i) != nil {
			v.result.OldestPass = i + 1
			break
		}
	}
	return nil
}

// checkMessage verifies the message signature of an instance.
func (v *Verifier) checkMessage(ctx context.Context, instance int) error {
	info := &v.result.Sets[instance-1]
	info.Message = Fail
	var err error
	for _, s := range v.chain.sets[instance-1].readings() {
		if err = v.checkReading(ctx, s); err == nil {
			info.Message = Pass
			break
		}
	}
	return err
}

// checkReading verifies a message signature.
func (v *Verifier) checkReading(ctx context.Context, s *Signature) error {
	if err := s.CheckTime(v.now); err != nil {
		return err
	}
	if err := s.CheckBody(v.bodies[s.Body]); err != nil {
		return err
	}
	k, err := v.key(ctx, s)
	if err != nil {
		return err
	}
	return s.Verify(v.fields, k)
}

var (
	errLate   = errors.New("no time left")
	errLookup = errors.New("the key cannot be looked up")
	errNotNow = errors.New("the key cannot be looked up now")
)

// key waits for the key of a signature.
func (v *Verifier) key(ctx context.Context, s *Signature) (*Key, error) {
	if ctx.Err() != nil {
		return nil, errLate
	}
	a := v.answers[s.key]
	if a == nil { // beyond MaxLookups
		return nil, errLookup
	}
	if a.ready != nil {
		select {
		case <-a.ready:
		case <-ctx.Done():
			return nil, errLate
		}
	}
	if a.err != nil {
		return nil, lookupError(a.err)
	}
	if k := a.chosen[s.Algorithm]; k != nil {
		return k, nil
	}
	k, err := ChooseKey(a.records, s.Algorithm)
	if err == nil {
		if a.chosen == nil {
			a.chosen = make(map[string]*Key, 1)
		}
		a.chosen[s.Algorithm] = k
	}
	return k, err
}

// lookupError tells keys that are not there from those that may be.
func lookupError(err error) error {
	var t interface{ Temporary() bool }
	if errors.As(err, &t) && t.Temporary() || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return errNotNow
	}
	return errLookup
}

// sealDigests returns what each seal signs: all sets up to its own, in order,
// its own seal with an empty b=
// (https://www.rfc-editor.org/rfc/rfc8617#section-5.1.1). The hash runs on from
// one seal to the next.
func (v *Verifier) sealDigests() [][]byte {
	digests := make([][]byte, len(v.chain.sets))
	running := sha256.New()
	for i := range v.chain.sets {
		s := &v.chain.sets[i]
		running.Write(v.fields.canonical(s.results, Relaxed))
		running.Write(v.fields.canonical(s.message, Relaxed))
		digests[i] = finish(running, s.as.unsigned(Relaxed))
		running.Write(v.fields.canonical(s.seal, Relaxed))
	}
	return digests
}

// finish returns the sum of a hash with a last text, and leaves the hash as it is.
func finish(running hash.Hash, last []byte) []byte {
	clone, err := running.(hash.Cloner).Clone()
	if err != nil {
		return nil // no signature fits it
	}
	clone.Write(last)
	return clone.Sum(nil)
}

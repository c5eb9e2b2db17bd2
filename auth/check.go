package auth

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"time"

	"slipstream/auth/arc"
)

// DefaultDeadline is how long all look-ups for one message may take where nothing else is said. A client waits ten
// minutes for the reply to its message (https://www.rfc-editor.org/rfc/rfc5321#section-4.5.3.2.6), but people wait too.
const DefaultDeadline = 5 * time.Second

// A Checker is one door's way of judging messages. ID and Resolver must be set. It is not changed by its methods and
// may be used by many messages at once.
//
// A message takes these steps, each as soon as what it needs is there:
//
//  1. [Checker.Begin], at MAIL: SPF and iprev
//  2. [Check.Header], when the header has arrived: keys of DKIM and ARC, policies of DMARC
//  3. [Check.Write], as the body arrives: it is hashed
//  4. [Check.Finish], at the end: signatures, alignment, verdict, and what is done about it
//  5. [Report.Fields]: what goes on top of the message
//
// Strangers choose what is asked for, so there is an end to it: one message causes at most 444 questions, or 664 where
// the client has an IPv6 address, if Resolver is a [FamilyResolver] and an [ExistenceResolver]. They are
//
//   - 250 or 470 for the envelope, two times SPF (each 1 record, 10 terms with 10 addresses each, for IPv6 of both
//     families, and 11 for the client's name) and 6 for iprev
//   - 10 for keys of DKIM, and 100 for those of a chain of ARC with 50 sets
//   - 80 for policies and alignment, 32 of them for the four author domains that there may be
//   - 4 for the existence of these
//
// Whatever is wrong with a message or with the DNS, there is a result. A step that is told to end by its context does
// so as soon as the Resolver returns.
type Checker struct {
	// ID is the authserv-id, one that [CheckID] takes: it stands in the field.
	ID string
	// Resolver answers.
	Resolver Resolver
	// DMARC judges; nil: by tree walk over Resolver, trusting no sealer.
	DMARC *DMARC
	// Enforcement says what is done about verdicts.
	Enforcement Enforcement
	// Deadline is how long the DNS may hold a message up, all in all; 0: DefaultDeadline.
	Deadline time.Duration
	// Sealer seals messages; nil: they are not sealed.
	Sealer *arc.Sealer
	// Now is the clock that signatures expire by; nil: time.Now.
	Now func() time.Time
	// Broke hears of a method that a programming error broke, ours or a library's, on a goroutine of its own: its result
	// is a temporary error, and nobody else notices. nil: the program ends.
	Broke func(err any)
}

// An Envelope is what is known of a message before it arrives.
type Envelope struct {
	// Client is the address that it comes from. Where it is not valid, SPF and iprev are not checked.
	Client netip.Addr
	// Helo is what the client called itself.
	Helo string
	// MailFrom is the mailbox of MAIL FROM, without its brackets; "" for the null path.
	MailFrom string
	// UTF8 says that the message travels with SMTPUTF8.
	UTF8 bool
}

// A Check is one message on its way to a [Report]. Its methods are called in order, by one goroutine, and it must be
// ended with Finish or Abort: it owns goroutines.
type Check struct {
	checker  *Checker
	envelope Envelope
	deadline time.Duration

	// What keys and the envelope are looked up by, and what policies are. They end at different times: see Finish.
	keys, policies clock

	running sync.WaitGroup // for these three
	iprev   IPRevResult
	spf     SPFResult
	helo    SPFResult

	headers []arc.Header
	fault   error         // why headers cannot be used
	held    time.Duration // what Write has taken
	author  Author
	dkim    *DKIMVerifier
	chain   *arc.Verifier
	dmarc   *Evaluation
	body    *arc.BodyHash // for the seal; nil: there will be none
}

// A clock is a context that a timer may end, too.
type clock struct {
	ctx    context.Context
	cancel context.CancelFunc
	timer  *time.Timer
}

func newClock(parent context.Context) clock {
	ctx, cancel := context.WithCancel(parent)
	return clock{ctx: ctx, cancel: cancel}
}

// expire ends the clock in d.
func (c *clock) expire(d time.Duration) { c.timer = time.AfterFunc(d, c.cancel) }

// stop ends the clock and reports whether its time was up before.
func (c *clock) stop() (late bool) {
	late = c.timer != nil && !c.timer.Stop()
	c.cancel()
	return late
}

// Begin starts what the envelope is enough for: SPF for MAIL FROM and for HELO, and iprev, all at once. The end of ctx
// ends all look-ups for the message.
func (c *Checker) Begin(ctx context.Context, e Envelope) *Check {
	k := &Check{checker: c, envelope: e, deadline: c.Deadline, keys: newClock(ctx), policies: newClock(ctx)}
	if k.deadline <= 0 {
		k.deadline = DefaultDeadline
	}
	if !e.Client.IsValid() {
		return k
	}
	ctx = k.keys.ctx
	k.iprev = IPRevResult{Value: ResultTemperror, IP: e.Client.Unmap().WithZone("")}
	k.run(func(r Resolver) func() {
		res := IPRev(ctx, r, e.Client)
		return func() { k.iprev = res }
	})
	k.spf = SPFResult{Value: ResultTemperror, Scope: ScopeHELO}
	if e.MailFrom != "" {
		k.spf.Scope = ScopeMailFrom
	}
	k.spf.Domain, _ = plainDomain(e.domain()) // else nothing could stand for the author
	k.run(func(r Resolver) func() {
		res := SPF(ctx, r, e.Client, e.Helo, e.MailFrom)
		return func() { k.spf = res }
	})
	if e.MailFrom != "" { // else that identity is this one
		k.helo = SPFResult{Value: ResultTemperror, Scope: ScopeHELO}
		k.run(func(r Resolver) func() {
			res := SPFHELO(ctx, r, e.Client, e.Helo)
			return func() { k.helo = res }
		})
	}
	return k
}

// run has f look something up, and then what f returns set the result. That is done at once if everything is remembered
// that f asks for, and else beside us. What was set before stands if f breaks.
func (k *Check) run(f func(Resolver) (set func())) {
	if r := recallFrom(k.checker.Resolver); r != nil {
		known := true
		k.guard(func() {
			set := f(r.resolver())
			if known = r.enough(); known {
				set()
			}
		})
		if known {
			return
		}
	}
	k.running.Go(func() {
		k.guard(func() { f(k.checker.Resolver)() })
	})
}

// guard runs f, and tells of it if f breaks.
func (k *Check) guard(f func()) {
	if broke := k.checker.Broke; broke != nil {
		defer func() {
			if err := recover(); err != nil {
				broke(err)
			}
		}()
	}
	f()
}

// faultyHeader is the author of a message whose header cannot be read at all.
const faultyHeader FromFault = "header too large"

// Header takes the whole header as it came, with or without the empty line behind it, and has everything asked for that
// is named in it. section must not change until the Check has ended.
func (k *Check) Header(section []byte) {
	k.keys.expire(k.deadline)
	k.headers, k.fault = arc.SplitHeader(section)
	if k.headers == nil && k.fault != nil {
		// Whoever reads on may find anything there.
		k.author = Author{Fault: faultyHeader}
		k.dmarc = k.checker.judge().Begin(k.policies.ctx, k.author)
		return
	}
	now := k.checker.now()
	k.author = ParseFrom(k.headers)
	k.chain = arc.NewVerifierFrom(k.keys.ctx, k.headers, arcKeys(k.checker.Resolver), now)
	k.dkim = NewDKIMBeside(k.keys.ctx, k.chain, k.headers, k.checker.Resolver, now)
	k.dmarc = k.checker.judge().Begin(k.policies.ctx, k.author, k.candidates()...)
	if k.checker.Sealer != nil {
		k.body = arc.NewBodyHash(arc.Relaxed)
	}
}

// domain is the one that SPF may authenticate.
func (e Envelope) domain() string {
	if from := e.MailFrom; from != "" {
		return from[strings.LastIndexByte(from, '@')+1:]
	}
	return e.Helo
}

// candidates are the domains that may turn out to be authenticated, or not to be known to be.
func (k *Check) candidates() []string {
	candidates := []string{k.envelope.domain()}
	for _, s := range k.dkim.signatures {
		candidates = append(candidates, s.result.Domain)
	}
	return candidates
}

// Write takes the next part of the body as it came. It never fails. It may wait for keys, which counts towards the
// deadline.
func (k *Check) Write(p []byte) (int, error) {
	if k.dkim == nil {
		return len(p), nil
	}
	start := time.Now()
	_, _ = k.chain.Write(p) // never fail
	_, _ = k.dkim.Write(p)
	if k.body != nil {
		_, _ = k.body.Write(p)
	}
	k.held += time.Since(start)
	return len(p), nil
}

// Finish judges. It waits for the DNS no longer than the deadline allows: keys had that long from when the header was
// there, and what policies may still need has what Write has not used up. When it returns nothing of the Check runs any
// more. A message without a header is one whose header is empty.
func (k *Check) Finish(ctx context.Context) *Report {
	if k.dmarc == nil {
		k.Header(nil)
	}
	k.policies.expire(k.deadline - k.held)
	defer context.AfterFunc(ctx, k.cancel)()
	r := &Report{
		Envelope: k.envelope, Author: k.author, MessageID: messageID(k.headers), checker: k.checker, body: k.body,
	}
	if k.dkim != nil {
		// No context of its own: keys that were not found by now are waited for as long as they are looked for.
		r.DKIM, r.ARC = k.dkim.Close(context.Background()), k.chain.Close(context.Background())
	} else {
		r.DKIM = []DKIMResult{{Value: ResultPolicy, Reason: string(faultyHeader)}}
	}
	k.running.Wait()
	late := k.keys.stop()
	r.IPRev, r.SPF, r.HELO = k.iprev, k.spf, k.helo
	r.Identifiers = identifiers(r)
	r.DMARC = k.dmarc.Evaluate(k.policies.ctx, r.Identifiers)
	r.Late = k.policies.stop() || late && r.unsure()
	enforce, origin := k.checker.Enforcement, Origin{Client: k.envelope.Client, Identifiers: r.Identifiers}
	r.Decision = enforce.Decide(r.DMARC, origin)
	enforce.Limit = PolicyReject
	r.Would = enforce.Decide(r.DMARC, origin)
	r.Results = r.results()
	return r
}

// Abort gives the message up. When it returns nothing of the Check runs any more. It may be called after Finish.
func (k *Check) Abort() {
	k.cancel()
	if k.dkim != nil {
		k.dkim.Abort()
		k.chain.Close(k.keys.ctx)
	}
	if k.dmarc != nil {
		k.dmarc.Close()
	}
	k.running.Wait()
}

func (k *Check) cancel() {
	k.keys.stop()
	k.policies.stop()
}

func (c *Checker) now() time.Time {
	if c.Now != nil {
		return c.Now()
	}
	return time.Now()
}

// judge is what verdicts come from.
func (c *Checker) judge() *DMARC {
	if c.DMARC != nil {
		return c.DMARC
	}
	return &DMARC{Resolver: c.Resolver}
}

// arcKeys is how package arc asks.
func arcKeys(r Resolver) arc.Keys {
	keys := arc.Keys{Lookup: func(ctx context.Context, selector, domain string) ([]string, error) {
		return r.LookupTXT(ctx, selector+"._domainkey."+domain)
	}}
	if remembered := recallFrom(r); remembered != nil {
		keys.Known = func(ctx context.Context, selector, domain string) ([]string, bool, error) {
			records, err := remembered.LookupTXT(ctx, selector+"._domainkey."+domain)
			return records, !dnsTemporary(err), err
		}
	}
	return keys
}

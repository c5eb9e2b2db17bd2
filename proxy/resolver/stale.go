package resolver

import (
	"context"
	"time"

	"github.com/miekg/dns"
)

// Times and bounds of what is asked in the background.
const (
	// DefaultStale is a good value for [Config.MaxStale]. RFC 8767 speaks of days, to outlast an outage; here the
	// aim is that nobody waits for a name that is asked now and then. Who moves a mail host leaves the old one
	// running for longer than an hour, and a sender that is put off comes back within the hour.
	DefaultStale = time.Hour

	// prefetchPart is the last part of an answer's time, one in so many, in which it is asked for again if
	// somebody wants it.
	prefetchPart = 10
	// retryRefresh is the least time between two questions in the background about the same.
	// https://www.rfc-editor.org/rfc/rfc8767#section-5
	retryRefresh = 30 * time.Second
	// maxRefreshes is the number of look-ups in the background at once. What would be more is left to the next
	// caller.
	maxRefreshes = 64
)

// freshness is how good an answer is that was remembered.
type freshness int

const (
	fresh freshness = iota
	due             // it holds, but not for long
	stale           // its time is over
)

func (v *cached) freshness(now time.Time) freshness {
	switch {
	case !now.Before(v.a.expires):
		return stale
	case v.a.status == found && now.After(v.a.expires.Add(-v.a.expires.Sub(v.since)/prefetchPart)):
		return due
	}
	return fresh
}

// mayBeStale tells which answers may be used when their time is over: where mail goes. Not those that something is
// judged by (TXT, TLSA, PTR), and no denials.
// https://www.rfc-editor.org/rfc/rfc8767#section-4
func mayBeStale(q question, a *answer) bool {
	switch q.qtype {
	case dns.TypeMX, dns.TypeA, dns.TypeAAAA:
		return a.status == found
	}
	return false
}

type freshKey struct{}

// Fresh returns a context under which no look-up gives an answer whose time is over ([Config.MaxStale]). It is for
// policies, and for trying again where a stale answer led nowhere.
func Fresh(ctx context.Context) context.Context { return context.WithValue(ctx, freshKey{}, true) }

func wantsFresh(ctx context.Context) bool {
	want, _ := ctx.Value(freshKey{}).(bool)
	return want
}

type knownKey struct{}

// Known returns a context under which look-ups ask nobody: what is not remembered is a temporary error, at once.
func (r *Resolver) Known(ctx context.Context) context.Context {
	return context.WithValue(ctx, knownKey{}, true)
}

func wantsKnown(ctx context.Context) bool {
	want, _ := ctx.Value(knownKey{}).(bool)
	return want
}

// refresh begins a look-up of q in the background, unless one is under way, was begun a moment ago, or too much is.
func (r *Resolver) refresh(q question, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.flights[q] != nil || r.refreshes >= maxRefreshes || r.closed || !r.cache.retry(q, now) {
		return
	}
	r.refreshes++
	_, fly := r.depart(r.base, q) // the one passenger is the cache, which never leaves
	r.background.Go(func() {
		fly()
		r.mu.Lock()
		defer r.mu.Unlock()
		r.refreshes--
	})
}

// retry tells whether q may be asked for again in the background, and takes note that it is.
func (c *cache) retry(q question, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[q]
	if !ok {
		return false
	}
	v := e.Value.(*cached)
	if now.Before(v.retry) {
		return false
	}
	v.retry = now.Add(retryRefresh)
	return true
}

// Close ends what goes on in the background, and waits for it. Look-ups go on, without any more of that.
func (r *Resolver) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.stop()
	r.background.Wait()
}

package resolver

import (
	"context"
	"net"
	"time"
)

// flight is one look-up under way, shared by everyone who asks the same question meanwhile.
type flight struct {
	done chan struct{} // closed when a and err are set
	a    *answer
	err  error

	cancel  context.CancelFunc
	waiting int // callers; guarded by Resolver.mu
}

// lookup answers q from the cache, or from a flight. The flight does not end with the caller who began it but when the last
// one has gone: nobody fails because somebody else hung up.
//
// An answer whose time is over, or nearly, is asked for again beside that.
func (r *Resolver) lookup(ctx context.Context, q question) (*answer, freshness, error) {
	now := time.Now()
	if isLocalhost(q.name) {
		return localhost(q, now), fresh, nil
	}
	if a, age := r.cache.look(q, now); a != nil && (age != stale || !wantsFresh(ctx)) {
		if age != fresh {
			r.refresh(q, now)
		}
		return a, age, nil
	}
	if ctx.Err() != nil {
		return nil, fresh, stopped(ctx, q)
	}
	if wantsKnown(ctx) {
		return nil, fresh, &net.DNSError{Err: "not remembered", Name: q.name, IsTemporary: true}
	}
	a, f := r.join(q)
	if a != nil {
		return a, fresh, nil
	}
	select {
	case <-f.done:
		return f.a, fresh, f.err
	case <-ctx.Done():
		r.leave(q, f)
		return nil, fresh, stopped(ctx, q)
	}
}

// join boards the flight for q and begins one if there is none. It looks into the cache once more, since a flight may have
// landed between the caller's look and now.
func (r *Resolver) join(q question) (*answer, *flight) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f, ok := r.flights[q]; ok {
		f.waiting++
		return nil, f
	}
	if a := r.cache.get(q, time.Now()); a != nil {
		return a, nil
	}
	f, fly := r.depart(context.Background(), q)
	go fly()
	return nil, f
}

// depart makes a flight for q, with one passenger, and gives what is to be run for it. It ends with ctx, or when the time for a
// whole look-up is over. r.mu is held.
func (r *Resolver) depart(ctx context.Context, q question) (f *flight, fly func()) {
	ctx, cancel := context.WithTimeout(ctx, r.total)
	f = &flight{done: make(chan struct{}), cancel: cancel, waiting: 1}
	r.flights[q] = f
	return f, func() { r.fly(ctx, q, f) }
}

// leave takes one caller off f, and ends it when that was the last.
func (r *Resolver) leave(q question, f *flight) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f.waiting--
	if f.waiting == 0 {
		f.cancel()
		r.land(q, f)
	}
}

// fly runs the look-up of f.
func (r *Resolver) fly(ctx context.Context, q question, f *flight) {
	defer f.cancel()
	f.a, f.err = r.resolve(ctx, q)
	r.mu.Lock()
	defer r.mu.Unlock()
	if f.err == nil {
		r.cache.put(q, f.a, time.Now())
	}
	r.land(q, f)
	close(f.done)
}

// land takes f out of the table, unless another flight for q has its place by now. r.mu is held.
func (r *Resolver) land(q question, f *flight) {
	if r.flights[q] == f {
		delete(r.flights, q)
	}
}

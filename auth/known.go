package auth

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
)

// A KnowingResolver is a Resolver that remembers answers. What it knows is taken at once, where to start something and
// to wait for it would cost more than all the rest.
type KnowingResolver interface {
	Resolver
	// Known gives a Resolver that asks nobody and answers at once: the same as this one if that would not ask either,
	// and else with an error that says IsTemporary. A failure that is remembered is such an error, too.
	Known() Resolver
}

// A recall is what a Resolver knows by itself. It notes whether that was enough; if not, what was made of its answers
// must be forgotten.
type recall struct {
	from   Resolver
	missed atomic.Bool
}

// recallFrom is nil where r does not remember.
func recallFrom(r Resolver) *recall {
	if k, ok := r.(KnowingResolver); ok {
		return &recall{from: k.Known()}
	}
	return nil
}

// resolver is r, with what else the Resolver can do that it stands for.
func (r *recall) resolver() Resolver {
	if family, ok := r.from.(FamilyResolver); ok {
		return familyRecall{r, family}
	}
	return r
}

// enough reports whether r knew everything.
func (r *recall) enough() bool { return !r.missed.Load() }

func (r *recall) heard(err error) error {
	if dnsTemporary(err) {
		r.missed.Store(true)
	}
	return err
}

func (r *recall) LookupTXT(ctx context.Context, name string) ([]string, error) {
	texts, err := r.from.LookupTXT(ctx, name)
	return texts, r.heard(err)
}

func (r *recall) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	list, err := r.from.LookupMX(ctx, name)
	return list, r.heard(err)
}

func (r *recall) LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error) {
	addrs, err := r.from.LookupIPAddr(ctx, host)
	return addrs, r.heard(err)
}

func (r *recall) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	names, err := r.from.LookupAddr(ctx, addr)
	return names, r.heard(err)
}

// Exists implements [ExistenceResolver], in whatever way r.from would be asked.
func (r *recall) Exists(ctx context.Context, name string) (bool, error) {
	there, err := exists(ctx, r.from, name)
	return there, r.heard(err)
}

// familyRecall is the recall of a FamilyResolver.
type familyRecall struct {
	*recall
	family FamilyResolver
}

func (r familyRecall) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	addrs, err := r.family.LookupNetIP(ctx, network, host)
	return addrs, r.heard(err)
}

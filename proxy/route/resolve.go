package route

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"
)

// straggle is how long the addresses of the other exchangers are waited for once the best one's are known: a name server
// that does not answer for the last backup must not hold up mail that the best exchanger would take now.
const straggle = time.Second

var errStraggler = errors.New("no answer in time")

// resolve looks up the addresses of every exchanger that is not known yet, all at once.
func (m *MX) resolve(ctx context.Context, list []exchanger) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		i     int
		addrs []netip.Addr
		err   error
	}
	results := make(chan result, len(list)) // room for all: no look-up outlives its context
	waiting := 0
	for i, x := range list {
		if !x.known {
			waiting++
			list[i].err = errStraggler
			go func() {
				addrs, err := m.Resolver.Addrs(ctx, m.Family.network(), x.name)
				results <- result{i, addrs, err}
			}()
		}
	}
	var late <-chan time.Time
	for ; waiting > 0; waiting-- {
		if late == nil && bestKnown(list) {
			timer := time.NewTimer(straggle)
			defer timer.Stop()
			late = timer.C
		}
		select {
		case r := <-results:
			x := &list[r.i]
			x.addrs, x.refused = usable(r.addrs, m.Family, m.allow)
			x.err, x.known = r.err, true
		case <-late:
			return
		case <-ctx.Done():
			return
		}
	}
}

// bestKnown reports whether it is known which exchanger is the best one that has an address.
func bestKnown(list []exchanger) bool {
	for _, x := range list {
		if !x.known || len(x.addrs) > 0 {
			return x.known
		}
	}
	return false
}

// usable gives the addresses of the family that allow (nil: all) lets through, each once, IPv4-mapped ones as IPv4; and one of
// those that it did not let through, if there is any.
func usable(addrs []netip.Addr, f Family, allow func(netip.Addr) bool) (list []netip.Addr, refused netip.Addr) {
	for _, addr := range addrs {
		addr = addr.Unmap()
		switch {
		case !addr.IsValid(), !f.has(addr), slices.Contains(list, addr):
		case allow != nil && !allow(addr):
			refused = addr
		default:
			list = append(list, addr)
		}
	}
	return list, refused
}

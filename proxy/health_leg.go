package proxy

import (
	"context"
	"errors"
)

// reach is begin, unless the destination is let alone for now.
func (l *leg) reach(ctx context.Context, e envelope) error {
	d := l.tx.s.door
	c := l.tx.claimFor(e.late)
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	ctx = withAsking(ctx, asking{c, giveUp, d.static})
	if d.health == nil {
		return l.claimed(ctx, e, c)
	}
	at := destination{d.name, l.route.Key}
	a, err := d.health.begin(at)
	if err != nil {
		l.tx.note(err)
		return err
	}
	defer a.over()
	err = l.claimed(ctx, e, c)
	var said *refusalError
	var paused *pausedError
	switch {
	case errors.As(err, &paused): // meanwhile others have found out
		if now := d.health.refused(at); now != nil {
			err = now
		}
	case l.begun || errors.As(err, &said):
		a.reached()
	case err != nil && !noFault(err):
		a.failed(err)
	}
	return err
}

// claimed is begin for a claim.
func (l *leg) claimed(ctx context.Context, e envelope, c *claim) error {
	err := l.begin(ctx, e)
	if l.begun && !e.late {
		l.holds(c)
	}
	return err
}

// refused is what mail for a destination hears now; nil: it is tried.
func (r *healthRule) refused(at destination) error {
	r.health.mu.Lock()
	defer r.health.mu.Unlock()
	if c := r.health.known[at]; c != nil && c.pause > 0 {
		r.health.metrics.destinations.refuse(at.door)
		return c.refusal()
	}
	return nil
}

package proxy

import (
	"context"
	"io"

	"slipstream/auth"
	"slipstream/smtpwire"
)

// spared tells whether a message would be judged, but that its sender has logged
// in.
func (t *transaction) spared() bool {
	return t.s.own.loggedIn() && t.exam == nil && t.s.door.auth.judges(t.s.client.addr.Addr())
}

// withoutForged leaves out of a message that is not judged the fields which claim
// to be ours. Whoever may send mail here may not speak for us.
// https://www.rfc-editor.org/rfc/rfc8601#section-5
func (t *transaction) withoutForged(ctx context.Context) error {
	n := t.msg.head.seen
	x := &examination{judge: t.s.door.auth, room: t.s.door.spools.headers}
	if n > freeHeader {
		ctx, cancel := context.WithTimeout(ctx, x.judge.checker.Deadline)
		defer cancel()
		cost := min(n*headerCost, x.room.maxEnded)
		if err := x.room.ended.Acquire(ctx, cost); err != nil {
			return &smtpwire.WriteError{Err: &spoolError{"look at the header", errNoHeaderRoom}}
		}
		x.from, x.taken = x.room.ended, cost
	}
	t.exam = x // it gives the memory back
	header := make([]byte, n)
	if _, err := io.ReadFull(t.msg.body.Reader(), header); err != nil {
		return &smtpwire.WriteError{Err: err} // the text itself is here
	}
	if kept, removed := auth.StripOwn(header, []string{x.judge.checker.ID}, false); removed > 0 {
		t.msg.header, t.msg.without = kept, n
	}
	return nil
}

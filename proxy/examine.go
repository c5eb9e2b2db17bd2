package proxy

import (
	"context"
	"errors"
	"io"
	"slices"

	"golang.org/x/sync/semaphore"

	"slipstream/auth"
)

// An examination is the judging of one text, from when somebody is to receive it to its end.
//
// The text goes through the spool as any does. Once its header is whole, that is read back and held until the text has
// ended: a header that never ends takes no memory. Where there is no room for it, it is looked at when the text has
// ended, which its sender cannot stretch any more. What is kept while the backend takes the text is the header alone.
type examination struct {
	judge *judge
	room  *headerRoom
	check *auth.Check

	header []byte
	from   *semaphore.Weighted // what memory was taken from
	taken  int64
	begun  bool // check has the header
	put    bool // off until the text has ended
}

// A headerRoom is the memory for headers that are looked at, apart from that for texts.
type headerRoom struct {
	held, ended       *semaphore.Weighted // of texts that are arriving, and of those that have ended
	maxHeld, maxEnded int64
}

// A header of freeHeader octets, which 99 of 100 fit into, is always had. Each octet of a longer one counts headerCost
// times: it is held here, and again in pieces by those who look at it.
const (
	freeHeader = 16 << 10
	headerCost = 4
)

// newHeaderRoom makes room for total octets twice: while texts arrive, and when they have ended; then also for one
// header that is as large as may be.
func newHeaderRoom(total, largest int64) *headerRoom {
	ended := max(total, largest*headerCost)
	return &headerRoom{
		held: semaphore.NewWeighted(total), ended: semaphore.NewWeighted(ended),
		maxHeld: total, maxEnded: ended,
	}
}

// read takes note of the next octets of m, which are in its spool already: body are those of them behind the header.
func (x *examination) read(m *message, body []byte) error {
	if !m.head.done || x.put {
		return nil
	}
	if !x.begun {
		n := m.head.seen
		if cost := n * headerCost; n > freeHeader {
			if cost > x.room.maxHeld || !x.room.held.TryAcquire(cost) {
				x.put = true
				return nil
			}
			x.from, x.taken = x.room.held, cost
		}
		if err := x.begin(m, n); err != nil {
			return err
		}
	}
	if len(body) > 0 {
		_, _ = x.check.Write(body) // never fails
	}
	return nil
}

// begin reads the first n octets back and has them looked at.
func (x *examination) begin(m *message, n int64) error {
	x.begun = true
	x.header = make([]byte, n)
	if _, err := io.ReadFull(m.body.Reader(), x.header); err != nil {
		return err
	}
	x.check.Header(x.header)
	return nil
}

// catchUp looks at a text that has ended and whose header was put off, or has no end.
func (x *examination) catchUp(ctx context.Context, m *message) error {
	if x.begun {
		return nil
	}
	n := m.head.seen
	if n > freeHeader {
		cost := min(n*headerCost, x.room.maxEnded)
		ctx, cancel := context.WithTimeout(ctx, x.judge.checker.Deadline)
		defer cancel()
		if err := x.room.ended.Acquire(ctx, cost); err != nil {
			return &spoolError{"look at the header", errNoHeaderRoom}
		}
		x.from, x.taken = x.room.ended, cost
	}
	if err := x.begin(m, n); err != nil {
		return err
	}
	text := m.body.Reader()
	if _, err := io.CopyN(io.Discard, text, n); err != nil {
		return err
	}
	_, err := io.Copy(x.check, text)
	return err
}

// errNoHeaderRoom: many long headers are looked at just now.
var errNoHeaderRoom = errors.New("the memory for headers is used up")

// finish waits for the verdict on m, which is here to its end, and puts our fields above it: those of the verdict, and
// prefix below them. Fields that claim to be ours are left out. sealed is why a seal could not be made.
func (x *examination) finish(ctx context.Context, m *message, prefix []byte) (report *auth.Report, sealed, err error) {
	if err := x.catchUp(ctx, m); err != nil {
		return nil, nil, err
	}
	report = x.check.Finish(ctx)
	x.keep(int64(len(x.header))) // the pieces are gone
	kept, removed := auth.StripOwn(x.header, []string{report.Results.ID}, false)
	fields, sealed := report.Fields(kept)
	first := kept
	if len(first) == 0 {
		first = x.header // all that there was: what follows is the body
	}
	m.prefix = auth.OnTop(slices.Concat(fields, prefix), first)
	if removed > 0 {
		m.header, m.without = kept, int64(len(x.header))
	}
	return report, sealed, nil
}

// drop ends the examination, come to its end or not, and gives its memory back.
func (x *examination) drop() {
	if x.check != nil {
		x.check.Abort()
	}
	x.header = nil
	x.keep(0)
}

// keep gives the memory back but for so many octets.
func (x *examination) keep(octets int64) {
	if back := x.taken - octets; back > 0 {
		x.from.Release(back)
		x.taken = octets
	}
}

package proxy

import (
	"context"
	"errors"
	"slices"

	"slipstream/auth"
)

// An examination is the judging of one text, from MAIL to its end.
//
// The header is held in memory until then. It counts as a part of the memory for texts: a little of it is always had,
// and a header that there is no room for is put off like a text that cannot be spooled.
type examination struct {
	judge  *judge
	spools *spools
	check  *auth.Check

	header []byte
	taken  int64 // memory that was asked for
	begun  bool  // check has the header
}

// freeHeader is how long a header may be for which no memory is asked: 99 of 100 are shorter. headerCost is how much is
// asked for each octet of a longer one, which is held here, and again in pieces by those who look at it.
const (
	freeHeader = 16 << 10
	headerCost = 4
)

// errNoHeaderRoom: the memory for texts is used up.
var errNoHeaderRoom = errors.New("the memory for message texts is used up")

// read takes the next octets of the text: some of its header, or some behind it. whole says that the header ends there.
func (x *examination) read(header, body []byte, whole bool) error {
	if len(header) > 0 {
		if err := x.grow(len(header)); err != nil {
			return err
		}
		x.header = append(x.header, header...)
	}
	if whole && !x.begun {
		x.begin()
	}
	if len(body) > 0 {
		_, _ = x.check.Write(body) // never fails
	}
	return nil
}

// grow makes sure of the memory for n more octets.
func (x *examination) grow(n int) error {
	need := len(x.header) + n
	if need <= freeHeader || int64(need)*headerCost <= x.taken {
		return nil
	}
	more := max(int64(need)*headerCost, 2*x.taken) - x.taken
	if !x.spools.take(more) {
		return &spoolError{"hold the header in memory", errNoHeaderRoom}
	}
	x.taken += more
	return nil
}

func (x *examination) begin() {
	x.begun = true
	x.check.Header(x.header)
}

// finish waits for the verdict on m, which is here to its end, and puts our fields above it: those of the verdict, and
// prefix below them. Fields that claim to be ours are left out. The error is about a seal that could not be made.
func (x *examination) finish(ctx context.Context, m *message, prefix []byte) (*auth.Report, error) {
	if !x.begun {
		x.begin()
	}
	report := x.check.Finish(ctx)
	kept, removed := auth.StripOwn(x.header, []string{report.Results.ID}, false)
	fields, err := report.Fields(kept)
	first := kept
	if len(first) == 0 {
		first = x.header // all that there was: what follows is the body
	}
	m.prefix = auth.OnTop(slices.Concat(fields, prefix), first)
	if removed > 0 {
		m.header, m.without = kept, int64(len(x.header))
	}
	return report, err
}

// drop ends the examination, come to its end or not, and gives its memory back.
func (x *examination) drop() {
	x.check.Abort()
	x.spools.give(x.taken)
	x.taken, x.header = 0, nil
}

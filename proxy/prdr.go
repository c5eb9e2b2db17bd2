package proxy

import (
	"context"
	"fmt"
	"slices"

	"slipstream/smtpwire"
)

// Per-recipient data responses (draft-hall-prdr): a client of the SMTP door that
// asks for them with MAIL hears at the end of the text 353, a reply for each
// recipient that was answered 250, in their order, and a last one for all; or one
// reply, where that says as much. So it can be told late about several recipients.

// prdr tells whether SMTP clients may have a final reply for each recipient. It
// is for the sake of late verdicts.
func (d *door) prdr() bool {
	return !d.inbound && !d.lmtp && d.lateVerdict && d.split != splitSingle
}

// takePRDR keeps what the client asked of us, where it was offered, from the hops.
func (t *transaction) takePRDR() {
	_, t.prdr = t.mail.Params.Get("PRDR")
	t.mail.Params = t.mail.Params.Without("PRDR")
}

// finalEach tells whether the client takes a final reply for each recipient.
func (t *transaction) finalEach() bool { return t.prdr || t.s.door.lmtp }

// together returns those of the asked recipients that go where the first of the
// transaction goes, and tells the others to come again: at once, so that they can
// be sent in the same session. Nobody waits for names to be looked up: routes
// differ where domains do, unless the domains have more than one spelling.
func (t *transaction) together(ctx context.Context, b *batch, asked []int) []int {
	if t.s.door.static {
		return asked
	}
	first := b.cmds[asked[0]]
	if len(t.late) > 0 {
		first = t.late[0].cmd
	}
	domain := asciiLower(first.Path.Domain)
	look := &batch{s: t.s, mute: true, cmds: []smtpwire.Command{first}}
	all, slots := []int{0}, []int{-1}
	for _, i := range asked {
		other := asciiLower(b.cmds[i].Path.Domain)
		if other != domain && (hasUTF8(other) || hasUTF8(domain)) {
			look.cmds = append(look.cmds, b.cmds[i])
			all, slots = append(all, len(all)), append(slots, i)
		}
	}
	same := make(map[int]bool)
	if len(all) > 1 {
		look.slots = make([]smtpwire.Reply, len(all))
		routes := t.lookUp(ctx, look, all)
		for j, i := range slots {
			r, ok := routes[j]
			same[i] = ok && r.Key == routes[0].Key
		}
	}
	var stay []int
	for _, i := range asked {
		if same[i] || asciiLower(b.cmds[i].Path.Domain) == domain {
			stay = append(stay, i)
			continue
		}
		b.fill(i, t.oneDestination())
	}
	return stay
}

func hasUTF8(s string) bool {
	return slices.ContainsFunc([]byte(s), func(c byte) bool { return c >= 0x80 })
}

// maxFinals is how many octets of final replies are said in one write, about.
const maxFinals = 64 << 10

// conclude says the final replies, one of each accepted recipient, to an SMTP
// client, and returns the last word.
func (s *session) conclude(finals []smtpwire.Reply) smtpwire.Reply {
	if len(finals) == 0 {
		finals = append(finals, s.tx.failed(errBroke)) // never silence: the replies behind it would shift
	}
	last := finals[len(finals)-1]
	if s.tx.mustWait(finals) {
		last = s.tx.differing()
	} else if s.tx.finalEach() && slices.ContainsFunc(finals, func(r smtpwire.Reply) bool { return !sameReply(r, last) }) {
		s.say(smtpwire.NewReply(353, "", "not the same for all recipients: each has a reply"))
		for _, r := range finals {
			s.say(r)
			if len(s.out) > maxFinals {
				_ = s.flush() // errors are kept
			}
		}
		last = s.tx.overall()
	} else {
		last = s.tx.oneForAll(finals)
	}
	s.say(last)
	return last
}

// oneForAll is the final reply to a client that takes one for all recipients.
func (t *transaction) oneForAll(finals []smtpwire.Reply) smtpwire.Reply {
	last := finals[len(finals)-1]
	switch {
	case slices.ContainsFunc(finals, func(r smtpwire.Reply) bool { return r.Class() != last.Class() }):
		return t.differing()
	case last.Class() != 2 && slices.ContainsFunc(finals, func(r smtpwire.Reply) bool { return !sameReply(r, last) }):
		return t.overall()
	}
	return last
}

func sameReply(a, b smtpwire.Reply) bool { return a.Code == b.Code && slices.Equal(a.Lines, b.Lines) }

// maxOverall bounds how many refusals the last word repeats.
const maxOverall = 20

// overall is the last word about recipients that heard different things: what the
// hop said when it took the message, or a refusal that repeats theirs. A refusal
// may overrule what was said to each: Exim takes 5xx for all of them. So it is
// final only where each of them is.
func (t *transaction) overall() smtpwire.Reply {
	out := composed(554, "5.0.0", "no recipient was accepted")
	var lines []string
	var taken smtpwire.Reply
	for _, rc := range t.rcpts {
		switch {
		case !rc.accepted():
			continue
		case rc.final.Class() == 2:
			taken = rc.final
			continue
		case rc.final.Class() == 4:
			out = composed(451, "4.0.0", "no recipient was accepted")
		}
		if len(lines) < maxOverall {
			lines = append(lines, replyText(fmt.Sprintf("%s%s: %s", ourMark, rc.cmd.Path, brief(rc.final))))
		}
	}
	if taken.Code != 0 {
		return taken
	}
	out.Lines = append(lines, out.Lines...)
	return out.WithEnhanced()
}

package proxy

import (
	"math/rand/v2"
	"slices"

	"slipstream/smtpwire"
)

// The words of split.
const (
	splitFanout = "fanout"
	split452    = "452"
	splitSingle = "single"
)

// split checks what becomes of several destinations.
func (v *configCheck) split(path string, d *OutboundConfig) {
	if _, set := v.at[path+".split"]; set && d.Protocol == "lmtp" {
		v.wrong(path+".split", `has no use with protocol = "lmtp", which has a final reply for each recipient; allowed with: "smtp"`)
	}
}

// fansOut tells whether a transaction of an SMTP client may go to several
// destinations: where they differ, somebody must remember it.
func (d *door) fansOut(recipients int) bool {
	return d.split == splitFanout && d.once.Ready(recipients) == nil
}

// manyLegs tells whether this transaction may have more than one destination.
func (t *transaction) manyLegs() bool {
	d := t.s.door
	return d.lmtp || d.split == splitFanout && t.prdr || t.remembers()
}

// remembers tells whether outcomes that differ can be remembered, for one
// recipient more.
func (t *transaction) remembers() bool { return t.s.door.fansOut(len(t.rcpts) + 1) }

// limits is what the client is told about recipients that cannot share a
// transaction (https://www.rfc-editor.org/rfc/rfc9422#section-4); "" is nothing.
func (d *door) rcptLimits(fansOut bool) string {
	switch {
	case d.lmtp || fansOut && !d.inbound:
		return ""
	case d.split == splitSingle || d.hopLMTP:
		return "RCPTMAX=1"
	case !d.static:
		return "RCPTDOMAINMAX=1"
	}
	return ""
}

// A turn says who of a message's recipients may be in this transaction, where an
// earlier attempt had different outcomes.
type turn int

const (
	turnOpen    turn = iota // nothing is known of any of them
	turnRefused             // those that are refused for good, so that they can be told
	turnOthers              // those that are not
)

// keepApart tells recipients to come again that cannot hear the same final reply
// as the others: of a message that was refused for one of them for good and
// delivered, or put off, for others. Which kind goes first takes turns, so that
// neither waits for the other for ever. next is the command behind them.
func (t *transaction) keepApart(b *batch, asked []int, next smtpwire.Command) []int {
	m := t.s.door.once
	if t.turn == turnOpen && !m.Parts() || t.s.door.lmtp || t.prdr && t.manyLegs() {
		return asked
	}
	client, sender := t.s.client.addr.Addr(), t.mail.Path.Mailbox()
	refused := make(map[int]bool)
	some := false
	var parted []string
	for _, i := range asked {
		to := b.cmds[i].Path.Mailbox()
		refused[i] = m.Refused(client, sender, to)
		some = some || refused[i]
		if refused[i] || m.Awaits(client, sender, to) {
			parted = append(parted, to)
		}
	}
	if t.turn == turnOpen && len(parted) > 0 {
		t.turn = turnOthers
		taken := slices.ContainsFunc(t.rcpts, func(rc *recipient) bool { return rc.accepted() })
		if !taken && (some || !follows(next)) && m.Turn(client, sender, parted) {
			t.turn, t.alone = turnRefused, rand.IntN(aloneEvery) == 0
		}
	}
	if t.turn == turnOpen {
		return asked
	}
	var stay []int
	for _, i := range asked {
		if refused[i] == (t.turn == turnRefused) && (!refused[i] || t.sharesRefusal(b.cmds[i].Path.Mailbox())) {
			stay = append(stay, i)
			continue
		}
		// Not 452: what may follow is 5xx.
		b.fill(i, composed(451, "4.5.3", "the answer for this recipient is not that for the others: send this one again on its own"))
	}
	return stay
}

// aloneEvery is how often, one time in so many, one refused recipient comes alone
// though others were refused with it: that may have been another message, and of
// this one their outcomes may differ.
const aloneEvery = 4

// sharesRefusal tells whether a refused recipient can be in this transaction with
// those that are: where one message was refused for all of them.
func (t *transaction) sharesRefusal(to string) bool {
	with := append(slices.Clip(t.parted), to)
	if len(with) > 1 && (t.alone || !t.s.door.once.RefusedTogether(t.s.client.addr.Addr(), t.mail.Path.Mailbox(), with)) {
		return false
	}
	t.parted = with
	return true
}

// another tells a recipient to come in another transaction. 452 has Exim send one
// at once. But where a 452 stands behind a 250, Exim (4.96, without PRDR) takes a
// 5xx at the end of data for that recipient too, and returns its mail unsent. So
// 452 is said where such a 5xx can wait until its recipient comes alone, which
// somebody must remember.
func (t *transaction) another(why string) smtpwire.Reply {
	code := 451
	if t.s.door.inbound || t.s.door.lmtp || t.s.door.once.Ready(len(t.rcpts)+1) == nil {
		code = 452
	}
	return composed(code, "4.5.3", why)
}

// oneDestination is what a recipient hears that cannot share the transaction.
func (t *transaction) oneDestination() smtpwire.Reply {
	return t.another("one destination at a time, please: send this recipient again on its own")
}

// tooMany is what a recipient hears that would be one destination too many.
func (t *transaction) tooMany() smtpwire.Reply {
	return t.another("too many destinations in one transaction: send this recipient again")
}

// mustWait tells whether a refusal for good may not be said now, since the client
// may take it for recipients that heard 452.
func (t *transaction) mustWait(finals []smtpwire.Reply) bool {
	if !t.told452 || t.s.door.once.Ready(len(finals)) != nil {
		return false
	}
	known := true
	for _, rc := range t.rcpts {
		known = known && (rc.recalled || !rc.accepted()) // it has come alone
	}
	return !known && !slices.ContainsFunc(finals, func(r smtpwire.Reply) bool { return r.Class() != 5 })
}

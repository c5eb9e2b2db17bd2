package proxy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// What a [FanoutEvent] tells of.
const (
	FanoutTaken   = "taken"   // a hop has a copy for a recipient; written down before its 250
	FanoutTold    = "told"    // the 250 for a copy has left the hop
	FanoutRefused = "refused" // a hop has refused a recipient for good
	FanoutBegun   = "begun"   // the MTA begins a transaction
	FanoutHeard   = "heard"   // the MTA has heard what became of a recipient; written down before it takes the reply
	FanoutEnded   = "ended"   // the MTA has heard the final reply of a transaction, or gave it up
	FanoutDeath   = "death"   // we were killed
)

// A FanoutEvent is one line of a journal. Hops, MTA and test each keep one, in
// processes of their own; what they have in common is the clock.
type FanoutEvent struct {
	At    time.Time `json:"at"`
	Until time.Time `json:"until,omitzero"` // of a death: when nothing of us was left
	Kind  string    `json:"kind"`
	Mail  string    `json:"mail,omitempty"`
	Try   int       `json:"try,omitempty"` // number of the transaction, by the MTA's count
	Rcpt  string    `json:"rcpt,omitempty"`
	Copy  string    `json:"copy,omitempty"`
	Words string    `json:"words,omitempty"`
}

// How a second copy may come about that nobody could have avoided.
const (
	FanoutHopDied   = "the hop ended between its dot and its 250"
	FanoutWeDied    = "we were killed before the MTA had its answer"
	FanoutCrossed   = "the MTA came again while its earlier attempt was under way"
	FanoutForgotten = "the MTA left before it heard, and nobody remembered" // avoidable, but not without a memory
)

// FanoutHandedOver is the most from a hop's last word until we have dealt with it,
// on a machine that has much else to do.
const FanoutHandedOver = 700 * time.Millisecond

// A FanoutVerdict is what the journals say about all messages.
type FanoutVerdict struct {
	Mails, Recipients, Delivered, Refused, Tries, Copies int

	Doubled map[string]int // second copies, by how they came about
	Wrong   []string
}

// String is for the log.
func (v FanoutVerdict) String() string {
	doubled := 0
	var kinds []string
	for _, kind := range slices.Sorted(maps.Keys(v.Doubled)) {
		kinds = append(kinds, fmt.Sprintf("%d: %s", v.Doubled[kind], kind))
		doubled += v.Doubled[kind]
	}
	return fmt.Sprintf("%d messages, %d recipients: %d delivered, %d refused, in %d transactions; "+
		"%d copies, %d of them second ones (%s)",
		v.Mails, v.Recipients, v.Delivered, v.Refused, v.Tries, v.Copies, doubled, strings.Join(kinds, "; "))
}

// Add adds another verdict, but for what is wrong.
func (v *FanoutVerdict) Add(o FanoutVerdict) {
	v.Mails, v.Recipients, v.Delivered = v.Mails+o.Mails, v.Recipients+o.Recipients, v.Delivered+o.Delivered
	v.Refused, v.Tries, v.Copies = v.Refused+o.Refused, v.Tries+o.Tries, v.Copies+o.Copies
	if v.Doubled == nil {
		v.Doubled = map[string]int{}
	}
	for kind, n := range o.Doubled {
		v.Doubled[kind] += n
	}
}

// A fanoutTry is one transaction of the MTA.
type fanoutTry struct {
	begun, ended time.Time // ended is zero where it was lost
	last         time.Time // what the hops did for it
}

// A fanoutFate is what became of a message for a recipient.
type fanoutFate struct {
	copies  []FanoutEvent
	refused bool   // by its hop
	heard   string // the last word
	words   []FanoutEvent
}

// A fanoutCase is one message before the judge.
type fanoutCase struct {
	tries map[int]*fanoutTry
	fates map[string]*fanoutFate
}

func (c *fanoutCase) try(n int) *fanoutTry {
	if c.tries[n] == nil {
		c.tries[n] = &fanoutTry{}
	}
	return c.tries[n]
}

func (c *fanoutCase) fate(rcpt string) *fanoutFate {
	if c.fates[rcpt] == nil {
		c.fates[rcpt] = &fanoutFate{}
	}
	return c.fates[rcpt]
}

// JudgeFanouts holds what hops have against what the MTA heard: for each
// recipient one copy, or a refusal of its hop that the MTA heard. forgets: there
// is no memory, so that what it could have avoided is only counted.
func JudgeFanouts(mails map[string][]string, events []FanoutEvent, forgets bool) FanoutVerdict {
	v := FanoutVerdict{Mails: len(mails), Doubled: map[string]int{}}
	cases := map[string]*fanoutCase{}
	for mail := range mails {
		cases[mail] = &fanoutCase{tries: map[int]*fanoutTry{}, fates: map[string]*fanoutFate{}}
	}
	told := map[string]bool{}
	var deaths []FanoutEvent
	of := map[string]FanoutEvent{} // by copy
	for _, e := range events {
		if e.Kind == FanoutTaken {
			of[e.Copy] = e
		}
	}
	for _, e := range events {
		switch e.Kind {
		case FanoutDeath:
			deaths = append(deaths, e)
			continue
		case FanoutTold:
			told[e.Copy] = true
			e.Mail, e.Try = of[e.Copy].Mail, of[e.Copy].Try
		}
		c := cases[e.Mail]
		if c == nil {
			v.Wrong = append(v.Wrong, fmt.Sprintf("nobody sent what this is about: %+v", e))
			continue
		}
		if t := c.try(e.Try); e.Kind != FanoutBegun && e.Kind != FanoutHeard && e.Kind != FanoutEnded && e.At.After(t.last) {
			t.last = e.At
		}
		switch e.Kind {
		case FanoutTaken:
			c.fate(e.Rcpt).copies = append(c.fate(e.Rcpt).copies, e)
		case FanoutRefused:
			c.fate(e.Rcpt).refused = true
		case FanoutBegun:
			c.try(e.Try).begun = e.At
		case FanoutEnded:
			c.try(e.Try).ended = e.At
		case FanoutHeard:
			c.fate(e.Rcpt).words = append(c.fate(e.Rcpt).words, e)
			if e.Words[0] != '4' {
				c.fate(e.Rcpt).heard = e.Words
			}
			if e.Words[0] == '2' {
				c.try(e.Try).ended = e.At
			}
		}
	}
	for _, mail := range slices.Sorted(maps.Keys(mails)) {
		c := cases[mail]
		v.Tries += len(c.tries)
		for _, rcpt := range mails[mail] {
			v.Recipients++
			excuse := func(e FanoutEvent) string { return c.excuse(e, told[e.Copy], deaths, forgets) }
			if err := v.weigh(rcpt, c.fate(rcpt), excuse); err != nil {
				v.Wrong = append(v.Wrong, fmt.Sprintf("%s, %s: %v; %s", mail, rcpt, err, c.tell(rcpt)))
			}
			delete(c.fates, rcpt)
		}
		for rcpt := range c.fates {
			if rcpt != "" {
				v.Wrong = append(v.Wrong, fmt.Sprintf("%s was not for %s", mail, rcpt))
			}
		}
	}
	return v
}

// weigh judges one recipient. Every copy needs an excuse, but for one where the
// MTA heard that it is delivered.
func (v *FanoutVerdict) weigh(rcpt string, f *fanoutFate, excuse func(FanoutEvent) string) error {
	v.Copies += len(f.copies)
	var excuses []string
	for _, e := range f.copies {
		if why := excuse(e); why != "" {
			excuses = append(excuses, why)
		}
	}
	known := len(f.copies) - len(excuses)
	switch {
	case f.heard == "":
		return fmt.Errorf("nothing was settled, with %d copies", len(f.copies))
	case f.heard[0] == '2' && len(f.copies) == 0:
		return fmt.Errorf("LOST: the MTA heard %q", f.heard)
	case f.heard[0] == '2' && known > 1:
		return fmt.Errorf("DOUBLED: %d copies, %d of them known", len(f.copies), known)
	case f.heard[0] == '2':
		v.Delivered++
		excuses = excuses[:len(f.copies)-1]
	case !f.refused || !strings.Contains(f.heard, rcpt):
		return fmt.Errorf("the MTA heard %q, which its hop never said", f.heard)
	case known > 0:
		return fmt.Errorf("the MTA heard %q of a recipient that has the message", f.heard)
	default:
		v.Refused++
	}
	for _, why := range excuses {
		v.Doubled[why]++
	}
	return nil
}

// excuse tells why a copy could not be known when the next one was sent.
func (c *fanoutCase) excuse(e FanoutEvent, told bool, deaths []FanoutEvent, forgets bool) string {
	t := c.try(e.Try)
	if !told {
		return FanoutHopDied
	}
	if !t.ended.IsZero() {
		return ""
	}
	over := t.last.Add(FanoutHandedOver)
	for _, d := range deaths {
		if !d.At.After(over) && !d.Until.Before(t.begun) {
			return FanoutWeDied
		}
	}
	if next := c.tries[e.Try+1]; next != nil && !next.begun.IsZero() && next.begun.Before(over) {
		return FanoutCrossed
	}
	if forgets {
		return FanoutForgotten
	}
	return ""
}

// tell says all that is known of a recipient.
func (c *fanoutCase) tell(rcpt string) string {
	var b strings.Builder
	for _, n := range slices.Sorted(maps.Keys(c.tries)) {
		t := c.tries[n]
		fmt.Fprintf(&b, "\n  transaction %d %s, hops %s, ended %s",
			n, fanoutTime(t.begun), fanoutTime(t.last), fanoutTime(t.ended))
	}
	for _, e := range c.fate(rcpt).copies {
		fmt.Fprintf(&b, "\n  copy %s in transaction %d at %s", e.Copy, e.Try, fanoutTime(e.At))
	}
	for _, e := range c.fate(rcpt).words {
		fmt.Fprintf(&b, "\n  heard in transaction %d at %s: %.120q", e.Try, fanoutTime(e.At), e.Words)
	}
	return b.String()
}

func fanoutTime(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.Format("15:04:05.000000")
}

// The judge finds what is wrong, and nothing else.
func TestFanoutJudge(t *testing.T) {
	at := func(n int) time.Time { return time.Unix(0, 0).Add(time.Duration(n) * time.Second) }
	ev := func(n int, kind string, try int, copied, words string) FanoutEvent {
		return FanoutEvent{At: at(n), Kind: kind, Mail: "m", Try: try, Rcpt: "a@b", Copy: copied, Words: words}
	}
	yes, no := ev(7, FanoutHeard, 2, "", "250 ok"), ev(7, FanoutHeard, 2, "", "550 no a@b")
	begun := ev(0, FanoutBegun, 1, "", "")
	one := []FanoutEvent{begun, ev(1, FanoutTaken, 1, "x", ""), ev(1, FanoutTold, 1, "x", "")}
	two := append(slices.Clone(one), ev(5, FanoutBegun, 2, "", ""), ev(6, FanoutTaken, 2, "y", ""),
		ev(6, FanoutTold, 2, "y", ""))
	answered := append(slices.Clone(two), ev(2, FanoutEnded, 1, "", ""), yes)
	death := FanoutEvent{At: at(1), Until: at(2), Kind: FanoutDeath}
	late := FanoutEvent{At: at(3), Until: at(4), Kind: FanoutDeath}
	unsaid := slices.Concat(one[:2], two[3:])
	for name, test := range map[string]struct {
		events  []FanoutEvent
		forgets bool
		wrong   string
		doubled string
	}{
		"delivered":         {events: append(slices.Clone(one), ev(2, FanoutHeard, 1, "", "250 ok"))},
		"lost":              {events: []FanoutEvent{begun, ev(2, FanoutHeard, 1, "", "250 ok")}, wrong: "LOST"},
		"refused":           {events: []FanoutEvent{begun, ev(1, FanoutRefused, 1, "", ""), no}},
		"refused by nobody": {events: []FanoutEvent{begun, no}, wrong: "never said"},
		"delivered, refused": {events: append(slices.Clone(one), ev(6, FanoutRefused, 2, "", ""), no),
			wrong: "has the message"},
		"unknown, refused": {events: []FanoutEvent{begun, one[1], ev(3, FanoutRefused, 1, "", ""), no},
			doubled: FanoutHopDied},
		"never settled":        {events: one, wrong: "nothing was settled"},
		"doubled":              {events: append(slices.Clone(two), yes), wrong: "DOUBLED"},
		"hop died":             {events: append(slices.Clone(unsaid), yes), doubled: FanoutHopDied},
		"we died":              {events: append(slices.Clone(two), death, yes), doubled: FanoutWeDied},
		"we died later":        {events: append(slices.Clone(two), late, yes), wrong: "DOUBLED"},
		"after a final reply":  {events: append(slices.Clone(answered), death), wrong: "DOUBLED"},
		"without a memory":     {events: append(slices.Clone(two), yes), forgets: true, doubled: FanoutForgotten},
		"heard, not forgotten": {events: answered, forgets: true, wrong: "DOUBLED"},
		"crossed": {events: append(slices.Clone(two), ev(5, FanoutTaken, 1, "z", ""), ev(5, FanoutTold, 1, "z", ""), yes),
			doubled: FanoutCrossed},
		"for somebody else": {events: append(slices.Clone(one), ev(2, FanoutHeard, 1, "", "250 ok"),
			FanoutEvent{At: at(1), Kind: FanoutTaken, Mail: "m", Try: 1, Rcpt: "c@d"}), wrong: "not for"},
	} {
		v := JudgeFanouts(map[string][]string{"m": {"a@b"}}, test.events, test.forgets)
		if got := strings.Join(v.Wrong, "\n"); (got != "") != (test.wrong != "") || !strings.Contains(got, test.wrong) {
			t.Errorf("%s: wrong is %q, want %q", name, got, test.wrong)
		}
		if test.doubled != "" && v.Doubled[test.doubled] == 0 || test.doubled == "" && len(v.Doubled) > 0 {
			t.Errorf("%s: doubled %v, want %q", name, v.Doubled, test.doubled)
		}
	}
}

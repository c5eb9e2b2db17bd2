package once

import (
	"fmt"
	"testing"

	"slipstream/smtpwire"
)

func TestRefusedAndAwaits(t *testing.T) {
	m := openTest(t, newDisk(), Options{})
	defer mustClose(t, m)
	check := func(to string, refused, awaits bool) {
		t.Helper()
		if got := m.Refused(mta, sender, to); got != refused {
			t.Errorf("%s is refused: %v", to, got)
		}
		if got := m.Awaits(mta, sender, to); got != awaits {
			t.Errorf("%s awaits: %v", to, got)
		}
	}
	bad, good := refused("bad@a.example", "x"), delivered("good@a.example", "x")
	mustRemember(t, m, bad, good)
	check("bad@a.example", true, false)
	check("good@a.example", false, true)
	check("else@a.example", false, false)

	worse := refused("worse@a.example", "x") // both wait, each for the other
	mustRemember(t, m, worse)
	check("bad@a.example", true, true)
	check("worse@a.example", true, true)

	mustRemember(t, m, delivered("bad@a.example", "y"), delivered("fine@a.example", "y")) // another message
	check("bad@a.example", true, true)
	check("fine@a.example", false, false)

	if m.Refused(local, sender, "bad@a.example") || m.Refused(mta, "else@sender.example", "bad@a.example") {
		t.Error("what another client or sender hears counts")
	}
	later := Outcome{key("later@a.example", "x"), smtpwire.NewReply(451, "4.2.1", "try later")}
	mustRemember(t, m, later) // none yet, but it shares the message
	check("later@a.example", false, true)
	wantForgotten(t, m, later.Key)
	if s := m.Stats(); s.Deferred != 1 {
		t.Errorf("%+v", s)
	}

	m.Heard([]Key{worse.Key, bad.Key})
	check("bad@a.example", false, false)
	check("good@a.example", false, false)
	check("worse@a.example", false, false)
}

// TestTurns: who goes first takes turns, for each message, beginning with the refused.
func TestTurns(t *testing.T) {
	m := openTest(t, newDisk(), Options{})
	defer mustClose(t, m)
	to := []string{"bad@a.example", "good@a.example", "later@a.example"}
	for range 2 {
		if !m.Turn(mta, sender, to) {
			t.Error("where nothing is known, somebody took a turn")
		}
	}
	mustRemember(t, m, refused(to[0], "x"), delivered(to[1], "x"))
	for n := range 6 {
		recipients := to
		if n%3 == 1 {
			recipients = to[1:] // those who await it are enough
		}
		if got, want := m.Turn(mta, sender, recipients), n%2 == 0; got != want {
			t.Errorf("turn %d: the refused go first: %v", n, got)
		}
	}
	mustRemember(t, m, delivered(to[1], "x")) // again: the turns go on
	if first, then := m.Turn(mta, sender, to), m.Turn(mta, sender, to); !first || then {
		t.Error("the turns began anew")
	}
	other := []string{"bad@b.example", "good@b.example"}
	mustRemember(t, m, refused(other[0], "y"), delivered(other[1], "y"))
	if !m.Turn(mta, sender, other) {
		t.Error("the turns of one message count for another")
	}
}

// TestTurnsOfTwo: two messages to the same recipients, whose attempts keep time with the turns, do not shut each other
// out.
func TestTurnsOfTwo(t *testing.T) {
	m := openTest(t, newDisk(), Options{})
	defer mustClose(t, m)
	to := []string{"bad@a.example", "good@a.example"}
	for _, text := range []string{"x", "y"} {
		mustRemember(t, m, refused(to[0], text), delivered(to[1], text))
	}
	if !m.Turn(mta, sender, to) {
		t.Error("the first time the refused do not go first")
	}
	var first [2]map[bool]int
	for i := range first {
		first[i] = make(map[bool]int)
	}
	for n := range 400 {
		first[n%2][m.Turn(mta, sender, to)]++
	}
	for i, f := range first {
		if f[true] < 40 || f[false] < 40 { // of 200, by chance
			t.Errorf("message %d: %v", i, f)
		}
	}
}

// TestManyMessages: who writes to one recipient very often, does not make others wait.
func TestManyMessages(t *testing.T) {
	m := openTest(t, newDisk(), Options{})
	defer mustClose(t, m)
	var all []Outcome
	for n := range 3 * maxLooked {
		all = append(all, delivered("a@b.example", fmt.Sprint(n)))
	}
	mustRemember(t, m, all...)
	last := refused("c@b.example", fmt.Sprint(len(all)-1))
	mustRemember(t, m, last)
	if !m.Awaits(mta, sender, "a@b.example") || !m.Turn(mta, sender, []string{"a@b.example"}) {
		t.Error("the latest is not looked at")
	}
	m.Heard([]Key{last.Key})
	mustRemember(t, m, refused("c@b.example", "0"))
	if m.Awaits(mta, sender, "a@b.example") {
		t.Error("all were looked at")
	}
	for _, o := range all {
		m.Heard([]Key{o.Key})
	}
	if s := m.Stats(); s.Outcomes != 1 || len(m.index.recipients) != 1 || len(m.index.messages) != 1 {
		t.Errorf("%+v, %d recipients and %d messages are left", s, len(m.index.recipients), len(m.index.messages))
	}
}

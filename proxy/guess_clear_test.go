package proxy

import (
	"fmt"
	"strings"
	"testing"

	"slipstream/bench/refpeer"
)

func answer(line string) refpeer.Action { return refpeer.Say(line) }

func answerAndClose(line string) refpeer.Action {
	return refpeer.Action{Reply: line + "\r\n", Close: true}
}

// lacking is everything, and PIPECONNECT, but for what is taken away.
func lacking(change func(k *refpeer.Keywords)) refpeer.Keywords {
	k := early()
	change(&k)
	return k
}

// deaf answers every command with the same refusal, behind a greeting.
func deaf(greeting, line string) func(refpeer.Event) refpeer.Action {
	return func(ev refpeer.Event) refpeer.Action {
		switch ev.Kind {
		case refpeer.Connect:
			return answer(greeting)
		case refpeer.Command:
			return answer(line)
		}
		return refpeer.Action{}
	}
}

func both(a, b func(refpeer.Event) refpeer.Action) func(refpeer.Event) refpeer.Action {
	return func(ev refpeer.Event) refpeer.Action {
		if act := a(ev); act != (refpeer.Action{}) {
			return act
		}
		return b(ev)
	}
}

// What the records of a message say, by style: of one that was repaired on a
// second connection, of one to a hop that nothing is known of, of one that was
// early.
var (
	repaired = [3]string{"7", "6 late:1", "6 bdat:1"}
	doubtful = [3]string{"7", "2 late:1", "2 bdat:1"}
	stepwise = [3]string{"5", "4 late:1", "4 bdat:1"}
	rightly  = [3]string{"3 early:2", "2 early:2,late:1", "2 early:2,bdat:1"}
	mixedly  = [3]string{"3 early:2", "4 late:1", "4 bdat:1"}
)

// A hop that does not bear to be spoken to early, though it said so, or does not
// take the message.
func TestGuessRefused(t *testing.T) {
	const again, againBit = "E M B|E M B Q", "E M|E M B Q"
	modern := machine{keywords: refpeer.Modern()}
	noPipelining := machine{keywords: lacking(func(k *refpeer.Keywords) { k.Pipelining, k.PipeConnect = false, false })}
	stall, gone := refpeer.Action{Stall: true}, refpeer.Action{Close: true}
	for _, g := range []guessed{
		{name: "greeting 554, and so to all", odd: deaf("554 5.7.1 no", "503 5.5.1 no"), after: rightly},
		{name: "greeting 554, and gone", odd: greets(answerAndClose("554 5.7.1 no")), after: rightly},
		{name: "greeting 554, and silence", after: rightly,
			odd: both(greets(answer("554 5.7.1 no")), says("EHLO", stall))},
		{name: "greeting 450, and so to all", odd: deaf("450 4.7.1 no", "450 4.7.1 no"), after: rightly},
		// Postscreen: "220-", and then what it thinks of early talk.
		{name: "greeting broken off in a refusal",
			odd:   greets(answerAndClose("220-mx ESMTP\r\n521 5.5.1 protocol error")),
			after: rightly},
		{name: "greeting broken off in the answer to EHLO", now: modern, after: stepwise,
			odd: both(greets(refpeer.Action{Reply: "220-mx ESMTP\r\n"}), says("RCPT", answer("550 5.5.1 no")))},
		{name: "greeting broken off, but all is taken", now: modern, heard: "E M B", spent: doubtful, after: stepwise,
			odd: greets(refpeer.Action{Reply: "220-mx ESMTP\r\n"})},
		{name: "greeting 421", odd: greets(answer("421 4.7.1 no")), after: rightly},
		{name: "EHLO 550", odd: says("EHLO", answer("550 5.5.1 no")), after: rightly},
		{name: "EHLO 500, and gone", odd: says("EHLO", answerAndClose("500 5.5.1 no")), after: rightly},
		{name: "EHLO 554, and gone", odd: says("EHLO", answerAndClose("554 5.5.1 no")), after: rightly},
		{name: "EHLO 421", odd: says("EHLO", answerAndClose("421 4.5.1 no")), after: rightly},
		{name: "withdrawn, 554", now: machine{keywords: refpeer.Modern(), strict: true}, after: stepwise},
		{name: "withdrawn, EHLO 554",
			now: modern, odd: says("EHLO", answerAndClose("554 5.5.0 no")), after: stepwise},
		{name: "withdrawn, MAIL 503", now: modern, odd: says("MAIL", answer("503 5.5.0 no")), after: stepwise},
		{name: "withdrawn, RCPT 550", now: modern, odd: says("RCPT", answer("550 5.5.1 no")), after: stepwise},
		{name: "withdrawn, text 554", now: modern, odd: judges(answer("554 5.5.1 no")), after: stepwise},
		{name: "knows HELO alone",
			now: machine{old: true, keywords: refpeer.Keywords{}}, heard: "E M B|E H M D T Q", heardBit: "E M|E H M D T Q",
			spent: [3]string{"10", "10", "10"}, after: [3]string{"8", "8", "8"}},

		{name: "greeting 554, but all is taken", odd: greets(answer("554 5.7.1 no")), heard: "E M B",
			spent: doubtful, after: mixedly},
		{name: "withdrawn, accepted", now: modern, heard: "E M B", spent: doubtful, after: stepwise},
		{name: "no PIPELINING, accepted", now: noPipelining, heard: "E M B",
			spent: [3]string{"8", "2 late:1", "2 bdat:1"}, after: [3]string{"6", "6", "6"}},

		{name: "closes", odd: greets(gone), heard: "E M B", doubt: true, spent: doubtful, after: mixedly},
		{name: "resets", odd: greets(refpeer.Action{Reset: true}), heard: "E M B", doubt: true,
			spent: doubtful, after: mixedly},
		{name: "closes behind its greeting", odd: says("EHLO", gone), heard: "E M B", doubt: true,
			spent: doubtful, after: mixedly},
		{name: "stalls", odd: greets(stall), heard: "E M B", doubt: true, spent: doubtful, after: mixedly},
		{name: "stalls at EHLO",
			odd: says("EHLO", stall), heard: "E M B", doubt: true, spent: doubtful, after: mixedly},
		{name: "withdrawn, stalls at MAIL", now: modern, odd: says("MAIL", stall), heard: "E M B", doubt: true,
			spent: doubtful, after: stepwise},
		{name: "withdrawn, stalls at the text", now: modern, odd: judges(stall), heard: "E M B", doubt: true,
			spent: doubtful, after: stepwise, slow: true},
	} {
		if g.heard == "" {
			g.heard, g.spent = again, repaired
		}
		if g.heardBit == "" {
			g.heardBit = againBit
		}
		t.Run(g.name, g.check)
	}
}

// What a hop that was spoken to early says about the message is what it would
// have said in lock step, and the guess was right.
func TestGuessVerdict(t *testing.T) {
	for _, g := range []guessed{
		{name: "MAIL 550", now: machine{behave: says("MAIL", answer("550 5.7.1 not you"))}},
		{name: "MAIL 450", now: machine{behave: says("MAIL", answer("450 4.7.1 not you"))},
			spent: [3]string{"0", "0", "0"}}, // another host may take it; there is none
		{name: "RCPT 550", now: machine{rcpts: map[string]string{"b@example.org": "550 5.1.1 unknown"}}},
		{name: "RCPT 450", now: machine{rcpts: map[string]string{"b@example.org": "450 4.2.1 later"}}},
		{name: "text 554", now: machine{behave: judges(answer("554 5.7.1 spam"))}, heardBit: "E M B Q",
			spent: rightly},
		{name: "text 451", now: machine{behave: judges(answer("451 4.7.1 full"))}, heardBit: "E M B Q",
			spent: rightly},
	} {
		g.heard = "E M B Q"
		if g.heardBit == "" {
			g.heardBit = "E M Q"
		}
		if g.spent[0] == "" {
			g.spent = [3]string{"2 early:2", "2 early:2,late:1", "2 early:2,bdat:1"}
		}
		g.after = g.spent
		t.Run(g.name, g.check)
	}
}

// usual is a mail with some parts of its own.
func usual(change func(m *refpeer.Mail)) refpeer.Mail {
	m := refpeer.Mail{From: "a@client.example", To: []string{"b@example.org"}, Body: []byte(tripBody)}
	change(&m)
	return m
}

// What a hop offers has changed, and PIPECONNECT is still there.
func TestGuessFeatures(t *testing.T) {
	sized := usual(func(m *refpeer.Mail) { m.Params = "SIZE=25" })
	mime := usual(func(m *refpeer.Mail) { m.Params = "BODY=8BITMIME" })
	eight := usual(func(m *refpeer.Mail) {
		m.Params, m.Body = "BODY=8BITMIME", []byte("Subject: 8\r\n\r\nGr\xfc\xdfe\r\n")
	})
	utf8 := usual(func(m *refpeer.Mail) { m.From, m.Params = "\u00e4@client.example", "SMTPUTF8" })
	utf8Rcpt := usual(func(m *refpeer.Mail) { m.To, m.Params = []string{"\u00e4@example.org"}, "SMTPUTF8" })
	noted := usual(func(m *refpeer.Mail) { m.Params, m.RcptParams = "RET=HDRS ENVID=x", "NOTIFY=NEVER" })
	two := usual(func(m *refpeer.Mail) { m.To = []string{"b@example.org", "c@example.org"} })
	many := usual(func(m *refpeer.Mail) {
		m.To = nil
		for i := range 120 {
			m.To = append(m.To, fmt.Sprintf("user-%d@example.org", i))
		}
	})
	big := usual(func(m *refpeer.Mail) { m.Body = []byte(tripBody + strings.Repeat("0123456789abcdef\r\n", 5000)) })

	commands := usual(func(m *refpeer.Mail) {
		m.Body = []byte("RSET\r\nMAIL FROM:<c@client.example>\r\nRCPT TO:<c@example.org>\r\nQUIT\r\n")
	})

	noSize := machine{keywords: lacking(func(k *refpeer.Keywords) { k.Size = 0 })}
	no8 := machine{keywords: lacking(func(k *refpeer.Keywords) { k.EightBitMIME, k.SMTPUTF8 = false, false })}
	noUTF8 := machine{keywords: lacking(func(k *refpeer.Keywords) { k.SMTPUTF8 = false })}
	noDSN := machine{keywords: lacking(func(k *refpeer.Keywords) { k.DSN = false })}
	noChunks := machine{keywords: lacking(func(k *refpeer.Keywords) { k.Chunking = false })}
	gone := machine{keywords: refpeer.Modern(), strict: true}
	goneNoChunks := machine{strict: true,
		keywords: lacking(func(k *refpeer.Keywords) { k.Chunking, k.PipeConnect = false, false })}
	limited := func(n int) machine {
		return machine{keywords: lacking(func(k *refpeer.Keywords) {
			k.Extra = []string{fmt.Sprintf("LIMITS RCPTMAX=%d", n)}
		})}
	}
	tight := limited(1)
	tight.rcpts = map[string]string{"c@example.org": "452 4.5.3 too many"}

	for _, g := range []guessed{
		{name: "SIZE is gone", now: noSize, mail: sized, heard: "E M B|E m B Q", heardBit: "E M|E m B Q"},
		{name: "SIZE is gone, and was not used", now: noSize, heard: "E M B Q"},
		{name: "SIZE is there",
			was: noSize, now: machine{keywords: early()}, mail: sized, heard: "E m B", heardBit: "E m|E M B Q"},
		{name: "SIZE is smaller",
			now: machine{keywords: lacking(func(k *refpeer.Keywords) { k.Size = 20 })}, mail: sized,
			heard: "E M B Q", heardBit: "E M Q"},
		{name: "8BITMIME is gone, 7-bit text", now: no8, mail: mime, heard: "E M B|E m B Q", heardBit: "E M|E m B Q"},
		{name: "8BITMIME is gone, 8-bit text", now: no8, mail: eight, heard: "E M B|E m Q", heardBit: "E M|E m Q"},
		{name: "8BITMIME is there, 8-bit text",
			was: no8, now: machine{keywords: early()}, mail: eight, heard: "E m|E M B Q"},
		{name: "SMTPUTF8 is gone",
			now: noUTF8, mail: utf8, offer: []string{"SMTPUTF8"}, heard: "E M B|E Q", heardBit: "E M|E Q"},
		{name: "SMTPUTF8 is there", was: noUTF8, now: machine{keywords: early()}, mail: utf8, heard: "E M B Q"},
		{name: "SMTPUTF8 is there, for a recipient",
			was: noUTF8, now: machine{keywords: early()}, mail: utf8Rcpt, heard: "E M B Q"},
		{name: "DSN is gone",
			now: noDSN, mail: noted, offer: []string{"DSN"}, heard: "E M B|E m B Q", heardBit: "E M|E m B Q"},
		{name: "DSN is there", was: noDSN, now: machine{keywords: early()}, mail: noted, offer: []string{"DSN"},
			heard: "E M B Q"},
		{name: "CHUNKING is gone", now: noChunks, heard: "E M B|E M D T Q", heardBit: "E M D T Q"},
		{name: "CHUNKING is there", was: noChunks, now: machine{keywords: early()}, heard: "E M D T Q",
			heardAs: map[refpeer.Style]string{refpeer.LockStep: "E M B Q"}},
		{name: "CHUNKING never was", was: noChunks, heard: "E M D T Q"},
		{name: "CHUNKING never was, PIPECONNECT withdrawn",
			was: noChunks, now: goneNoChunks, heard: "E M D|E M D T Q",
			heardAs: map[refpeer.Style]string{refpeer.LockStep: "E M|E M D T Q"}},
		{name: "LIMITS are other ones", was: limited(10), now: tight, mail: two, heard: "E M B Q", codes: true,
			heardAs: map[refpeer.Style]string{refpeer.LockStep: "E M1 B Q"}},
		{name: "two recipients, one refused",
			now: machine{rcpts: map[string]string{"c@example.org": "550 5.1.1 unknown"}}, mail: two,
			heard: "E M B Q"},
		{name: "two recipients, both refused", mail: two, heard: "E M B Q", heardBit: "E M Q",
			now: machine{rcpts: map[string]string{"b@example.org": "550 5.1.1 unknown", "c@example.org": "450 4.2.1 later"}}},
		{name: "two recipients, withdrawn", now: gone, mail: two, heard: "E M B|E M B Q", heardBit: "E M|E M B Q",
			heardAs: map[refpeer.Style]string{refpeer.LockStep: "E M1|E M B Q"}},
		{name: "120 recipients", mail: many, heard: "E M B Q"},
		{name: "a large text", mail: big, heard: "E M B Q"},
		{name: "a large text, withdrawn", now: gone, mail: big, heard: "E M|E M B Q"},
		// https://www.rfc-editor.org/rfc/rfc3030#section-2: the octets of a chunk are read whatever becomes of it.
		{name: "a text like commands, refused",
			mail: commands, now: machine{rcpts: map[string]string{"b@example.org": "550 5.1.1 unknown"}},
			heard: "E M B Q", heardBit: "E M Q"},
		{name: "LMTP", lmtp: true, heard: "E M B Q"},
		{name: "LMTP, withdrawn", lmtp: true, now: gone, heard: "E M|E M B Q"},
		{name: "LMTP, CHUNKING is gone", lmtp: true, now: noChunks, heard: "E M D T Q"},
	} {
		t.Run(g.name, g.check)
	}
}

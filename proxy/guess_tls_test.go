package proxy

import (
	"strings"
	"testing"

	"slipstream/bench/refpeer"
)

// inside is what a machine does at a command under TLS.
func inside(verb string, a refpeer.Action) func(refpeer.Event) refpeer.Action {
	return func(ev refpeer.Event) refpeer.Action {
		if ev.Secured && ev.Kind == refpeer.Command && ev.Verb == verb {
			return a
		}
		return refpeer.Action{}
	}
}

// withdraws has a machine offer no early pipelining any more, on one side of the
// handshake.
func withdraws(secured bool) func(refpeer.Event) refpeer.Action {
	return func(ev refpeer.Event) refpeer.Action {
		if ev.Secured != secured || ev.Kind != refpeer.Command || ev.Verb != "EHLO" {
			return refpeer.Action{}
		}
		return answer(strings.Replace(ev.Reply, "250-PIPECONNECT\r\n", "", 1))
	}
}

// The same with STARTTLS, where there are two flights that may be early: EHLO
// with STARTTLS, and the envelope behind the handshake.
func TestGuessTLS(t *testing.T) {
	const atStart, inTLS, inTLSBit = "E S|E S E M B Q", "E S E M B|E S E M B Q", "E S E M|E S E M B Q"
	kept := machine{tls: true, keywords: early()}
	modern := machine{tls: true, keywords: refpeer.Modern()}
	strict := machine{tls: true, keywords: refpeer.Modern(), strict: true}
	noClear := machine{tls: true, keywords: early(), behave: withdraws(false)}
	noInside := machine{tls: true, keywords: early(), behave: withdraws(true)}
	noChunks := machine{tls: true, keywords: lacking(func(k *refpeer.Keywords) { k.Chunking = false })}
	noSender := machine{tls: true, keywords: early(), behave: says("MAIL", answer("550 5.7.1 no"))}
	stall, closed := refpeer.Action{Stall: true}, refpeer.Action{Close: true}

	stepwise := [3]string{"8", "7 late:1", "7 bdat:1"}
	rightly := [3]string{"5 early:3", "4 early:3,late:1", "4 early:3,bdat:1"}
	halfway := [3]string{"6 early:2", "5 early:2,late:1", "5 early:2,bdat:1"} // one phase of two
	inside1 := [3]string{"7 early:1", "6 early:1,late:1", "6 early:1,bdat:1"}
	atFirst := [3]string{"10", "9 late:1", "9 bdat:1"}
	behind := [3]string{"12", "11 late:1", "11 bdat:1"}
	kind := [3]string{"12", "4 early:2,late:1", "4 early:2,bdat:1"}
	mixed := [3]string{"5 early:3", "5 early:2,late:1", "5 early:2,bdat:1"}
	for _, g := range []guessed{
		{name: "greeting 554",
			odd: greets(answerAndClose("554 5.7.1 no")), heard: atStart, spent: atFirst, after: rightly},
		{name: "EHLO 550", odd: says("EHLO", answer("550 5.5.1 no")), heard: atStart, spent: atFirst, after: rightly},
		{name: "STARTTLS 554",
			odd: says("STARTTLS", answerAndClose("554 5.5.0 no")), heard: atStart, spent: atFirst, after: rightly},
		{name: "STARTTLS 454",
			odd: says("STARTTLS", answer("454 4.7.0 no")), heard: "E S Q|E S E M B Q", spent: atFirst, after: rightly},
		{name: "words behind STARTTLS",
			odd: says("STARTTLS", answer("220 go\r\n250 evil")), heard: atStart, spent: atFirst, after: rightly},
		{name: "closes", odd: greets(closed), heard: atStart, spent: atFirst, after: rightly},
		{name: "stalls", odd: greets(stall), heard: atStart, spent: atFirst, after: rightly},
		{name: "withdrawn, 554", now: strict, heard: atStart, spent: atFirst, after: stepwise},
		{name: "withdrawn, accepted", now: modern, heard: atStart, spent: atFirst, after: stepwise},
		{name: "withdrawn in clear", now: noClear, heard: atStart, spent: atFirst, after: inside1},
		{name: "withdrawn inside, accepted",
			now: noInside, heard: "E S E M B", heardBit: inTLSBit, spent: kind, after: halfway},
		{name: "withdrawn inside, 503",
			now: noInside, odd: inside("MAIL", answer("503 5.5.0 no")), heard: inTLS, heardBit: inTLSBit,
			spent: behind, after: halfway},
		{name: "EHLO 554 inside, and gone",
			odd: inside("EHLO", answerAndClose("554 5.5.0 no")), heard: inTLS, heardBit: inTLSBit,
			spent: behind, after: rightly},
		{name: "closes inside",
			odd: inside("EHLO", closed), heard: "E S E M B", heardBit: inTLSBit, doubt: true, spent: kind, after: mixed},
		{name: "stalls inside",
			odd: inside("EHLO", stall), heard: "E S E M B", heardBit: inTLSBit, doubt: true, spent: kind, after: mixed},
		{name: "CHUNKING is gone", now: noChunks, heard: "E S E M B|E S E M D T Q", heardBit: "E S E M D T Q"},
		{name: "MAIL 550", now: noSender, heard: "E S E M B Q", heardBit: "E S E M Q"},
	} {
		g.was = kept
		if g.now.keywords.Size == 0 {
			g.now = kept
		}
		policies := []string{"may"}
		if g.odd == nil || g.doubt { // where something changed for good, and where nobody knows
			policies = append(policies, "verify")
		}
		for _, g.policy = range policies {
			t.Run(g.policy+"/"+g.name, g.check)
		}
	}
}

// The hop has TLS now, and had none; or the other way round. A message goes in
// clear where it would have gone in clear had nothing been known.
func TestGuessTLSChanges(t *testing.T) {
	clear, secure := machine{keywords: early()}, machine{keywords: early(), tls: true}
	fussy := secure
	fussy.strict = true // here: about certificates
	for _, g := range []guessed{
		{name: "STARTTLS is there, none", policy: "none", was: clear, now: secure, heard: "E M B Q"},
		{name: "STARTTLS is there, may", policy: "may", was: clear, now: secure, heard: "E M|E S E M B Q"},
		{name: "STARTTLS is there, encrypt", policy: "encrypt", was: clear, now: secure, heard: "E S E M B Q"},
		{name: "STARTTLS is there, verify", policy: "verify", was: clear, now: secure, heard: "E S E M B Q"},
		{name: "never any TLS, may", policy: "may", was: clear, heard: "E M B Q"},
		{name: "never any TLS, encrypt", policy: "encrypt", was: clear, heard: "E Q", hopeless: true},
		{name: "never any TLS, verify", policy: "verify", was: clear, heard: "E Q", hopeless: true},
		{name: "STARTTLS is gone, may", policy: "may", was: secure, now: clear, heard: "E S|E M B Q"},
		{name: "STARTTLS is gone, encrypt", policy: "encrypt", was: secure, now: clear, heard: "E S|E Q"},
		{name: "STARTTLS is gone, verify", policy: "verify", was: secure, now: clear, heard: "E S|E Q"},
		{name: "wants a certificate, may", policy: "may", was: secure, now: fussy, badCert: true, doubt: true},
		{name: "wants a certificate, verify", policy: "verify", was: secure, now: fussy, badCert: true, doubt: true},
		{name: "TLS on connect", policy: "encrypt", was: secure, implicit: true, heard: "E M B Q"},
		{name: "TLS on connect, greeting 554", policy: "encrypt", was: secure, implicit: true,
			odd: deaf("554 5.7.1 no", "503 5.5.1 no"), heard: "E M B|E M B Q", heardBit: "E M|E M B Q"},
		{name: "TLS on connect, withdrawn",
			policy: "encrypt", was: secure, now: machine{keywords: refpeer.Modern(), tls: true},
			implicit: true, heard: "E M B", heardBit: "E M|E M B Q"},
	} {
		t.Run(g.name, g.check)
	}
}

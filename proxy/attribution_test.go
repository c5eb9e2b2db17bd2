package proxy

import (
	"crypto/tls"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"slipstream/bench/refpeer"
	"slipstream/smtpwire"
)

// attributionHop is the one that all mail of these tests goes to.
const attributionHop = "mx.example.org[203.0.113.2]:25"

// attributed is one refusal, and what each way of attribution makes of it.
type attributed struct {
	name     string
	behave   func(refpeer.Event) refpeer.Action
	server   func(*refpeer.Server)
	secure   bool
	nobody   bool // is at the address
	mail     string
	ask      string // what is said behind RCPT, and is answered by the refusal; "": RCPT is
	off      string
	host     string // "": as off
	full     string // "": as host
	contains bool   // what is wanted is the end of a line
}

func attributedRefusals() []attributed {
	const many = "550-5.7.1 We do not\n550-5.7.1\n550 5.7.1 want you. - gsmtp"
	const trouble = "Slipstream: " + attributionHop
	const sevenBit = "554 5.6.3 Slipstream: the next hop takes 7-bit text only, and this message is not"
	const elsewhere = "550-5.7.1 " + attributionHop + "\n550 5.7.1 Slipstream: no (said by mx.else.example[203.0.113.9]:25)"
	long := "550 5.1.1 " + strings.Repeat("x", 500)
	return []attributed{
		{name: "RCPT", behave: hopsAt("RCPT", refpeer.Say("550 5.1.1 nobody")),
			off:  "550 5.1.1 nobody",
			host: "550 5.1.1 nobody (said by " + attributionHop + ")",
			full: "550 5.1.1 nobody (said by " + attributionHop + ", no TLS)"},
		{name: "RCPT, TLS", secure: true, behave: hopsAt("RCPT", refpeer.Say("450 4.2.1 full")),
			off:  "450 4.2.1 full",
			host: "450 4.2.1 full (said by " + attributionHop + ")",
			full: "450 4.2.1 full (said by " + attributionHop + ", TLSv1.3)"},
		{name: "TLS 1.2", secure: true, behave: hopsAt("RCPT", refpeer.Say("450 4.2.1 full")),
			server: func(s *refpeer.Server) { s.TLS.MaxVersion = tls.VersionTLS12 },
			off:    "450 4.2.1 full",
			host:   "450 4.2.1 full (said by " + attributionHop + ")",
			full:   "450 4.2.1 full (said by " + attributionHop + ", TLSv1.2)"},
		{name: "many lines", behave: hopsAt("RCPT", refpeer.Say(strings.ReplaceAll(many, "\n", "\r\n"))),
			off: many, host: many + " (said by " + attributionHop + ")",
			full: many + " (said by " + attributionHop + ", no TLS)"},
		{name: "no enhanced code", behave: hopsAt("RCPT", refpeer.Say("553 no")),
			off: "553 5.0.0 no", host: "553 5.0.0 no (said by " + attributionHop + ")",
			full: "553 5.0.0 no (said by " + attributionHop + ", no TLS)"},
		{name: "no words", behave: hopsAt("RCPT", refpeer.Say("553")),
			off: "553 5.0.0", host: "553 5.0.0 (said by " + attributionHop + ")",
			full: "553 5.0.0 (said by " + attributionHop + ", no TLS)"},
		{name: "no room on the line", behave: hopsAt("RCPT", refpeer.Say(long)),
			off: long, host: strings.Replace(long, " ", "-", 1) + "\n550 5.1.1 (said by " + attributionHop + ")",
			full: strings.Replace(long, " ", "-", 1) + "\n550 5.1.1 (said by " + attributionHop + ", no TLS)"},
		{name: "names itself", behave: hopsAt("RCPT", refpeer.Say("550 5.7.1 (of "+attributionHop+")")),
			off:  "550 5.7.1 (of " + attributionHop + ")",
			host: "550 5.7.1 (of " + attributionHop + ") (said by " + attributionHop + ")",
			full: "550 5.7.1 (of " + attributionHop + ") (said by " + attributionHop + ", no TLS)"},
		{name: "names another", behave: hopsAt("RCPT",
			refpeer.Say("550-5.7.1 "+attributionHop+"\r\n550 5.7.1 Slipstream: no (said by mx.else.example[203.0.113.9]:25)")),
			off: elsewhere, host: elsewhere + " (said by " + attributionHop + ")",
			full: elsewhere + " (said by " + attributionHop + ", no TLS)"},
		{name: "says what we would", behave: hopsAt("DATA", refpeer.Say(sevenBit+" (of "+attributionHop+")")), ask: "DATA",
			server: func(s *refpeer.Server) { s.Keywords.Chunking = false },
			off:    sevenBit + " (of " + attributionHop + ")",
			host:   sevenBit + " (of " + attributionHop + ") (said by " + attributionHop + ")",
			full:   sevenBit + " (of " + attributionHop + ") (said by " + attributionHop + ", no TLS)"},
		{name: "accepted", behave: hopsAt("RCPT", refpeer.Say("251 2.1.5 forwarded")), off: "251 2.1.5 forwarded"},
		{name: "MAIL", behave: hopsAt("MAIL", refpeer.Say("553 5.1.8 who?")),
			off: "553 5.1.8 who?", host: "553 5.1.8 who? (said by " + attributionHop + ")",
			full: "553 5.1.8 who? (said by " + attributionHop + ", no TLS)"},
		{name: "MAIL, for now", behave: hopsAt("MAIL", refpeer.Say("451 4.7.1 greylisted")),
			off: "451 4.7.1 greylisted", host: "451 4.7.1 greylisted (said by " + attributionHop + ")",
			full: "451 4.7.1 greylisted (said by " + attributionHop + ", no TLS)"},
		{name: "DATA", ask: "DATA", behave: hopsAt("DATA", refpeer.Say("554 5.7.0 no")),
			server: func(s *refpeer.Server) { s.Keywords.Chunking = false },
			off:    "554 5.7.0 no", host: "554 5.7.0 no (said by " + attributionHop + ")",
			full: "554 5.7.0 no (said by " + attributionHop + ", no TLS)"},
		{name: "end of data", ask: "DATA", behave: lmtpFinal(refpeer.Say("554 5.7.1 spam")),
			off: "554 5.7.1 spam", host: "554 5.7.1 spam (said by " + attributionHop + ")",
			full: "554 5.7.1 spam (said by " + attributionHop + ", no TLS)"},
		{name: "421 to RCPT", secure: true, behave: hopsAt("RCPT", refpeer.Say("421 4.3.2 busy")),
			off:  "451 4.3.2 " + trouble + " said: 421 4.3.2 busy",
			full: "451 4.3.2 " + trouble + " said: 421 4.3.2 busy (TLSv1.3)"},
		{name: "421 to MAIL", behave: hopsAt("MAIL", refpeer.Say("421 4.3.2 busy")),
			off:  "451 4.3.2 " + trouble + " said: 421 4.3.2 busy",
			full: "451 4.3.2 " + trouble + " said: 421 4.3.2 busy (no TLS)"},
		{name: "greeting", behave: attributionGreeting("554 5.3.2 mx.example.org not here"),
			off: "451 4.3.2 " + trouble + ` said "554 5.3.2 mx.example.org not here" while waiting for the greeting`},
		{name: "greeting, for now", behave: attributionGreeting("421 4.7.0 mx.example.org too many of you"),
			off: "451 4.7.0 " + trouble + ` said "421 4.7.0 mx.example.org too many of you" while waiting for the greeting`},
		{name: "EHLO", behave: hopsAt("EHLO", refpeer.Say("421 4.7.0 not you")),
			server: func(s *refpeer.Server) { s.Banner = "mx.example.org ESMTP Café 1.0" },
			off:    "451 4.7.0 " + trouble + ` said "421 4.7.0 not you" while waiting for the answer to EHLO`,
			full: "451 4.7.0 " + trouble + ` said "421 4.7.0 not you" while waiting for the answer to EHLO` +
				` (no TLS, greeting "220 mx.example.org ESMTP Caf? 1.0")`},
		{name: "nobody", nobody: true, contains: true, off: "451 4.4.1 " + trouble + ": connecting: "},
		{name: "lost", ask: "DATA", secure: true, behave: lmtpFinal(refpeer.Action{Close: true}), contains: true,
			off: "451 4.4.2 Slipstream: outcome unknown, please try again: " + attributionHop +
				": waiting for the final reply: ",
			full: ` (TLSv1.3, greeting "220 mx.example ESMTP")`},
		{name: "lacks SMTPUTF8", server: func(s *refpeer.Server) { s.Keywords.SMTPUTF8 = false },
			mail: "MAIL FROM:<gr\u00fcn@client.example> SMTPUTF8",
			off:  "550 5.6.7 MAIL: the next server does not offer SMTPUTF8",
			host: "550 5.6.7 MAIL: the next server does not offer SMTPUTF8 (of " + attributionHop + ")",
			full: "550 5.6.7 MAIL: the next server does not offer SMTPUTF8 (of " + attributionHop + ", no TLS)"},
		{name: "lacks 8BITMIME", server: func(s *refpeer.Server) { s.Keywords.EightBitMIME = false },
			mail: "MAIL FROM:<a@client.example> BODY=8BITMIME", ask: "DATA",
			off:  sevenBit,
			host: sevenBit + " (of " + attributionHop + ")",
			full: sevenBit + " (of " + attributionHop + ", no TLS)"},
	}
}

// attributionGreeting has a hop greet so.
func attributionGreeting(line string) func(refpeer.Event) refpeer.Action {
	return func(ev refpeer.Event) refpeer.Action {
		if ev.Kind == refpeer.Connect {
			return refpeer.Action{Reply: line + "\r\n", Close: true}
		}
		return refpeer.Action{}
	}
}

// A refusal of a hop says whose it is, at its end, and nothing else of it changes.
func TestAttribution(t *testing.T) {
	for _, tt := range attributedRefusals() {
		for _, how := range []attribution{attributionOff, attributionHost, attributionFull} {
			t.Run(tt.name+"/"+string(how), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { tt.run(t, how) })
			})
		}
	}
}

func (tt attributed) run(t *testing.T, how attribution) {
	w := newWorld(t)
	s := &refpeer.Server{Keywords: refpeer.Modern(), Behave: tt.behave}
	if tt.secure {
		s.TLS = newTestCert(t, "mx.example.org").server()
	}
	if tt.server != nil {
		tt.server(s)
	}
	if !tt.nobody {
		w.serve(mxAddr, s)
	}
	w.outbound(func(o *OutboundConfig) { o.ReplyAttribution, o.LateVerdict = string(how), false })
	w.start()
	c := w.client(outboundAt)
	c.ask("EHLO client.example", "250")
	mail := tt.mail
	if mail == "" {
		mail = "MAIL FROM:<a@client.example>"
	}
	c.ask(mail, "250 ")
	got := c.ask("RCPT TO:<one@example.org>", "")
	if tt.ask != "" {
		got = c.ask(tt.ask, "")
		if strings.HasPrefix(got, "354 ") {
			c.raw("Subject: x\r\n\r\ngr\u00fcn\r\n.\r\n")
			got = c.want("")
		}
	}
	want, remark := tt.off, tt.host
	if how == attributionFull && tt.full != "" {
		remark = tt.full
	}
	switch {
	case tt.contains && (!strings.HasPrefix(got, want) || how == attributionFull && !strings.HasSuffix(got, remark)):
		t.Errorf("got %q, want %q, and at its end %q", got, want, remark)
	case tt.contains:
		return
	case how != attributionOff && remark != "":
		want = remark
	}
	if got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// Where recipients have replies of their own, each names the hop that it is of.
func TestAttributionOfEach(t *testing.T) {
	refuses := func(words string) *refpeer.Server {
		return &refpeer.Server{Keywords: refpeer.Modern(), Behave: lmtpFinal(refpeer.Say(words))}
	}
	const there = "mx.example.net[203.0.113.3]:25"
	t.Run("LMTP", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.serve(mxAddr, refuses("554 5.7.1 spam"))
			w.lmtpDomain("example.net", "203.0.113.3", refuses("451 4.7.1 later"))
			w.outbound(func(o *OutboundConfig) { o.Protocol, o.ReplyAttribution = "lmtp", attributionHost })
			w.start()
			c := w.lmtpClient()
			c.talk("MAIL FROM:<a@client.example>\r\n"+
				"RCPT TO:<a@example.org>\r\nRCPT TO:<b@example.net>\r\nRCPT TO:<c@example.org>\r\nDATA",
				"250 | 250 | 250 | 250 | 354 ")
			c.raw("Subject: x\r\n\r\nx\r\n.\r\n")
			for _, want := range []string{
				"554 5.7.1 spam (said by " + attributionHop + ")",
				"451 4.7.1 later (said by " + there + ")",
				"554 5.7.1 spam (said by " + attributionHop + ")",
			} {
				if got := c.want(""); got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			}
		})
	})
	t.Run("PRDR", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.serve(mxAddr, &refpeer.Server{
				Keywords: refpeer.Modern(), RcptReplies: map[string]string{"b@example.org": "550 5.1.1 nobody"},
			})
			w.outbound(func(o *OutboundConfig) { o.ReplyAttribution = attributionFull })
			w.start()
			c := w.client(outboundAt)
			c.ask("EHLO client.example", "250")
			c.talk(prdrTo("a@example.org", "b@example.org"), "250 | 250 | 250 | 354 ")
			c.raw("Subject: x\r\n\r\nx\r\n.\r\n")
			c.want("353 ")
			c.want("250 ")
			const want = "550 5.1.1 nobody (said by " + attributionHop + ", no TLS)"
			if got := c.want(""); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			c.want("250 ")
		})
	})
}

// Strangers are not told who is behind us, whatever happens.
func TestAttributionNotForStrangers(t *testing.T) {
	for name, behave := range map[string]func(refpeer.Event) refpeer.Action{
		"RCPT": hopsAt("RCPT", refpeer.Say("550 5.1.1 nobody")),
		"EHLO": hopsAt("EHLO", refpeer.Say("421 4.7.0 no")),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern(), Behave: behave})
				w.inbound()
				w.outbound(func(o *OutboundConfig) { o.ReplyAttribution = attributionFull })
				w.start()
				c := w.client(inboundAt)
				c.ask("EHLO client.example", "250")
				c.say("MAIL FROM:<a@client.example>", "RCPT TO:<one@example.org>")
				for range 2 {
					if got := c.want(""); strings.Contains(got, "203.0.113") || strings.Contains(got, "said by") {
						t.Errorf("a stranger heard %q", got)
					}
				}
			})
		})
	}
}

// FuzzAttribution: whatever a hop says, its words stay as they are, and no line
// that a remark is on becomes too long.
func FuzzAttribution(f *testing.F) {
	f.Add(550, "5.1.1 no", "", "220 mx")
	f.Add(450, strings.Repeat("x", 505), "4.2.1 b", "220 "+strings.Repeat("y", 600))
	f.Add(250, "2.0.0 ok", "", "")
	f.Add(599, attributionHop, "\x00\xff", "\r\n250 x")
	f.Fuzz(func(t *testing.T, code int, one, two, banner string) {
		r := smtpwire.Reply{Code: code, Lines: []string{one}}
		if two != "" {
			r.Lines = append(r.Lines, two)
		}
		p := &peer{label: attributionHop, banner: banner}
		trouble := &peerError{
			hop: p.label, during: duringHello, err: errors.New(one),
			banner: banner, tls: &tls.ConnectionState{Version: tls.VersionTLS12},
		}
		for _, how := range []attribution{"", attributionOff, attributionHost, attributionFull} {
			checkRemark(t, r, how.said(r, p))
			checkRemark(t, r, how.meant(r, p))
			refused := refusal(trouble, false, "x")
			checkRemark(t, refused, how.explained(refused, trouble))
			if got := how.said(r, p); how.on() && r.Class() >= 4 && !strings.Contains(got.Lines[len(got.Lines)-1], "(said by "+p.label) {
				t.Errorf("%v became %v", r, got)
			}
			if got := how.said(r, p); r.Class() < 4 && len(got.Lines) != len(r.Lines) {
				t.Errorf("%v became %v", r, got)
			}
		}
	})
}

// checkRemark compares a reply with what was added to it.
func checkRemark(t *testing.T, was, is smtpwire.Reply) {
	t.Helper()
	if is.Code != was.Code || len(is.Lines) < len(was.Lines) || len(is.Lines) > len(was.Lines)+1 {
		t.Fatalf("%q became %q", was, is)
	}
	for i, line := range was.Lines {
		if !strings.HasPrefix(is.Lines[i], line) {
			t.Fatalf("%q became %q", was, is)
		}
		if is.Lines[i] != line && (i < len(was.Lines)-1 || len("550 ")+len(is.Lines[i])+len("\r\n") > 512) {
			t.Fatalf("%q became %q", was, is)
		}
	}
	a, _ := was.Enhanced()
	b, _ := is.Enhanced()
	last := is.Lines[len(is.Lines)-1]
	if a != b || len(is.Lines) > len(was.Lines) && (len(last) > 506 || !strings.HasPrefix(last, a)) {
		t.Fatalf("%q became %q", was, is)
	}
	for _, line := range strings.Split(strings.TrimSuffix(string(is.AppendTo(nil)), "\r\n"), "\r\n") {
		if len(line) < 4 || strings.ContainsAny(line, "\r\n") {
			t.Fatalf("%q on the wire: %q", is, line)
		}
	}
}

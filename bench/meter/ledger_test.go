package meter_test

import (
	"strings"
	"testing"
	"time"

	"slipstream/bench/meter"
)

const (
	textEnd  = "Subject: hi\r\n\r\nhello\r\n.\r\n"
	mailLine = "MAIL FROM:<a@client.example>\r\n"
	rcptLine = "RCPT TO:<u@mx.example>\r\n"
	ok       = "250 2.0.0 ok\r\n"
	flight   = mailLine + rcptLine + "BDAT 7 LAST\r\nhello\r\n"
)

// The wait ends when the final reply has arrived, however the conversation went.
func TestLedger(t *testing.T) {
	open := after(turn{150, 'S', "220 mx.example\r\n", ""}, turn{200, 'C', "EHLO c\r\n", ""},
		turn{250, 'S', "250-mx.example\r\n250 CHUNKING\r\n", ""})
	with := func(turns ...turn) []turn { return append(open[:len(open):len(open)], turns...) }
	for _, tt := range []struct {
		name         string
		turns        []turn
		since, until int // ms; 0: no bound
		start, final int // ms
		packets      int // 0: not asked
		resent       int
		fastOpen     bool
	}{
		{name: "chunk, then QUIT", turns: with(turn{300, 'C', flight, ""}, turn{350, 'S', ok + ok + ok, ""},
			turn{400, 'C', "QUIT\r\n", ""}, turn{450, 'S', "221 bye\r\n", ""}), final: 400, packets: 8},
		{name: "QUIT with the chunk", turns: with(turn{300, 'C', flight + "QUIT\r\n", ""},
			turn{350, 'S', ok + ok, ""}, turn{360, 'S', ok, ""}, turn{390, 'S', "221 bye\r\n", ""}), final: 410},
		{name: "the connection is closed for idleness later", turns: with(turn{300, 'C', flight, ""},
			turn{350, 'S', ok + ok + ok, ""}, turn{9000, 'S', "421 idle\r\n", ""}), final: 400},
		{name: "chunks", turns: with(turn{300, 'C', mailLine + rcptLine + "BDAT 5\r\n.\r\n\r\nBDAT 0 LAST\r\n", ""},
			turn{350, 'S', ok + ok + ok, ""}, turn{380, 'S', ok, ""}), final: 430},
		{name: "a chunk that looks like the end of a text", turns: with(
			turn{300, 'C', mailLine + rcptLine + "BDAT 14 LAST\r\na\r\n.\r\nQUIT\r\n\r\n", ""},
			turn{350, 'S', ok + ok + ok, ""}), final: 400},
		{name: "a refusal in words of several lines", turns: with(
			turn{300, 'C', flight, ""},
			turn{350, 'S', ok + ok + "550-5.7.1 no\r\n550-5.7.1 no\r\n550 5.7.1 no\r\n", ""}),
			final: 400},
		{name: "a refused recipient, and RSET", turns: with(turn{300, 'C', mailLine + rcptLine, ""},
			turn{350, 'S', ok + "550 no\r\n", ""}, turn{400, 'C', "RSET\r\n" + flight, ""},
			turn{450, 'S', ok + ok + ok + ok, ""}),
			final: 500},
		{name: "DATA that is refused", turns: with(turn{300, 'C', mailLine + rcptLine + "DATA\r\n", ""},
			turn{350, 'S', ok + ok + "451 later\r\n", ""}, turn{400, 'C', "RSET\r\n" + flight, ""},
			turn{450, 'S', ok + ok + ok + ok, ""}), final: 500},
		{name: "text with dots", turns: with(turn{300, 'C', mailLine + rcptLine + "DATA\r\n", ""},
			turn{350, 'S', ok + ok + "354 go\r\n", ""},
			turn{400, 'C', "a\r\n..\r\n\r\n.b\r\n\n.\r\n\r.\r\n\r\n.\n\r\n.\r", ""},
			turn{410, 'C', "\nQUIT\r\n", ""}, turn{460, 'S', ok + "221 bye\r\n", ""}), final: 510},
		{name: "an empty text", turns: with(turn{300, 'C', mailLine + rcptLine + "DATA\r\n", ""},
			turn{350, 'S', ok + ok + "354 go\r\n", ""}, turn{400, 'C', ".\r\n", ""}, turn{450, 'S', ok, ""}),
			final: 500},
		{name: "AUTH", turns: with(turn{300, 'C', "AUTH LOGIN\r\n", ""}, turn{350, 'S', "334 VXNlcg==\r\n", ""},
			turn{400, 'C', "DATA\r\n", ""}, turn{450, 'S', "334 UGFzcw==\r\n", ""}, turn{500, 'C', "STARTTLS\r\n", ""},
			turn{550, 'S', "235 in\r\n", ""}, turn{600, 'C', flight, ""}, turn{650, 'S', ok + ok + ok, ""}),
			final: 700},
		{name: "LMTP, a reply for each recipient", turns: after(turn{150, 'S', "220 lmtp\r\n", ""},
			turn{200, 'C', "LHLO c\r\n", ""}, turn{250, 'S', ok, ""},
			turn{300, 'C', mailLine + rcptLine + rcptLine + rcptLine + "DATA\r\n", ""},
			turn{350, 'S', ok + ok + "550 no\r\n" + ok + "354 go\r\n", ""}, turn{400, 'C', textEnd, ""},
			turn{450, 'S', ok, ""}, turn{470, 'S', ok, ""}), final: 520},
		{name: "PRDR", turns: with(turn{300, 'C', mailLine + rcptLine + rcptLine + "DATA\r\n", ""},
			turn{350, 'S', ok + ok + ok + "354 go\r\n", ""}, turn{400, 'C', textEnd, ""},
			turn{450, 'S', "353 each\r\n" + ok + "450 later\r\n", ""}, turn{470, 'S', ok, ""}), final: 520},
		{name: "STARTTLS that is refused", turns: with(turn{300, 'C', "STARTTLS\r\n", ""},
			turn{350, 'S', "454 no\r\n", ""}, turn{400, 'C', flight, ""}, turn{450, 'S', ok + ok + ok, ""}),
			final: 500},

		{name: "the SYN was lost", turns: []turn{{0, 'C', "SYN", "lost"}, {1000, 'C', "SYN", "again"},
			{1050, 'S', "SYN", ""},
			{1150, 'S', "220 mx\r\n", ""}, {1200, 'C', "EHLO c\r\n", ""}, {1250, 'S', ok, ""},
			{1300, 'C', flight, ""}, {1350, 'S', ok + ok + ok, ""}}, final: 1400, packets: 8, resent: 1},
		{name: "the final reply was lost", turns: with(turn{300, 'C', flight, ""}, turn{350, 'S', ok + ok, ""},
			turn{360, 'S', ok, "lost"}, turn{700, 'S', ok, "again"}, turn{760, 'C', "QUIT\r\n", ""}),
			final: 750, resent: 1},
		{name: "what comes before the final reply was lost", turns: with(turn{300, 'C', flight, ""},
			turn{350, 'S', ok + ok, "lost"}, turn{360, 'S', ok, ""},
			turn{700, 'S', ok + ok + ok, "again"}, turn{760, 'C', "QUIT\r\n", ""}), final: 750, resent: 1},
		{name: "the final reply came twice", turns: with(turn{300, 'C', flight, ""}, turn{350, 'S', ok + ok + ok, ""},
			turn{370, 'S', ok, "again"}, turn{400, 'C', "QUIT\r\n", ""}), final: 400, packets: 9, resent: 1},

		{name: "Fast Open", turns: []turn{{0, 'C', "SYN+EHLO c\r\n" + flight, ""}, {50, 'S', "SYN", ""},
			{51, 'S', "220 mx\r\n" + ok + ok + ok + ok, ""}, {110, 'C', "QUIT\r\n", ""}},
			final: 101, packets: 3, fastOpen: true},
		{name: "Fast Open that is refused", turns: []turn{{0, 'C', "SYN+EHLO c\r\n" + flight, ""}, {50, 'S', "SYN", ""},
			{100, 'C', "EHLO c\r\n" + flight, "again"}, {150, 'S', "220 mx\r\n" + ok + ok + ok + ok, ""}}, final: 200,
			packets: 4, resent: 1},

		{name: "the second message", turns: with(turn{300, 'C', flight, ""}, turn{350, 'S', ok + ok + ok, ""},
			turn{5000, 'C', flight, ""}, turn{5050, 'S', ok + ok + ok, ""}, turn{5100, 'C', flight, ""},
			turn{5150, 'S', ok + ok + ok, ""}), since: 4000, start: 5000, final: 5100, packets: 2},
		{name: "the third message, since the second had begun", turns: with(turn{300, 'C', flight, ""},
			turn{350, 'S', ok + ok + ok, ""}, turn{5000, 'C', mailLine, ""},
			turn{5001, 'C', rcptLine + "BDAT 2 LAST\r\n\r\n", ""},
			turn{5051, 'S', ok + ok + ok, ""}, turn{5200, 'C', flight, ""}, turn{5250, 'S', ok + ok + ok, ""}),
			since: 5001, start: 5200, final: 5300},
		{name: "a message on a connection that was asked whether it lives", turns: with(turn{300, 'C', flight, ""},
			turn{350, 'S', ok + ok + ok, ""}, turn{5000, 'C', "NOOP\r\n", ""}, turn{5050, 'S', ok, ""},
			turn{5100, 'C', flight, ""}, turn{5150, 'S', ok + ok + ok, ""}), since: 5000, start: 5000, final: 5200},

		{name: "a message under TLS, since one in clear had begun", turns: with(turn{300, 'C', mailLine, ""},
			turn{301, 'C', rcptLine + "BDAT 2 LAST\r\n\r\n", ""}, turn{351, 'S', ok + ok + ok, ""},
			turn{401, 'C', "STARTTLS\r\n", ""}, turn{451, 'S', "220 go\r\n", ""}, turn{501, 'C', clientHello, ""},
			turn{551, 'S', helloOf(aes128of13, someRandom, false) + record(data, 900), ""},
			turn{601, 'C', record(data, 53) + record(data, 2100), ""}, turn{651, 'S', record(data, 60), ""}),
			since: 301, start: 401, final: 701},

		{name: "a text that is cut", turns: with(turn{300, 'C', mailLine + rcptLine + "DATA\r\n", ""},
			turn{350, 'S', ok + ok + "354 go\r\n", ""}, turn{400, 'C', textEnd, "cut"}, turn{401, 'C', textEnd, "cut"},
			turn{451, 'S', ok, ""}, turn{501, 'C', "QUIT\r\n", ""}, turn{551, 'S', "221 bye\r\n", ""}), final: 501},
		{name: "a text that is cut, and another", turns: with(turn{300, 'C', mailLine + rcptLine + "DATA\r\n", ""},
			turn{350, 'S', ok + ok + "354 go\r\n", ""}, turn{400, 'C', textEnd, "cut"}, turn{450, 'S', ok, ""},
			turn{500, 'C', mailLine + rcptLine + "DATA\r\n", ""}, turn{550, 'S', ok + ok + "354 go\r\n", ""},
			turn{600, 'C', textEnd, ""}, turn{650, 'S', ok, ""}), since: 450, start: 500, final: 700},
		{name: "a chunk that is cut", turns: with(turn{300, 'C', mailLine + rcptLine + "BDAT 25 LAST\r\n", ""},
			turn{301, 'C', textEnd, "cut"}, turn{351, 'S', ok + ok + ok, ""}), final: 401},

		{name: "TLS 1.3, then QUIT", turns: append(handshake13(), turn{200, 'C', record(data, 2100), ""},
			turn{250, 'S', record(data, 250), ""}, turn{251, 'S', record(data, 60), ""},
			turn{301, 'C', record(data, 23) + record(data, 19), ""},
			turn{351, 'S', record(data, 30) + record(data, 19), ""}),
			final: 301},
		{name: "TLS 1.3, and the connection stays", turns: append(handshake13(), turn{200, 'C', record(data, 2100), ""},
			turn{250, 'S', record(data, 60), ""}), final: 300},
		{name: "TLS 1.3, QUIT in the record of the text", turns: append(handshake13(),
			turn{200, 'C', record(data, 2100) + record(data, 19), ""},
			turn{250, 'S', record(data, 60) + record(data, 40) + record(data, 19), ""}), final: 300},
		{name: "TLS 1.3, QUIT in a record of its own, sent with the text", turns: append(handshake13(),
			turn{200, 'C', record(data, 2100) + record(data, 23), ""},
			turn{250, 'S', record(data, 60), ""}, turn{260, 'S', record(data, 40) + record(data, 19), ""},
			turn{310, 'C', record(data, 19), ""}), final: 310},
		{name: "TLS 1.3, the dot in a record of its own", turns: append(handshake13(),
			turn{200, 'C', record(data, 2100), ""}, turn{201, 'C', record(data, 20), ""},
			turn{251, 'S', record(data, 60), ""},
			turn{301, 'C', record(data, 23), ""}, turn{351, 'S', record(data, 40), ""}), final: 301},
		{name: "TLS 1.3, replies while the text is on its way", turns: append(handshake13(),
			turn{200, 'C', record(data, 16000), ""}, turn{250, 'S', record(data, 60), ""},
			turn{300, 'C', record(data, 16000), ""},
			turn{310, 'C', record(data, 700), ""}, turn{360, 'S', record(data, 60), ""},
			turn{410, 'C', record(data, 23), ""},
			turn{460, 'S', record(data, 40), ""}), final: 410},
		{name: "TLS 1.3, the second message", turns: append(handshake13(),
			turn{200, 'C', record(data, 2100), ""}, turn{250, 'S', record(data, 60), ""},
			turn{900, 'C', record(data, 2100), ""}, turn{950, 'S', record(data, 60), ""},
			turn{1900, 'C', record(data, 2100), ""}, turn{1950, 'S', record(data, 60), ""}),
			since: 800, until: 1900, start: 900, final: 1000, packets: 2},
		{name: "TLS 1.3, the last part of the text was lost", turns: append(handshake13(),
			turn{200, 'C', record(data, 16000), ""}, turn{201, 'C', record(data, 700), "lost"},
			turn{250, 'S', record(data, 60), ""},
			turn{500, 'C', record(data, 700), "again"}, turn{550, 'S', record(data, 60), ""},
			turn{600, 'C', record(data, 23), ""},
			turn{650, 'S', record(data, 40), ""}), final: 600, resent: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := only(t, play(tt.turns...)).LedgerBetween(moment(tt.since), moment(tt.until))
			must(t, err)
			if !l.Start.Equal(ms(tt.start)) || !l.Final.Equal(ms(tt.final)) || l.Elapsed != l.Final.Sub(l.Start) {
				t.Errorf("from %v to %v in %v, want from %d to %d", l.Start.Sub(begin), l.Final.Sub(begin), l.Elapsed,
					tt.start, tt.final)
			}
			if tt.packets > 0 && l.Packets != tt.packets {
				t.Errorf("%d packets, want %d", l.Packets, tt.packets)
			}
			if tt.packets > 0 && l.Retransmits != tt.resent || l.FastOpen != tt.fastOpen {
				t.Errorf("%d sent again, Fast Open: %v; want %d, %v", l.Retransmits, l.FastOpen, tt.resent, tt.fastOpen)
			}
		})
	}
}

// moment is ms, but 0 is no moment at all.
func moment(n int) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return ms(n)
}

// QUIT is told from text by its length, whatever the cipher of TLS 1.2.
func TestLedgerTLS12(t *testing.T) {
	for _, tt := range []struct {
		name              string
		suite             uint16
		text, quit, close int
	}{
		{"GCM", gcmOf12, 31, 30, 26}, {"ChaCha20", chachaOf12, 23, 22, 18},
		{"CBC with SHA-1", cbcOf12, 96, 48, 48}, {"CBC with SHA-384", cbcOf12, 96, 80, 80},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := only(t, play(after(turn{100, 'C', clientHello, ""},
				turn{150, 'S', helloOf(tt.suite, someRandom, false) + record(change, 1) + record(handshakes, 40), ""},
				turn{200, 'C', record(change, 1) + record(handshakes, 40) + record(data, tt.text), ""},
				turn{250, 'S', record(data, 90), ""}, turn{300, 'C', record(data, tt.quit), ""},
				turn{350, 'S', record(data, 90) + record(alerting, tt.close), ""}, turn{400, 'C', record(alerting,
					tt.close), ""})...))
			if got := trips(t, c, time.Time{}); got != 3 {
				t.Errorf("%v trips, want 3", got)
			}
		})
	}
}

// Where there is no final reply, there is no ledger.
func TestLedgerErrors(t *testing.T) {
	open := after(turn{150, 'S', "220 mx.example\r\n", ""}, turn{200, 'C', "EHLO c\r\n", ""}, turn{250, 'S', ok, ""})
	with := func(turns ...turn) []turn { return append(open[:len(open):len(open)], turns...) }
	for _, tt := range []struct {
		name         string
		turns        []turn
		since, until int
		want         string
	}{
		{"nothing but a SYN", opening[:1], 0, 0, "no message"},
		{"refused", []turn{{0, 'C', "SYN", ""}, {50, 'S', "RST", ""}}, 0, 0, "no message"},
		{"no message", with(turn{300, 'C', "QUIT\r\n", ""}, turn{350, 'S', "221 bye\r\n", ""}), 0, 0, "no message"},
		{"refused at MAIL", with(turn{300, 'C', mailLine, ""}, turn{350, 'S', "550 no\r\n", ""}), 0, 0, "no message"},
		{"no reply", with(turn{300, 'C', flight, ""}, turn{350, 'S', ok + ok, ""}), 0, 0, "no final reply"},
		{"half a reply", with(turn{300, 'C', flight, ""}, turn{350, 'S', ok + ok + "250-ok\r\n250", ""}), 0, 0,
			"no final reply"},
		{"the reply is lost", with(turn{300, 'C', flight, ""}, turn{350, 'S', ok + ok + ok, "lost"}),
			0, 0, "did not arrive"},
		{"a chunk that is not all there", with(turn{300, 'C', mailLine + rcptLine + "BDAT 99 LAST\r\nhello\r\n", ""},
			turn{350, 'S', ok + ok + ok, ""}), 0, 0, "no message"},
		{"a chunk beyond all measure", with(
			turn{300, 'C', mailLine + rcptLine + "BDAT 9223372036854775807 LAST\r\nx\r\n", ""},
			turn{350, 'S', ok + ok + ok, ""}), 0, 0, "no message"},
		{"nothing since", with(turn{300, 'C', flight, ""}, turn{350, 'S', ok + ok + ok, ""}), 301, 0,
			"nothing from then on"},
		{"after until", with(turn{300, 'C', flight, ""}, turn{350, 'S', ok + ok + ok, ""}), 0, 300, "no message"},
		{"a handshake and nothing more", handshake13(), 0, 0, "no message"},
		{"no reply under TLS", append(handshake13(), turn{200, 'C', record(data, 2100), ""}), 0, 0, "no final reply"},
		{"half a record", append(handshake13(), turn{200, 'C', record(data, 2100), ""},
			turn{250, 'S', record(data, 60)[:64], ""}), 0, 0, "no final reply"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := only(t, play(tt.turns...)).LedgerBetween(moment(tt.since), moment(tt.until))
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(),
				clientEnd.String()) {
				t.Errorf("%v, %v; want an error about %q", l, err, tt.want)
			}
		})
	}
	if _, err := (meter.Conn{}).Ledger(time.Time{}); err == nil {
		t.Error("no error without segments")
	}
}

// The first octet, the packets and the octets are those of the wait.
func TestLedgerCounts(t *testing.T) {
	turns := after(turn{150, 'S', "220 mx.example\r\n", ""}, turn{200, 'C', "EHLO c\r\n", ""}, turn{250, 'S', ok, ""},
		turn{300, 'C', flight, ""}, turn{350, 'S', ok + ok + ok, ""}, turn{400, 'C', "QUIT\r\n", ""},
		turn{450, 'S', "221 bye\r\n", ""}, turn{5000, 'C', flight, ""}, turn{5050, 'S', ok + ok + ok, ""})
	c := only(t, play(turns...))
	l, err := c.Ledger(time.Time{})
	must(t, err)
	octets := 8*headers + len("220 mx.example\r\nEHLO c\r\n"+ok+flight+ok+ok+ok)
	if l.FirstByte != 200*time.Millisecond || l.Packets != 8 || l.Octets != octets || l.Trips(rtt) != 4 {
		t.Errorf("%+v, want the first octet after 200ms, 8 packets, %d octets, 4 trips", l, octets)
	}
	l, err = c.Ledger(ms(1000))
	must(t, err)
	octets = 2*headers + len(flight+ok+ok+ok)
	if l.FirstByte != 100*time.Millisecond || l.Packets != 2 || l.Octets != octets || l.Trips(rtt) != 1 {
		t.Errorf("%+v, want the first octet after 100ms, 2 packets, %d octets, 1 trip", l, octets)
	}
}

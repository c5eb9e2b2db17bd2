package proxy

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"slipstream/bench/netsim"
	"slipstream/bench/refpeer"
)

// BDAT in every wrong way: the octets that it announces are never commands, and
// where their number is not known the session ends.
func TestHostileBdat(t *testing.T) {
	const evil = "\r\nMAIL FROM:<evil@client.example>\r\nRCPT TO:<b@example.org>\r\nBDAT 3 LAST\r\nx\r\n"
	chunk := func(size int, last, octets string) string { return fmt.Sprintf("BDAT %d%s\r\n%s", size, last, octets) }
	whole := chunk(len(hostileText), " LAST", hostileText)
	for name, tt := range map[string]struct {
		say, want string // after the envelope of a good recipient
		messages  int
		closed    bool
	}{
		"nothing but LAST":         {chunk(0, " LAST", ""), "250 2.0.0 ", 1, false},
		"nothing at all":           {chunk(0, "", "") + chunk(0, "", "") + whole, "250 2.0.0 |250 2.0.0 |250 2.0.0 ", 1, false},
		"LAST of nothing":          {chunk(len(hostileText), "", hostileText) + chunk(0, " LAST", ""), "250 2.0.0 |250 2.0.0 ", 1, false},
		"lower case":               {"bdat 3 last\r\nabc", "250 2.0.0 ", 1, false},
		"zeros before":             {"BDAT 0003 LAST\r\nabc", "250 2.0.0 ", 1, false},
		"behind LAST":              {whole + chunk(len(evil), " LAST", evil), "250 2.0.0 |503 5.5.1 ", 1, false},
		"RSET between":             {chunk(3, "", "abc") + "RSET\r\n" + chunk(len(evil), " LAST", evil), "250 2.0.0 |250 2.0.0 |503 5.5.1 ", 0, false},
		"NOOP between":             {chunk(3, "", "abc") + "NOOP\r\n" + chunk(2, " LAST", "\r\n"), "250 2.0.0 |250 2.0.0 |250 2.0.0 ", 1, false},
		"EHLO between":             {chunk(3, "", "abc") + "EHLO client.example\r\n" + chunk(len(evil), " LAST", evil), "250 2.0.0 |250|503 5.5.1 ", 0, false},
		"DATA behind BDAT":         {chunk(3, "", "abc") + "DATA\r\n" + chunk(2, " LAST", "\r\n"), "250 2.0.0 |503 5.5.1 |250 2.0.0 ", 1, false},
		"RCPT behind BDAT":         {chunk(3, "", "abc") + "RCPT TO:<c@example.org>\r\n" + chunk(2, " LAST", "\r\n"), "250 2.0.0 |503 5.5.1 |250 2.0.0 ", 1, false},
		"MAIL behind BDAT":         {chunk(3, "", "abc") + "MAIL FROM:<c@example.org>\r\n" + chunk(2, " LAST", "\r\n"), "250 2.0.0 |503 5.5.1 |250 2.0.0 ", 1, false},
		"STARTTLS behind BDAT":     {chunk(3, "", "abc") + "STARTTLS\r\n", "250 2.0.0 |502 5.5.1 ", 0, false},
		"a refused chunk":          {chunk(4, "", "a\nbc") + chunk(len(evil), " LAST", evil) + "DATA\r\nRCPT TO:<c@example.org>\r\n", "550 5.6.0 |503 5.5.1 |503 5.5.1 |503 5.5.1 ", 0, false},
		"too small a size":         {chunk(3, " LAST", "abcNOOP\r\n"), "250 2.0.0 |250 2.0.0 ", 1, false},
		"too small, and garbage":   {chunk(3, " LAST", "abcdef\r\n"), "250 2.0.0 |500 5.5.1 ", 1, false},
		"too large a size":         {chunk(len("abc\r\nNOOP\r\n"), " LAST", "abc\r\nNOOP\r\n"), "250 2.0.0 ", 1, false},
		"no size":                  {"BDAT\r\n" + evil, "501 5.5.4 ", 0, true},
		"no size but LAST":         {"BDAT LAST\r\n" + evil, "501 5.5.4 ", 0, true},
		"a negative size":          {"BDAT -1\r\n" + evil, "501 5.5.4 ", 0, true},
		"a signed size":            {"BDAT +3 LAST\r\nabc", "501 5.5.4 ", 0, true},
		"a hexadecimal size":       {"BDAT 0x3 LAST\r\nabc", "501 5.5.4 ", 0, true},
		"a size and a half":        {"BDAT 3.5 LAST\r\nabc", "501 5.5.4 ", 0, true},
		"a size too large":         {"BDAT 99999999999999999999999 LAST\r\n" + evil, "501 5.5.4 ", 0, true},
		"the largest size":         {fmt.Sprintf("BDAT %d LAST\r\n%s", math.MaxInt64, evil), "501 5.5.4 ", 0, true},
		"a word behind LAST":       {"BDAT 3 LAST now\r\nabc" + evil, "501 5.5.4 ", 0, true},
		"another word":             {"BDAT 3 FIRST\r\nabc" + evil, "501 5.5.4 ", 0, true},
		"a tab":                    {"BDAT\t3 LAST\r\nabc" + evil, "501 5.5.2 ", 0, true},
		"ended by LF":              {"BDAT 3 LAST\nabc" + evil, "500 5.5.2 ", 0, true},
		"a NUL":                    {"BDAT 3\x00 LAST\r\nabc" + evil, "500 5.5.2 ", 0, true},
		"an overlong line":         {"BDAT 3 " + strings.Repeat(" ", 3000) + "LAST\r\nabc" + evil, "500 5.5.2 ", 0, true},
		"a bare CR at the end":     {chunk(4, " LAST", "abc\r"), "550 5.6.0 ", 0, false},
		"a bare CR between chunks": {chunk(4, "", "abc\r") + chunk(4, " LAST", "def\n"), "250 2.0.0 |550 5.6.0 ", 0, false},
		"CR and LF in two chunks":  {chunk(4, "", "abc\r") + chunk(1, "", "\n") + chunk(0, " LAST", ""), "250 2.0.0 |250 2.0.0 |250 2.0.0 ", 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHostile(t, nil)
				c := h.greeted()
				c.talk(hostileMail, "250 | 250 ")
				c.raw(tt.say)
				for want := range strings.SplitSeq(tt.want, "|") {
					c.want(want)
				}
				synctest.Wait()
				for _, line := range h.heard() {
					if strings.Contains(line, "evil") {
						t.Errorf("the hop heard %q", line)
					}
				}
				if n := len(h.hop.Messages()); n != tt.messages {
					t.Errorf("the hop has %d messages, want %d", n, tt.messages)
				}
				if tt.closed {
					c.wantClosed()
					h.over()
					return
				}
				c.talk("RSET", "250 2.0.0 ", "EHLO client.example", "250")
				c.send()
				c.talk("QUIT", "221 ")
				h.over()
			})
		})
	}
}

// All recipients refused, and a chunk behind them in the same flight that looks
// like commands: not one of its octets is obeyed, wherever the flight is cut.
func TestHostileBdatBehindRefusedRcpt(t *testing.T) {
	for name, hop := range map[string]refpeer.Keywords{"modern": refpeer.Modern(), "lock step": {Pipelining: false}} {
		t.Run(name, func(t *testing.T) {
			octets := "\r\n.\r\nRCPT TO:<b@example.org>\r\nDATA\r\nQUIT\r\n"
			flight := "MAIL FROM:<a@client.example>\r\nRCPT TO:<no@example.org>\r\n" + fmt.Sprintf("BDAT 20\r\n%sBDAT %d LAST\r\n%s", octets[:20], len(octets)-20, octets[20:]) + "NOOP\r\n"
			for at := range len(flight) {
				synctest.Test(t, func(t *testing.T) {
					h := newHostile(t, &refpeer.Server{Keywords: hop, RcptReplies: map[string]string{"no@example.org": "550 5.1.1 no such user"}})
					c := h.greeted()
					c.raw(flight[:at])
					synctest.Wait()
					c.raw(flight[at:])
					for _, want := range []string{"250 ", "550 5.1.1 ", "554 5.5.1 ", "503 5.5.1 ", "250 2.0.0 ok"} {
						c.want(want)
					}
					c.talk("RSET", "250 2.0.0 ")
					h.wantMessages()
					for _, line := range h.heard() {
						if strings.Contains(line, "b@example.org") || line == "DATA" {
							t.Errorf("cut at %d: the hop heard %q", at, line)
						}
					}
					c.send()
					h.wantMessages(hostileText)
				})
			}
		})
	}
}

// A message over the limit is refused in step, however it comes.
func TestHostileSizes(t *testing.T) {
	const limit = 10000
	line := strings.Repeat("x", 98) + "\r\n"
	exact := strings.Repeat(line, limit/len(line))
	for name, tt := range map[string]struct {
		text string
		want string
	}{
		"at the limit":       {exact, "250 2.0.0 "},
		"one octet more":     {"y" + exact, "552 5.3.4 "},
		"twice":              {exact + exact, "552 5.3.4 "},
		"and a bare LF":      {exact + "x\ny\r\n", "550 5.6.0 "},
		"a bare LF and more": {"yyx\ny\r\n" + exact, "550 5.6.0 "},
		"with dots":          {strings.Repeat("."+line[1:], limit/len(line)), "250 2.0.0 "},
		"header at its end":  {strings.Repeat("X: "+line[3:], 50)[:5000-2] + "\r\n", "250 2.0.0 "},
		"header too large":   {strings.Repeat("X: "+line[3:], 51), "552 5.3.4 "},
		"header in one line": {"X: " + strings.Repeat("x", 5010) + "\r\n", "552 5.3.4 "},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHostile(t, nil, func(cfg *Config, _ *InboundConfig) {
					cfg.Limits.MaxMessageSize = limit
					cfg.Limits.MaxHeaderSize = 5000
				})
				text := tt.text
				if !strings.HasPrefix(name, "header") {
					text = "\r\n" + text[2:] // it has no header section
				}
				c := h.greeted()
				stuffed := strings.ReplaceAll("\r\n"+text, "\r\n.", "\r\n..")[2:]
				c.talk(hostileMail+"\r\nDATA", "250 | 250 | 354 ", stuffed+".", tt.want)
				c.raw(hostileMail + "\r\n" + fmt.Sprintf("BDAT %d LAST\r\n%s", len(text), text))
				c.want("250 ")
				c.want("250 ")
				c.want(tt.want)
				if tt.want[0] == '2' {
					h.wantMessages(text, text)
				} else {
					h.wantMessages()
					h.wantLog("message refused")
					if s := h.last(); s.Status != "bounced" || s.Reply.Code/100 != 5 {
						t.Errorf("summary: %+v", s)
					}
				}
				c.talk("MAIL FROM:<a@client.example> SIZE=10001\r\nRCPT TO:<b@example.org>\r\nDATA", "552 5.3.4 | 503 5.5.1 | 503 5.5.1 ",
					"MAIL FROM:<a@client.example> SIZE=99999999999999999999", "552 5.3.4 ", "RSET", "250 ")
				before := len(h.hop.Messages())
				c.send()
				c.talk("QUIT", "221 ")
				if n := len(h.hop.Messages()); n != before+1 {
					t.Errorf("the hop has %d messages, want %d", n, before+1)
				}
				h.over()
			})
		})
	}
}

// Chunks over the limit, and what follows them.
func TestHostileChunksOverLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHostile(t, nil, func(cfg *Config, _ *InboundConfig) { cfg.Limits.MaxMessageSize = 1000 })
		c := h.greeted()
		part := strings.Repeat("x", 598) + "\r\n"
		c.raw(hostileMail + "\r\nBDAT 600\r\n" + part + "BDAT 600\r\n" + part + "BDAT 600 LAST\r\n" + part)
		for _, want := range []string{"250 ", "250 ", "250 2.0.0 ", "552 5.3.4 ", "503 5.5.1 "} {
			c.want(want)
		}
		c.talk("RSET", "250 ")
		c.send()
		h.wantMessages(hostileText)
	})
}

// A text that goes on past every limit is cut off, not read for ever.
func TestHostileEndlessText(t *testing.T) {
	for name, before := range map[string]string{
		"header by DATA":   hostileMail + "\r\nDATA\r\n",
		"body by DATA":     hostileMail + "\r\nDATA\r\n\r\n",
		"chunk":            hostileMail + "\r\nBDAT 9000000000000000000 LAST\r\n",
		"chunk, no header": hostileMail + "\r\nBDAT 9000000000000000000 LAST\r\n\r\n",
		"refused chunk":    "BDAT 9000000000000000000 LAST\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHostile(t, nil, func(cfg *Config, _ *InboundConfig) { cfg.Limits.MaxMessageSize = 100000 })
				c := h.greeted()
				go func() { // ends with its connection
					_, _ = c.conn.Write([]byte(before))
					block := []byte(strings.Repeat("X: "+strings.Repeat("x", 95)+"\r\n", 100))
					sent := 0
					for {
						n, err := c.conn.Write(block)
						if sent += n; err != nil {
							break
						}
					}
					if most := overshoot*100000 + 2*lingerOctets + 2*netsim.DefaultWindow; sent > most {
						t.Errorf("took %d octets, want at most %d", sent, most)
					}
				}()
				c.wantLate("552 5.3.4 ")
				_ = c.rest()
				h.wantLog("session ended by us")
				h.wantMessages()
				h.resets.Store(0) // there is no other end for who never stops
				h.over()
			})
		})
	}
}

// Where bodies cannot be stored the sender is told to come again, in step, and
// what fits into memory still passes.
func TestHostileDiskFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHostile(t, nil, func(cfg *Config, _ *InboundConfig) {
			cfg.SpoolDir = filepath.Join(t.TempDir(), "gone")
			cfg.Limits.SpoolMemoryPerMessage = 1000
		})
		if _, err := os.Stat(h.cfg.SpoolDir); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("the spool directory exists: %v", err)
		}
		c := h.greeted()
		text := "Subject: x\r\n\r\n" + strings.Repeat("x\r\n", 1000)
		c.talk(hostileMail+"\r\nDATA", "250 | 250 | 354 ", text+".", "452 4.3.1 ")
		c.raw(hostileMail + "\r\n" + fmt.Sprintf("BDAT %d LAST\r\n%s", len(text), text))
		c.want("250 ")
		c.want("250 ")
		c.want("452 4.3.1 ")
		c.raw(hostileMail + "\r\n" + fmt.Sprintf("BDAT %d\r\n%sBDAT 0 LAST\r\n", len(text), text))
		c.want("250 ")
		c.want("250 ")
		c.want("452 4.3.1 ")
		c.want("503 5.5.1 ")
		if s := h.last(); s.Reply.Code != 452 {
			t.Errorf("summary: %+v", s)
		}
		c.talk("RSET", "250 ")
		h.wantMessages()
		h.wantLog("message refused")
		c.send()
		c.talk("QUIT", "221 ")
		h.wantMessages(hostileText)
		h.over()
	})
}

// A message that was in too many hands goes in circles.
func TestHostileLoop(t *testing.T) {
	field := "received: from a.example by b.example; Thu, 1 Jan 1970 00:00:00 +0000\r\n"
	for name, tt := range map[string]struct{ text, want string }{
		"as many as may be": {strings.Repeat(field, 50) + "\r\n", "250 2.0.0 "},
		"one more":          {strings.Repeat(field, 51) + "\r\n", "554 5.4.6 "},
		"in the body":       {"Subject: x\r\n\r\n" + strings.Repeat(field, 51), "250 2.0.0 "},
		"folded":            {strings.Repeat("Received:\r\n\tfrom a.example\r\n", 51) + "\r\n", "554 5.4.6 "},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHostile(t, nil)
				c := h.greeted()
				c.talk(hostileMail+"\r\nDATA", "250 | 250 | 354 ", tt.text+".", tt.want)
				if tt.want[0] == '5' {
					h.wantMessages()
					h.wantLog("message refused")
				} else {
					h.wantMessages(tt.text)
				}
				before := len(h.hop.Messages())
				c.send()
				if n := len(h.hop.Messages()); n != before+1 {
					t.Errorf("the hop has %d messages, want %d", n, before+1)
				}
			})
		})
	}
}

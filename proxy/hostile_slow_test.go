package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/netsim"
	"slipstream/bench/refpeer"
)

// finish is a FIN: the client says no more, and listens.
func (d *dialog) finish() {
	d.t.Helper()
	if err := d.conn.(*netsim.Conn).CloseWrite(); err != nil {
		d.t.Fatal(err)
	}
}

// A FIN behind what is complete takes nothing back, wherever it is cut: Exim
// sends all it has to say, QUIT and FIN in one segment, before the greeting.
func TestHostileHalfClose(t *testing.T) {
	chunk := fmt.Sprintf("BDAT %d LAST\r\n%s", len(hostileText), hostileText)
	for name, tt := range map[string]struct {
		flight  string // behind EHLO
		replies []string
	}{
		"behind QUIT":          {"QUIT\r\n", []string{"221 "}},
		"behind NOOP":          {"NOOP\r\n", []string{"250 "}},
		"behind BDAT":          {hostileMail + "\r\n" + chunk, []string{"250 ", "250 ", "250 2.0.0 "}},
		"behind BDAT and QUIT": {hostileMail + "\r\n" + chunk + "QUIT\r\n", []string{"250 ", "250 ", "250 2.0.0 ", "221 "}},
		"behind two messages":  {hostileMail + "\r\n" + chunk + hostileMail + "\r\n" + chunk, []string{"250 ", "250 ", "250 2.0.0 ", "250 ", "250 ", "250 2.0.0 "}},
	} {
		t.Run(name, func(t *testing.T) {
			flight := "EHLO client.example\r\n" + tt.flight
			for at := 0; at <= len(flight); at++ {
				synctest.Test(t, func(t *testing.T) {
					h := newHostile(t, nil)
					c := h.connect(h.at)
					c.raw(flight[:at])
					if at%2 == 0 {
						synctest.Wait() // half of the cuts are two reads, the others two segments
					}
					if at < len(flight) {
						c.raw(flight[at:])
					}
					c.finish()
					c.want("220 ")
					c.want("250")
					for _, want := range tt.replies {
						c.want(want)
					}
					c.wantClosed()
					if n := strings.Count(tt.flight, "BDAT"); len(h.hop.Messages()) != n {
						t.Errorf("cut at %d: the hop has %d messages, want %d", at, len(h.hop.Messages()), n)
					}
					h.over()
				})
			}
		})
	}
}

// The same where the text goes by DATA, for which the client must have listened.
func TestHostileHalfCloseBehindText(t *testing.T) {
	for _, quit := range []string{"", "QUIT\r\n"} {
		text := hostileText + ".\r\n" + quit
		for at := 0; at <= len(text); at++ {
			synctest.Test(t, func(t *testing.T) {
				h := newHostile(t, nil)
				c := h.greeted()
				c.talk(hostileMail+"\r\nDATA", "250 | 250 | 354 ")
				c.raw(text[:at])
				synctest.Wait()
				c.raw(text[at:])
				c.finish()
				c.want("250 2.0.0 ")
				if quit != "" {
					c.want("221 ")
				}
				c.wantClosed()
				h.wantMessages(hostileText)
				h.over()
			})
		}
	}
}

// A FIN before the end is the end of the message: no hop gets it, whatever was
// there by then.
func TestHostileCutShort(t *testing.T) {
	chunk := fmt.Sprintf("BDAT %d LAST\r\n%s", len(hostileText), hostileText)
	for name, flight := range map[string]string{
		"BDAT":     chunk,
		"two BDAT": "BDAT 5\r\nSubje" + fmt.Sprintf("BDAT %d LAST\r\n%s", len(hostileText)-5, hostileText[5:]),
		"DATA":     "DATA\r\n" + hostileText + ".\r\n",
	} {
		for _, reset := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/reset=%t", name, reset), func(t *testing.T) {
				for at := range len(flight) {
					synctest.Test(t, func(t *testing.T) {
						h := newHostile(t, nil)
						c := h.greeted()
						c.raw(hostileMail + "\r\n" + flight[:at])
						c.want("250 ")
						c.want("250 ")
						if reset {
							c.conn.(*netsim.Conn).Reset()
						} else {
							c.finish()
							if got := c.rest(); strings.Contains(got, "250 2.0.0 taken") {
								t.Errorf("cut at %d: heard %q", at, got)
							}
						}
						h.wantMessages()
						if n := len(h.hop.Refused()); n != 0 {
							t.Errorf("cut at %d: the hop saw the end of %d messages", at, n)
						}
						if s := h.last(); s.Status != "aborted" {
							t.Errorf("cut at %d: status %q", at, s.Status)
						}
						h.over()
					})
				}
			})
		}
	}
}

// drip sends octets one by one with a pause before each, until it is stopped.
func (d *dialog) drip(octets string, pause time.Duration, stop <-chan struct{}) {
	for _, b := range []byte(octets) {
		select {
		case <-time.After(pause):
		case <-stop:
			return
		}
		if _, err := d.conn.Write([]byte{b}); err != nil {
			return
		}
	}
}

// wantLate reads until a line begins in one of several ways, if need be for a day.
func (d *dialog) wantLate(prefixes ...string) string {
	d.t.Helper()
	_ = d.conn.SetReadDeadline(time.Now().Add(24 * time.Hour)) // virtual
	for {
		line, err := d.r.ReadString('\n')
		if err != nil {
			d.t.Fatalf("waiting for %q: %v", prefixes, err)
		}
		for _, prefix := range prefixes {
			if strings.HasPrefix(line, prefix) {
				return line
			}
		}
	}
}

// Slow clients are waited for as long as the standard asks, and no longer.
func TestHostileSlowWriters(t *testing.T) {
	const mail = hostileMail + "\r\nDATA\r\n"
	for name, tt := range map[string]struct {
		before string // in one segment
		drop   string // octet by octet
		pause  time.Duration
		want   string
		after  time.Duration // when it comes, from the first wait; 0: with the last drop
	}{
		"a command in time":         {"", "NOOP\r\n", 49 * time.Second, "250 2.0.0 ", 0},
		"a command in no time":      {"", "NOOP\r\n", 51 * time.Second, "421 4.4.2 ", 5 * time.Minute},
		"nothing":                   {"", "", 0, "421 4.4.2 ", 5 * time.Minute},
		"nothing behind MAIL":       {hostileMail + "\r\n", "", 0, "421 4.4.2 ", 5 * time.Minute},
		"text in time":              {mail, "Subject: x\r\n\r\n.\r\n", 50 * time.Second, "250 2.0.0 ", 0},
		"text at the last moment":   {mail, "S: x\r\n\r\n.\r\n", 179 * time.Second, "250 2.0.0 ", 0},
		"text too late":             {mail, "S", 0, "421 4.4.2 ", 3 * time.Minute},
		"text without end":          {mail, strings.Repeat("x", 72), 50 * time.Second, "421 4.4.2 ", time.Hour},
		"a chunk in time":           {hostileMail + "\r\nBDAT 10 LAST\r\n", "S: x\r\n\r\nab", 50 * time.Second, "250 2.0.0 ", 0},
		"a chunk too late":          {hostileMail + "\r\nBDAT 10 LAST\r\n", "S", 0, "421 4.4.2 ", 3 * time.Minute},
		"a chunk without end":       {hostileMail + "\r\nBDAT 100 LAST\r\n", strings.Repeat("x", 72), 50 * time.Second, "421 4.4.2 ", time.Hour},
		"a refused chunk, late":     {"BDAT 10 LAST\r\n", "S", 0, "421 4.4.2 ", 3 * time.Minute},
		"a refused chunk, endless":  {"BDAT 100 LAST\r\n", strings.Repeat("x", 72), 50 * time.Second, "421 4.4.2 ", time.Hour},
		"chunks without end":        {hostileMail + "\r\n", strings.Repeat("BDAT 1\r\nx", 80), 10 * time.Second, "421 4.4.2 ", time.Hour + 80*time.Second}, // from the first chunk on
		"long chunks without end":   {hostileMail + "\r\n", strings.Repeat("BDAT 30\r\n"+strings.Repeat("x", 30), 6), 20 * time.Second, "421 4.4.2 ", time.Hour + 180*time.Second},
		"an overlong line too late": {strings.Repeat("x", 5000), "", 0, "421 4.4.2 ", 5 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				// A hop's patience is not what this is about.
				h := newHostile(t, &refpeer.Server{Keywords: refpeer.Modern(), Idle: 3 * time.Hour})
				c := h.greeted()
				c.raw(tt.before)
				synctest.Wait()
				start := time.Now()
				stop := make(chan struct{})
				defer close(stop)
				go c.drip(tt.drop, tt.pause, stop)
				got := c.wantLate("421", tt.want)
				want := tt.after
				if want == 0 {
					want = time.Duration(len(tt.drop)) * tt.pause
				}
				if took := time.Since(start); !strings.HasPrefix(got, tt.want) || took != want {
					t.Errorf("heard %q after %v, want %q after %v", got, took, tt.want, want)
				}
				if strings.HasPrefix(tt.want, "421") {
					_ = c.rest()
					h.wantLog("session ended by us")
					h.wantMessages()
				}
				_ = c.conn.Close()
				h.over()
			})
		})
	}
}

// What comes before SMTP has its time, too.
func TestHostileSlowStart(t *testing.T) {
	for name, tt := range map[string]struct {
		proxied, implicit, starttls bool
		words                       string
		want                        time.Duration
	}{
		"PROXY header":           {proxied: true, want: proxyHeaderWait},
		"half of a PROXY header": {proxied: true, words: "\r\n\r\n\x00\r\nQUIT", want: proxyHeaderWait},
		"TLS on connect":         {implicit: true, want: 30 * time.Second},
		"half a ClientHello":     {implicit: true, words: "\x16\x03\x01\x01", want: 30 * time.Second},
		"STARTTLS":               {starttls: true, want: 30 * time.Second},
		"half behind STARTTLS":   {starttls: true, words: "\x16\x03\x01\x01", want: 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHostile(t, nil, hostileCert(t), func(_ *Config, in *InboundConfig) {
					if tt.implicit {
						in.Listen, in.ListenTLS = nil, in.Listen
					}
					if tt.proxied {
						in.ProxyProtocolFrom = Prefixes{clientNetwork(addrPort(&net.TCPAddr{IP: net.ParseIP(clientHost)}).Addr())}
					}
				})
				c := h.connect(h.at)
				if tt.starttls {
					c.want("220 ")
					c.talk("EHLO client.example", "250", "STARTTLS", "220 ")
				}
				c.raw(tt.words)
				start := time.Now()
				if got := c.rest(); strings.Contains(got, "220") || strings.Contains(got, "250") {
					t.Errorf("heard %q", got)
				}
				if took := time.Since(start); took != tt.want {
					t.Errorf("closed after %v, want %v", took, tt.want)
				}
				h.over()
			})
		})
	}
}

// A client that never reads its replies is left when they no longer go out.
func TestHostileSlowReader(t *testing.T) {
	for _, line := range []string{"NOOP\r\n", "FROB\r\n", "EHLO client.example\r\n", "RSET\r\n", "RCPT TO:<b@example.org>\r\n"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.net.Window = 4096
			h := &hostile{world: w, at: inboundAt, hop: &refpeer.Server{Keywords: refpeer.Modern()}}
			w.cfg.Limits.MaxBadCommands = 1 << 20
			h.serve(backendAddr, h.hop)
			h.inbound()
			h.watch()
			c := h.connect(h.at)
			start := time.Now()
			c.raw("EHLO client.example\r\nMAIL FROM:<a@client.example>\r\n")
			var err error
			for err == nil {
				_ = c.conn.SetWriteDeadline(time.Now().Add(time.Hour)) // virtual
				_, err = io.WriteString(c.conn, strings.Repeat(line, 20))
			}
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				t.Error("the client was never left")
			}
			if took := time.Since(start); took != h.cfg.Timeouts.ClientCommand {
				t.Errorf("left after %v, want %v", took, h.cfg.Timeouts.ClientCommand)
			}
			h.wantLog("could not answer the client")
			h.over()
		})
	}
}

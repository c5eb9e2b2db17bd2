package meter_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"slipstream/bench/meter"
)

// show writes a flight as one line: side, when it began and ended, when its first and last octet arrived, packets,
// octets, label.
func show(f meter.Flight) string {
	side, final := "C", ""
	if f.FromServer {
		side = "S"
	}
	if f.Final {
		final = " final"
	}
	return fmt.Sprintf("%s %s-%s %s-%s %dp %d %q%s", side, since(f.Start), since(f.End), since(f.Arrives),
		since(f.Complete),
		f.Packets, f.Octets, f.Label, final)
}

func since(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return fmt.Sprint(t.Sub(begin).Milliseconds())
}

// What is sent without hearing anything new is one flight, whatever the number of segments.
func TestFlights(t *testing.T) {
	for _, tt := range []struct {
		name         string
		turns        []turn
		since, until int
		want         []string
	}{
		{"a conversation", after(turn{150, 'S', "220 mx\r\n", ""}, turn{200, 'C', "EHLO c\r\n", ""},
			turn{250, 'S', "250-mx\r\n", ""}, turn{251, 'S', "250 CHUNKING\r\n", ""}, turn{300, 'C', "ACK", ""},
			turn{301, 'C', mailLine + rcptLine, ""}, turn{302, 'C', "BDAT 7 LAST\r\nhello\r\n", ""},
			turn{352, 'S', ok + ok + ok, ""}, turn{402, 'C', "QUIT\r\n", ""}, turn{402, 'C', "FIN", ""},
			turn{452, 'S', "221 bye\r\n", ""}, turn{452, 'S', "FIN", ""}), 0, 0, []string{
			`C 0-0 50-50 1p 0 "SYN"`,
			`S 50-50 100-100 1p 0 "SYN-ACK"`,
			`S 150-150 200-200 1p 8 "220"`,
			`C 200-200 250-250 1p 8 "EHLO"`,
			`S 250-251 300-301 2p 22 "250"`,
			`C 301-302 351-352 2p 74 "MAIL RCPT BDAT 7 octets"`,
			`S 352-352 402-402 1p 42 "250 250 250" final`,
			`C 402-402 452-452 1p 6 "QUIT"`,
			`S 452-452 502-502 1p 9 "221"`,
		}},
		{"a FIN in answer to a reply, and one in answer to that", after(turn{150, 'S', "421 no\r\n", ""},
			turn{200, 'C', "FIN", ""}, turn{201, 'C', "FIN", "again"}, turn{250, 'S', "FIN", ""}), 100, 0, []string{
			`S 150-150 200-200 1p 8 "421"`,
			`C 200-200 250-250 2p 0 "FIN"`,
			`S 250-250 300-300 1p 0 "FIN"`,
		}},
		{"nobody listens", []turn{{0, 'C', "SYN", ""}, {50, 'S', "RST", ""}}, 0, 0, []string{
			`C 0-0 50-50 1p 0 "SYN"`,
			`S 50-50 100-100 1p 0 "RST"`,
		}},
		{"nobody answers", []turn{{0, 'C', "SYN", "lost"}, {1000, 'C', "SYN+", "again"},
			{3000, 'C', "SYN", "again"}}, 0, 2,
			[]string{`C 0-0 1050-1050 3p 0 "SYN"`}},
		{"everything is lost", []turn{{0, 'C', "SYN", "lost"}}, 0, 0, []string{`C 0-0 never-never 1p 0 "SYN"`}},
		{"Fast Open", []turn{{0, 'C', "SYN+EHLO c\r\n" + flight, ""}, {50, 'S', "SYN", ""},
			{51, 'S', "220 mx\r\n" + ok + ok + ok + ok, ""}}, 0, 0, []string{
			`C 0-0 50-50 1p 82 "SYN EHLO MAIL RCPT BDAT 7 octets"`,
			`S 50-51 100-101 2p 64 "SYN-ACK 220 250 ×4" final`,
		}},
		{"Fast Open that is refused", []turn{{0, 'C', "SYN+EHLO c\r\n" + flight, ""}, {50, 'S', "SYN", ""},
			{100, 'C', "EHLO c\r\n" + flight, "again"}, {150, 'S', "220 mx\r\n" + ok + ok + ok + ok, ""}}, 0, 0,
			[]string{
				`C 0-0 50-50 1p 0 "SYN"`,
				`S 50-50 100-100 1p 0 "SYN-ACK"`,
				`C 100-100 150-150 1p 82 "EHLO MAIL RCPT BDAT 7 octets"`,
				`S 150-150 200-200 1p 64 "220 250 ×4" final`,
			}},
		{"part of the flight is lost", after(turn{150, 'S', "220 mx\r\n", ""}, turn{200, 'C', "HELO c\r\n", ""},
			turn{250, 'S', ok, ""}, turn{300, 'C', mailLine, ""}, turn{300, 'C', rcptLine, "lost"},
			turn{350, 'S', ok, ""}, turn{500, 'C', rcptLine, "again"}, turn{550, 'S', ok, ""},
			turn{600, 'C', "DATA\r\n", ""}), 300, 0, []string{
			`C 300-300 350-550 3p 54 "MAIL RCPT"`,
			`S 350-350 400-400 1p 14 "250"`,
			`S 550-550 600-600 1p 14 "250"`,
			`C 600-600 650-650 1p 6 "DATA"`,
		}},
		{"a text that goes on after the client heard something", after(turn{100, 'C',
			"EHLO c\r\n" + mailLine + rcptLine + "BDAT 3000 LAST\r\n" + strings.Repeat("x", 1000), ""},
			turn{150, 'S', "220 mx\r\n" + ok, ""}, turn{210, 'C', strings.Repeat("x", 1200), ""},
			turn{220, 'C', strings.Repeat("x", 800), ""}, turn{270, 'S', ok + ok + ok, ""}), 100, 0, []string{
			`C 100-100 150-150 1p 1078 "EHLO MAIL RCPT BDAT 1 KB"`,
			`S 150-150 200-200 1p 22 "220 250"`,
			`C 210-220 260-270 2p 2000 "text 2 KB"`,
			`S 270-270 320-320 1p 42 "250 250 250" final`,
		}},
		{"the second message", after(turn{150, 'S', "220 mx\r\n", ""}, turn{200, 'C', "EHLO c\r\n", ""},
			turn{250, 'S', ok, ""},
			turn{300, 'C', flight, ""}, turn{350, 'S', ok + ok + ok, ""}, turn{5000, 'C', flight, ""},
			turn{5050, 'S', ok + ok + ok, ""}, turn{5100, 'C', "QUIT\r\n", ""}), 5000, 5100, []string{
			`C 5000-5000 5050-5050 1p 74 "MAIL RCPT BDAT 7 octets"`,
			`S 5050-5050 5100-5100 1p 42 "250 250 250" final`,
		}},
		{"TLS 1.3 with another hello", after(turn{100, 'C', clientHello, ""},
			turn{150, 'S', helloOf(aes128of13, retryRandom, false) + record(change, 1), ""},
			turn{200, 'C', record(change, 1) + clientHello, ""},
			turn{250, 'S', helloOf(aes128of13, someRandom, false) + record(data, 900), ""},
			turn{300, 'C', record(data, 53) + record(data, 100), ""},
			turn{350, 'S', record(data, 200) + record(data, 60), ""},
			turn{400, 'C', record(data, 23) + record(data, 19), ""}),
			100, 0, []string{
				`C 100-100 150-150 1p 209 "ClientHello"`,
				`S 150-150 200-200 1p 65 "HelloRetryRequest"`,
				`C 200-200 250-250 1p 215 "ClientHello"`,
				`S 250-250 300-300 1p 964 "ServerHello…Finished"`,
				`C 300-300 350-350 1p 163 "Finished + 105 octets encrypted"`,
				`S 350-350 400-400 1p 270 "encrypted 270 octets" final`,
				`C 400-400 450-450 1p 52 "encrypted 28 octets + alert"`,
			}},
		{"TLS 1.2", after(turn{100, 'C', clientHello, ""},
			turn{150, 'S', helloOf(gcmOf12, someRandom, false) +
				recordOf(handshakes, handshake(11, strings.Repeat("c", 300))+handshake(12, "kkk")) +
				recordOf(handshakes, handshake(14, "")), ""},
			turn{200, 'C', recordOf(handshakes, handshake(16, "kkk")) + record(change, 1) + record(handshakes, 40), ""},
			turn{250, 'S', recordOf(handshakes, handshake(4, "ttt")) + record(change, 1) + record(handshakes, 40) +
				record(data, 50), ""},
			turn{300, 'C', record(data, 1200), ""}, turn{350, 'S', record(data, 60), ""},
			turn{400, 'C', record(alerting, 26), ""}),
			100, 0, []string{
				`C 100-100 150-150 1p 209 "ClientHello"`,
				`S 150-150 200-200 1p 378 "ServerHello Certificate…Done"`,
				`C 200-200 250-250 1p 63 "Finished"`,
				`S 250-250 300-300 1p 118 "Finished + 55 octets encrypted"`,
				`C 300-300 350-350 1p 1205 "encrypted 1.2 KB"`,
				`S 350-350 400-400 1p 65 "encrypted 65 octets" final`,
				`C 400-400 450-450 1p 31 "alert"`,
			}},
		{"what is no SMTP", after(turn{150, 'S', "SSH-2.0-OpenSSH_9.2p1\r\n", ""}, turn{200, 'C', "SSH-2.0-Go\r\n", ""},
			turn{250, 'S', "\x00", ""}), 100, 0, []string{
			`S 150-150 200-200 1p 23 "23 octets"`,
			`C 200-200 250-250 1p 12 "line"`,
			`S 250-250 300-300 1p 1 "1 octet"`,
		}},
		{"secrets are not told", after(turn{150, 'S', "220 mx\r\n", ""}, turn{200, 'C', "AUTH LOGIN\r\n", ""},
			turn{250, 'S', "334 a\r\n", ""}, turn{300, 'C', "hunter\r\n", ""}, turn{350, 'S', "334 b\r\n", ""},
			turn{400, 'C', "DATA\r\n", ""}, turn{450, 'S', "235 in\r\n", ""}), 200, 449, []string{
			`C 200-200 250-250 1p 12 "AUTH"`,
			`S 250-250 300-300 1p 7 "334"`,
			`C 300-300 350-350 1p 8 "line"`,
			`S 350-350 400-400 1p 7 "334"`,
			`C 400-400 450-450 1p 6 "line"`,
		}},
		{"a reply in two flights", after(turn{150, 'S', "220-mx\r\n", ""}, turn{200, 'C', "EHLO c\r\n", ""},
			turn{250, 'S', "220 mx\r\n", ""}), 100, 0, []string{
			`S 150-150 200-200 1p 8 "220"`,
			`C 200-200 250-250 1p 8 "EHLO"`,
			`S 250-250 300-300 1p 8 "…220"`,
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, f := range only(t, play(tt.turns...)).FlightsBetween(moment(tt.since), moment(tt.until)) {
				got = append(got, show(f))
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}

// A label says in few characters what a flight carries.
func TestLabels(t *testing.T) {
	for _, tt := range []struct {
		client, server string
		want           [2]string
	}{
		{mailLine + strings.Repeat(rcptLine, 100) + "DATA\r\n", strings.Repeat(ok, 101) + "354 go\r\n",
			[2]string{"MAIL RCPT×100 DATA", "250 ×101 354"}},
		{mailLine + rcptLine + "BDAT 1000\r\n" + strings.Repeat("x", 1000) + "BDAT 2000 LAST\r\n" +
			strings.Repeat("x", 2000),
			ok + ok + ok + ok, [2]string{"MAIL RCPT BDAT×2 2.9 KB", "250 250 250 250"}},
		{mailLine + rcptLine + "BDAT 5000000 LAST\r\n" + strings.Repeat("x", 5_000_000) + "QUIT\r\n",
			ok + ok + ok + ok + "221 x\r\n",
			[2]string{"MAIL RCPT BDAT 4.8 MB QUIT", "250 ×4 221"}},
		{"EHLO x\r\nSTARTTLS\r\nXCLIENT A=B\r\nVRFY x\r\nEXPN x\r\nNOOP\r\nHELP\r\nRSET\r\n",
			ok + "550 no\r\n" + ok + "550 no\r\n" +
				ok + "550 no\r\n" + ok + "550 no\r\n", [2]string{"EHLO STARTTLS XCLIENT VRFY EXPN NOOP …",
				"250 550 250 550 250 550 250 550"}},
		{"mail x\r\nGET / HTTP/1.0\r\n\r\n", "5xx no\r\n", [2]string{"MAIL line×2", "8 octets"}},
		{"BDAT -1\r\nBDAT x\r\nBDAT\r\n", "501\r\n501 no\r\n501\tno\r\n", [2]string{"BDAT×3", "501 501"}},
	} {
		c := only(t, play(after(turn{150, 'S', "220 mx\r\n", ""}, turn{200, 'C', tt.client, ""}, turn{250, 'S',
			tt.server, ""})...))
		flights := c.FlightsBetween(ms(200), time.Time{})
		for i, want := range tt.want {
			if len(flights) != 2 || flights[i].Label != want || utf8.RuneCountInString(want) > 40 {
				t.Errorf("%.40q: got %v, want %q", tt.client, flights, want)
			}
		}
	}
}

// A growth counts what the server has, as time goes by.
func TestGrowth(t *testing.T) {
	turns := after(turn{100, 'C', strings.Repeat("x", 100), ""}, turn{100, 'C', strings.Repeat("x", 50), ""},
		turn{110, 'C', strings.Repeat("x", 10), "lost"}, turn{120, 'C', strings.Repeat("x", 40), ""},
		turn{400, 'C', strings.Repeat("x", 50), "again"}, turn{500, 'C', strings.Repeat("x", 1000), ""},
		turn{600, 'C', "x", "lost"})
	c := only(t, play(turns...))
	points := func(pairs ...int) (all []meter.Point) {
		for i := 0; i < len(pairs); i += 2 {
			all = append(all, meter.Point{After: time.Duration(pairs[i]) * time.Millisecond, Octets: pairs[i+1]})
		}
		return all
	}
	if got, want := c.Growth(), points(150, 150, 450, 200, 550, 1200); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got, want := c.GrowthBetween(ms(300), time.Time{}), points(50, 1000); !slices.Equal(got, want) {
		t.Errorf("on the open connection: %v, want %v", got, want)
	}
	if got := c.GrowthBetween(ms(601), time.Time{}); len(got) > 0 {
		t.Errorf("since the end: %v", got)
	}

	turns = opening
	for i := range 1000 {
		turns = append(turns, turn{100 + i, 'C', "xy", ""})
	}
	long := only(t, play(turns...)).Growth()
	if first, last := long[0], long[len(long)-1]; len(long) != 200 || first.Octets != 2 || last.Octets != 2000 {
		t.Errorf("%d points from %v to %v, want 200 from 2 octets to 2000", len(long), first, last)
	}
	for i, p := range long[1:] {
		if p.After <= long[i].After || p.Octets <= long[i].Octets {
			t.Fatalf("%v behind %v", p, long[i])
		}
	}
}

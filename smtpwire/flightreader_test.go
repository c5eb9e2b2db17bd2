package smtpwire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"testing"
)

// verbs names the commands of a flight, "!" before those that are refused.
func verbs(cmds []Command) string {
	var names []string
	for _, c := range cmds {
		name := string(c.Verb)
		if !c.Refused.IsZero() {
			name = "!" + name
		}
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

func TestReadFlight(t *testing.T) {
	const envelope = "EHLO client.example\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\n"
	for _, tt := range []struct {
		in      string
		flights []string
		err     error
	}{
		{"", nil, io.EOF},
		{"NOOP\r\n", []string{"NOOP"}, io.EOF},
		{"NOOP\r\nNOO", []string{"NOOP"}, io.ErrUnexpectedEOF},
		{"NOOP\r", nil, io.ErrUnexpectedEOF},
		{envelope, []string{"EHLO MAIL RCPT"}, io.EOF},
		// What ends a flight.
		{envelope + "DATA\r\nNOOP\r\n", []string{"EHLO MAIL RCPT DATA", "NOOP"}, io.EOF},
		{envelope + "BDAT 6 LAST\r\nNOOP\r\n", []string{"EHLO MAIL RCPT BDAT", "NOOP"}, io.EOF},
		{"STARTTLS\r\nRSET\r\n", []string{"STARTTLS", "RSET"}, io.EOF},
		{"AUTH PLAIN\r\nNOOP\r\n", []string{"AUTH", "NOOP"}, io.EOF},
		{"RSET\r\nQUIT\r\nNOOP\r\n", []string{"RSET QUIT", "NOOP"}, io.EOF},
		{"XCLIENT ADDR=192.0.2.1\r\nNOOP\r\n", []string{"XCLIENT", "NOOP"}, io.EOF},
		// Refused for their form, and what follows is still in step.
		{"NOOP\nRSET\r\n", []string{"!NOOP RSET"}, io.EOF},
		{"\r\nNOOP\r\n", []string{"! NOOP"}, io.EOF},
		{"\nNOOP\r\n", []string{"! NOOP"}, io.EOF},
		{"NOOP\r\r\nRSET\r\n", []string{"!NOOP RSET"}, io.EOF},
		{"NOOP \rRSET\r\nRSET\r\n", []string{"!NOOP RSET"}, io.EOF},
		{"NOOP \x00\r\nRSET\r\n", []string{"!NOOP RSET"}, io.EOF},
		// A chunk may follow even so: the flight ends.
		{"BDAT 6\nNOOP\r\n", []string{"!BDAT", "NOOP"}, io.EOF},
		{"bdat 6 \x00\r\nNOOP\r\n", []string{"!BDAT", "NOOP"}, io.EOF},
		{"BDAT six\r\nNOOP\r\n", []string{"!BDAT", "NOOP"}, io.EOF},
		// Other protocols.
		{"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n", []string{"!"}, io.EOF},
		{"GET / HTTP/1.1\r\nHost: mx.example.org\r\n\r\n", []string{"! ! !"}, io.EOF},
		{"\r\n\r\n\x00\r\nQUIT\nNOOP\r\n", []string{"! ! ! !QUIT", "NOOP"}, io.EOF},
	} {
		r := NewReader(strings.NewReader(tt.in))
		var flights []string
		for {
			cmds, err := r.ReadFlight(nil)
			if err != nil {
				if err != tt.err || len(cmds) > 0 {
					t.Errorf("%q: %v with %d commands, want %v", tt.in, err, len(cmds), tt.err)
				}
				break
			}
			flights = append(flights, verbs(cmds))
			for _, c := range cmds {
				if !c.Refused.IsZero() && c.Refused.Code/100 != 5 {
					t.Errorf("%q: refused with %v", tt.in, c.Refused)
				}
			}
		}
		if !reflect.DeepEqual(flights, tt.flights) {
			t.Errorf("%q: flights %q, want %q", tt.in, flights, tt.flights)
		}
	}
}

func TestReadFlightWaitsForOneLineOnly(t *testing.T) {
	r := NewReader(&script{reads: []string{"NOOP\r\nRS", "ET\r\nNOOP\r\n"}})
	for _, want := range []string{"NOOP", "RSET NOOP"} {
		if cmds, err := r.ReadFlight(nil); verbs(cmds) != want || err != nil {
			t.Errorf("%q, %v; want %q", verbs(cmds), err, want)
		}
	}
}

func TestReadFlightAppends(t *testing.T) {
	dst := []Command{{Verb: VerbRset}}
	r := NewReader(strings.NewReader("NOOP\r\n"))
	dst, err := r.ReadFlight(dst)
	if verbs(dst) != "RSET NOOP" || err != nil {
		t.Errorf("%q, %v", verbs(dst), err)
	}
	if dst, err = r.ReadFlight(dst); verbs(dst) != "RSET NOOP" || err != io.EOF {
		t.Errorf("%q, %v", verbs(dst), err)
	}
}

func TestReadFlightLimit(t *testing.T) {
	r := NewReader(strings.NewReader(strings.Repeat("NOOP\r\n", MaxFlight+3)))
	for _, want := range []int{MaxFlight, 3} {
		if cmds, err := r.ReadFlight(nil); len(cmds) != want || err != nil {
			t.Errorf("%d commands, %v; want %d", len(cmds), err, want)
		}
	}
}

// A line of n octets, CRLF included.
func lineOf(n int) string {
	return "NOOP " + strings.Repeat("x", n-7) + "\r\n"
}

func TestReadFlightLongLines(t *testing.T) {
	for _, tt := range []struct {
		octets  int
		refused bool
		err     error
	}{
		{MaxCommandLine - 1, false, nil},
		{MaxCommandLine, false, nil},
		{MaxCommandLine + 1, true, nil},
		{lineBuffer - 1, true, nil},
		{lineBuffer, true, nil},
		{lineBuffer + 1, true, nil},
		{MaxOverlongLine - 1, true, nil},
		{MaxOverlongLine, true, nil},
		{MaxOverlongLine + 1, false, ErrFlood},
		{2 * MaxOverlongLine, false, ErrFlood},
	} {
		for how, sizes := range splittings {
			r := NewReader(&pieces{text: []byte(lineOf(tt.octets) + "RSET\r\n"), sizes: sizes})
			cmds, err := r.ReadFlight(nil)
			if err != tt.err {
				t.Fatalf("%d octets, %s: %v, want %v", tt.octets, how, err, tt.err)
			}
			if err != nil {
				if _, err := r.ReadFlight(nil); err != tt.err {
					t.Errorf("%d octets, %s: then %v, want %v again", tt.octets, how, err, tt.err)
				}
				continue
			}
			if got := cmds[0]; got.Verb != VerbNoop || got.Refused.IsZero() == tt.refused {
				t.Errorf("%d octets, %s: %v %v", tt.octets, how, got.Verb, got.Refused)
			}
			if tt.refused && !reflect.DeepEqual(cmds[0].Refused, NewReply(500, "5.5.2", "line too long")) {
				t.Errorf("%d octets, %s: %v", tt.octets, how, cmds[0].Refused)
			}
			if len(cmds) == 1 {
				cmds, err = r.ReadFlight(cmds)
			}
			if verbs(cmds[1:]) != "RSET" || err != nil {
				t.Errorf("%d octets, %s: behind it %q, %v", tt.octets, how, verbs(cmds[1:]), err)
			}
		}
	}
}

// A deadline inside an overlong line must not turn its rest into a command.
func TestReadFlightDeadlineInOverlongLine(t *testing.T) {
	src := &script{
		reads: []string{"BDAT " + strings.Repeat("x", MaxCommandLine), "", "RCPT TO:<a@b>\r\nNOOP\r\n"},
		err:   os.ErrDeadlineExceeded,
	}
	r := NewReader(src)
	if cmds, err := r.ReadFlight(nil); !errors.Is(err, os.ErrDeadlineExceeded) || len(cmds) != 0 {
		t.Fatalf("%q, %v; want a deadline", verbs(cmds), err)
	}
	for _, want := range []string{"!BDAT", "NOOP"} {
		if cmds, err := r.ReadFlight(nil); verbs(cmds) != want || err != nil {
			t.Errorf("%q, %v; want %q", verbs(cmds), err, want)
		}
	}
}

func TestReadFlightEndInOverlongLine(t *testing.T) {
	r := NewReader(strings.NewReader(strings.Repeat("x", 3*MaxCommandLine)))
	if cmds, err := r.ReadFlight(nil); err != io.ErrUnexpectedEOF {
		t.Errorf("%q, %v; want %v", verbs(cmds), err, io.ErrUnexpectedEOF)
	}
}

// modelFlight is ReadFlight by another way: all lines of a whole input, and
// the error behind them.
func modelFlight(in []byte) (cmds []Command, err error) {
	for len(in) > 0 {
		i := bytes.IndexByte(in, '\n')
		if i+1 > MaxOverlongLine || i < 0 && len(in) >= MaxOverlongLine {
			return cmds, ErrFlood
		}
		if i < 0 {
			return cmds, io.ErrUnexpectedEOF
		}
		line := in[:i+1]
		in = in[i+1:]
		switch verb := lineVerb(line); {
		case verb == VerbAuth && len(line) > MaxAuthLine:
			cmds = append(cmds, Command{Verb: verb, Refused: authTooLong()})
			continue
		case verb != VerbAuth && len(line) > MaxCommandLine:
			cmds = append(cmds, refuseLine(verb, "line too long"))
			continue
		}
		cmds = append(cmds, lineCommand(line))
	}
	return cmds, io.EOF
}

func allFlights(src io.Reader) (cmds []Command, err error) {
	r := NewReader(src)
	for {
		before := len(cmds)
		if cmds, err = r.ReadFlight(cmds); err != nil {
			return cmds, err
		}
		if n := len(cmds) - before; n < 1 || n > MaxFlight {
			return cmds, fmt.Errorf("flight of %d commands", n)
		}
		for _, c := range cmds[before : len(cmds)-1] {
			if endsFlight(c.Verb) {
				return cmds, fmt.Errorf("%s inside a flight", c.Verb)
			}
		}
	}
}

// The flood has its own test: its inputs are too long to be worth mutating.
func FuzzReadFlight(f *testing.F) {
	for _, in := range []string{
		"EHLO a\r\nMAIL FROM:<a@b> SIZE=3\r\nRCPT TO:<c@d>\r\nBDAT 3 LAST\r\nabcQUIT\r\n",
		"NOOP\nRSET\r\n\r\n\r\r\n\x00\r\nEHLO\r",
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n",
		lineOf(MaxCommandLine) + lineOf(MaxCommandLine+1) + lineOf(lineBuffer+1) + "QUIT\r\n",
		strings.Repeat("\n", 300),
		"AUTH PLAIN " + lineOf(MaxCommandLine) + "auth " + lineOf(MaxAuthLine) + "AUTH X =\r\nNOOP\r\n",
	} {
		f.Add([]byte(in), []byte{1, 0, 7, 255})
		f.Add([]byte(in), []byte(nil))
	}
	f.Fuzz(func(t *testing.T, in, sizes []byte) {
		want, wantErr := modelFlight(in)
		got, err := allFlights(&pieces{text: bytes.Clone(in), sizes: sizes})
		if err != wantErr {
			t.Fatalf("%v, want %v", err, wantErr)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%q, want %q", verbs(got), verbs(want))
		}
	})
}

func BenchmarkReadFlight(b *testing.B) {
	in := []byte("EHLO client.example.org\r\nMAIL FROM:<alice@example.org> SIZE=1024 BODY=8BITMIME\r\n" +
		"RCPT TO:<bob@example.net>\r\nRCPT TO:<carol@example.net>\r\nDATA\r\n")
	src := bytes.NewReader(in)
	r := NewReader(src)
	var cmds []Command
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		src.Reset(in)
		var err error
		if cmds, err = r.ReadFlight(cmds[:0]); err != nil || len(cmds) != 5 {
			b.Fatal(len(cmds), err)
		}
	}
}

// A line that can be had without waiting is one that is here whole.
func TestHasLine(t *testing.T) {
	for _, tt := range []struct {
		octets string
		want   bool
	}{{"", false}, {"EHLO x\r", false}, {"EHLO x\r\n", true}, {"EHLO x\r\nMAIL", true}} {
		r := NewReader(strings.NewReader(tt.octets))
		if r.HasLine() {
			t.Errorf("%q: a line before anything was read", tt.octets)
		}
		_, _ = r.Poll() // io.EOF where there is nothing
		if got := r.HasLine(); got != tt.want {
			t.Errorf("%q: %t, want %t", tt.octets, got, tt.want)
		}
		if flight, err := r.ReadFlight(nil); tt.want && (err != nil || len(flight) != 1) {
			t.Errorf("%q: %v, %v behind it", tt.octets, flight, err)
		}
	}
}

package smtpwire

import (
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestSequenceZeroValue(t *testing.T) {
	var s Sequence
	if s.Greeted() || s.InMail() || s.Chunking() || s.Rcpts() != 0 {
		t.Fatalf("a new Sequence is %+v", s)
	}
	if refusal, ok := s.Check(Command{Verb: VerbMail}); ok || refusal.Code != 503 {
		t.Errorf("MAIL before EHLO: %v, %v", refusal, ok)
	}
	if refusal, ok := s.Check(Command{Verb: VerbNoop}); !ok || !refusal.IsZero() {
		t.Errorf("NOOP before EHLO: %v, %v", refusal, ok)
	}
}

// What could not be parsed is answered as the parser says, whatever the order.
func TestSequenceRefusedWins(t *testing.T) {
	s := inMail(t, Sequence{MaxRcpts: 1}, 1)
	want := NewReply(501, "5.5.4", "RCPT: bad")
	if got, ok := s.Check(Command{Verb: VerbRcpt, Refused: want}); ok || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v; want %v", got, ok, want)
	}
}

// Secured forgets everything but what the door configured.
func TestSequenceSecured(t *testing.T) {
	s := inMail(t, Sequence{MaxRcpts: 7}, 2)
	s.Secured()
	if want := (Sequence{MaxRcpts: 7, secured: true}); !reflect.DeepEqual(*s, want) {
		t.Errorf("left over: %+v", *s)
	}
}

// A caller that answers what Check refused does not lose the transaction.
func TestSequenceAnsweredRefusal(t *testing.T) {
	s := inMail(t, Sequence{}, 1)
	for _, c := range []Command{
		{Verb: VerbMail}, {Verb: VerbStarttls}, {Verb: VerbLhlo, Arg: "x"}, {Verb: VerbAuth},
		{Verb: VerbRcpt, Params: Params{{Name: "FROB", Value: "1"}}},
	} {
		refusal, ok := s.Check(c)
		if ok {
			t.Fatalf("%s passed", c.Verb)
		}
		s.Answered(c, refusal)
		if !s.InMail() || s.Rcpts() != 1 || !s.Greeted() {
			t.Fatalf("%s, refused with %v, moved the state: %+v", c.Verb, refusal, *s)
		}
	}
	if refusal, ok := s.Check(Command{Verb: VerbData}); !ok {
		t.Errorf("DATA: %v", refusal)
	}
}

// A refused chunk is missing from the message even if what seemed to end the
// transaction in between is refused itself.
func TestSequenceHole(t *testing.T) {
	s := inMail(t, Sequence{}, 1)
	s.Offered(NewEHLO("us.example", Param{Name: "CHUNKING"}))
	ehlo := Command{Verb: VerbEhlo, Arg: "client.example"}
	if refusal, ok := s.Check(ehlo); !ok {
		t.Fatal(refusal)
	}
	if _, ok := s.Check(Command{Verb: VerbBdat, Size: 100}); ok {
		t.Fatal("BDAT passed behind an EHLO without an answer")
	}
	s.Answered(ehlo, NewReply(421, "4.3.2", "not now"))
	if s.Rcpts() != 1 {
		t.Fatalf("%d recipients are left", s.Rcpts())
	}
	if refusal, ok := s.Check(Command{Verb: VerbBdat, Size: 20, Last: true}); ok || refusal.Code != 503 {
		t.Errorf("the rest of a message without its beginning: %v, %v", refusal, ok)
	}
}

// One recipient who was accepted is enough for DATA, even if others of the same
// flight have no answer yet.
func TestSequencePartlyAnswered(t *testing.T) {
	s := inMail(t, Sequence{}, 1)
	flight := []Command{{Verb: VerbRcpt}, {Verb: VerbRcpt}, {Verb: VerbRset}, {Verb: VerbMail}, {Verb: VerbRcpt}, {Verb: VerbRcpt}}
	for _, c := range flight {
		if refusal, ok := s.Check(c); !ok {
			t.Fatalf("%s: %v", c.Verb, refusal)
		}
	}
	for i, c := range flight {
		refusal, ok := s.Check(Command{Verb: VerbData})
		if want := i > 4; ok != want { // RSET, MAIL and one RCPT behind them
			t.Fatalf("with %d of the flight answered, DATA passed is %v: %v", i, ok, refusal)
		}
		if ok {
			return
		}
		s.Answered(c, NewReply(250, "2.0.0", "ok"))
	}
}

// Recipients without an answer count against the limit, also when others of their
// flight have one.
func TestSequenceMaxRcptsPartlyAnswered(t *testing.T) {
	s := inMail(t, Sequence{MaxRcpts: 2}, 0)
	rcpt := Command{Verb: VerbRcpt}
	for range 2 {
		if refusal, ok := s.Check(rcpt); !ok {
			t.Fatal(refusal)
		}
	}
	s.Answered(rcpt, NewReply(250, "2.1.5", "ok"))
	if _, ok := s.Check(rcpt); ok {
		t.Error("a third RCPT passed while the second had no answer")
	}
	s.Answered(rcpt, NewReply(550, "5.1.1", "no such user"))
	if refusal, ok := s.Check(rcpt); !ok {
		t.Errorf("a second RCPT in place of the refused one: %v", refusal)
	}
}

// inMail returns a Sequence that stands in a transaction with n recipients.
func inMail(t *testing.T, s Sequence, n int) *Sequence {
	t.Helper()
	cmds := []Command{{Verb: VerbEhlo, Arg: "client.example"}, {Verb: VerbMail}}
	for range n {
		cmds = append(cmds, Command{Verb: VerbRcpt, Path: Path{Local: "b", Domain: "b.example"}})
	}
	for _, c := range cmds {
		if refusal, ok := s.Check(c); !ok {
			t.Fatalf("%s: %v", c.Verb, refusal)
		}
		s.Answered(c, NewReply(250, "2.0.0", "ok"))
	}
	return &s
}

func TestSequenceProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { checkSequence(t, drawChoices(t)) })
}

func FuzzSequence(f *testing.F) {
	addChoices(f)
	f.Fuzz(func(t *testing.T, b []byte) { checkSequence(t, choices(b[:min(len(b), 1000)])) })
}

// checkSequence sends flights of any commands, answers what passed in any way, and
// holds each step against sequenceModel.
func checkSequence(t rapid.TB, c choices) {
	t.Helper()
	commands := saidCommands()
	m := &sequenceModel{Sequence: Sequence{LMTP: c.pick(2) == 1, MaxRcpts: c.pick(4)}}
	m.lmtp = m.LMTP
	for len(c) > 0 {
		switch c.pick(8) {
		default:
			m.say(t, oneOf(&c, commands))
		case 3, 4, 5:
			m.answer(&c)
		case 6:
			for len(m.unanswered) > 0 {
				m.answer(&c)
			}
		case 7:
			if len(m.unanswered) == 0 && c.pick(8) == 0 {
				m.Secured()
				m.log, m.offered, m.tls = nil, EHLO{}, true
			}
		}
		m.compare(t)
	}
}

func saidCommands() []Command {
	lines := "EHLO x|EHLO x|LHLO x|LHLO x|HELO x|MAIL FROM:<a@a.example>|MAIL FROM:<a@a.example>|MAIL FROM:<> BODY=BINARYMIME|" +
		"RCPT TO:<b@b.example>|RCPT TO:<b@b.example>|RCPT TO:<b@b.example>|RCPT TO:<b@b.example> FROB=1|RCPT TO:|DATA|DATA|BDAT 3|BDAT 3|BDAT 3 LAST|" +
		"RSET|NOOP|QUIT|VRFY b|HELP|STARTTLS|AUTH PLAIN|EXPN b|FROB"
	var cmds []Command
	for line := range strings.SplitSeq(lines, "|") {
		cmds = append(cmds, ParseCommand([]byte(line)))
	}
	return append(cmds, Command{Verb: VerbEndOfData})
}

// sequenceModel judges from the whole history instead of from a state.
type sequenceModel struct {
	Sequence
	model

	unanswered []Command
}

type model struct {
	lmtp, tls bool
	offered   EHLO   // by us
	log       []said // answered, in order
	missing   bool   // Check refused a BDAT of this transaction
}

type said struct {
	command Command
	code    int
}

// since returns what was answered since the transaction began, nil if none is
// open; the first of it is MAIL.
func (m *model) since() []said {
	var open []said
	for _, s := range m.log {
		ok := s.code/100 == 2
		switch c := s.command; {
		case ok && (isHello(c) || c.Verb == VerbHelo || c.Verb == VerbRset):
			open = nil
		case c.Verb == VerbEndOfData, c.Verb == VerbBdat && c.Last:
			open = nil
		case c.Verb == VerbMail && ok:
			open = []said{s}
		case open != nil:
			open = append(open, s)
		}
	}
	return open
}

func (m *model) greeted() bool {
	for _, s := range m.log {
		if (isHello(s.command) || s.command.Verb == VerbHelo) && s.code/100 == 2 {
			return true
		}
	}
	return false
}

// count returns how many commands of the verb have an answer of the class.
func count(log []said, v Verb, class int) int {
	n := 0
	for _, s := range log {
		if s.command.Verb == v && s.code/100 == class {
			n++
		}
	}
	return n
}

// lockStep says how c is to be answered when nothing is unanswered: 0 if it
// passes, -1 if the parameters decide.
func (m *sequenceModel) lockStep(c Command) int {
	open := m.since()
	accepted := count(open, VerbRcpt, 2)
	broken := m.missing || count(open, VerbBdat, 4)+count(open, VerbBdat, 5) > 0
	begun := broken || count(open, VerbBdat, 2) > 0
	switch {
	case c.Refused.Code != 0:
		return c.Refused.Code
	case c.Verb == VerbEndOfData:
		if len(open) == 0 || count(open, VerbData, 3) == 0 {
			return 503
		}
		return 0
	case isHello(c) || c.Verb == VerbHelo:
		if (c.Verb == VerbLhlo) != m.lmtp {
			return 500
		}
		return 0
	case c.Verb == VerbNoop, c.Verb == VerbHelp, c.Verb == VerbVrfy, c.Verb == VerbRset, c.Verb == VerbQuit:
		return 0
	case c.Verb == VerbStarttls && m.tls:
		return 503
	case c.Verb == VerbStarttls && m.offered.Has("STARTTLS"):
		if open != nil {
			return 503
		}
		return 0
	case c.Verb == VerbStarttls, c.Verb == VerbAuth, c.Verb == VerbExpn:
		return 502
	case !m.greeted():
		return 503
	case c.Verb == VerbMail:
		if open != nil {
			return 503
		}
		return -1
	case c.Verb == VerbBdat && (!m.offered.Has("CHUNKING") || broken), open == nil:
		return 503
	case c.Verb == VerbRcpt && begun, c.Verb == VerbData && begun:
		return 503
	case c.Verb == VerbRcpt && m.MaxRcpts > 0 && accepted >= m.MaxRcpts:
		return 452
	case c.Verb == VerbRcpt:
		return -1
	case c.Verb == VerbData && strings.HasSuffix(string(open[0].command.AppendTo(nil)), "BINARYMIME\r\n"):
		return 503
	case accepted > 0:
		return 0
	}
	return -1 // 503 or 554, see the transcripts
}

// say checks a command, and what must hold of any refusal and any pass.
func (m *sequenceModel) say(t rapid.TB, c Command) {
	t.Helper()
	before := m.Sequence
	refusal, ok := m.Check(c)
	if want := m.lockStep(c); len(m.unanswered) == 0 && want >= 0 && want != refusal.Code {
		t.Fatalf("%s is answered %d, want %d", c.Verb, refusal.Code, want)
	}
	if !ok {
		before.tried, before.hole = m.tried, m.hole
		m.missing = m.missing || c.Verb == VerbBdat
		if _, enhanced := refusal.Enhanced(); !enhanced || refusal.Class() < 4 || !reflect.DeepEqual(before, m.Sequence) {
			t.Fatalf("%s: %v moved %+v to %+v", c.Verb, refusal, before, m.Sequence)
		}
		return
	}
	if !refusal.IsZero() {
		t.Fatalf("%s passed, with %v", c.Verb, refusal)
	}
	if c.Verb == VerbMail {
		m.missing = false
	}
	if c.Verb == VerbData || c.Verb == VerbBdat {
		if count(m.since(), VerbRcpt, 2) == 0 {
			t.Fatalf("%s passed without an accepted recipient", c.Verb)
		}
		for _, u := range m.unanswered {
			if u.Verb == VerbMail || u.Verb == VerbRset || isHello(u) || u.Verb == VerbHelo {
				t.Fatalf("%s passed before %s was answered", c.Verb, u.Verb)
			}
		}
	}
	m.unanswered = append(m.unanswered, c)
}

// answer answers what was said first.
func (m *sequenceModel) answer(ch *choices) {
	if len(m.unanswered) == 0 {
		return
	}
	c := m.unanswered[0]
	m.unanswered = m.unanswered[1:]
	code := oneOf(ch, []int{250, 250, 250, 250, 451, 550})
	if c.Verb == VerbData && code == 250 {
		code = 354
	}
	if isHello(c) && code == 250 {
		m.offered = ParseEHLO(oneOf(ch, []Reply{
			ehloReply("us.example", "PIPELINING"),
			ehloReply("us.example", "CHUNKING", "BINARYMIME"),
			ehloReply("us.example", "CHUNKING", "STARTTLS"),
		}))
		m.Offered(m.offered)
	}
	if c.Verb == VerbHelo && code == 250 {
		m.offered = EHLO{}
	}
	m.Answered(c, NewReply(code, "", "x"))
	m.log = append(m.log, said{c, code})
}

// compare holds what the Sequence says of itself against the history.
func (m *sequenceModel) compare(t rapid.TB) {
	t.Helper()
	open := m.since()
	if got, want := m.InMail(), open != nil; got != want {
		t.Fatalf("InMail is %v", got)
	}
	if got, want := m.Rcpts(), count(open, VerbRcpt, 2); got != want {
		t.Fatalf("Rcpts is %d, want %d", got, want)
	}
	if got, want := m.Chunking(), count(open, VerbBdat, 2) > 0; got != want {
		t.Fatalf("Chunking is %v", got)
	}
	if got, want := m.Greeted(), m.greeted(); got != want {
		t.Fatalf("Greeted is %v", got)
	}
}

package smtpwire

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func ExamplePipeline() {
	known := NewEHLO("mx.example", Param{Name: "PIPELINING"}, Param{Name: "PIPECONNECT"})
	for _, known := range []EHLO{{}, known} {
		p := NewPipeline(known, false)
		p.Queue(
			ParseCommand([]byte("EHLO me.example")),
			ParseCommand([]byte("MAIL FROM:<a@a.example>")),
			ParseCommand([]byte("RCPT TO:<b@b.example>")),
			ParseCommand([]byte("DATA")),
		)
		fmt.Println(len(p.Flight()), "commands leave before the greeting")
	}
	// Output:
	// 0 commands leave before the greeting
	// 4 commands leave before the greeting
}

func ehloReply(host string, keywords ...string) Reply {
	return Reply{Code: 250, Lines: append([]string{host}, keywords...)}
}

// mustAnswer hands r to p, which must have waited for it.
func mustAnswer(t *testing.T, p *Pipeline, r Reply) Answer {
	t.Helper()
	a, err := p.Answer(r)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestPipelineZeroValue(t *testing.T) {
	var p Pipeline
	if f := p.Flight(); f != nil || p.Waiting() != 1 || p.Unsent() != 0 || p.Confirmed() || p.Early() || !p.EHLO().IsZero() {
		t.Fatalf("a new Pipeline sends%s, waits for %d replies, offers %v", wire(f), p.Waiting(), p.EHLO())
	}
	p.Queue(Command{Verb: VerbEhlo, Arg: "me.example"})
	if f := p.Flight(); f != nil {
		t.Fatalf("before the greeting left%s", wire(f))
	}
	a := mustAnswer(t, &p, NewReply(220, "", "mx.example"))
	if a.Command.Verb != "" || !a.Last || a.Changed || a.Index != 0 || a.Reply.Code != 220 {
		t.Errorf("the greeting answers %+v", a)
	}
	if f := p.Flight(); len(f) != 1 {
		t.Fatalf("behind the greeting left%s, want EHLO", wire(f))
	}
}

func TestPipelineUnaskedReply(t *testing.T) {
	p := NewPipeline(EHLO{}, true)
	_, err := p.Answer(NewReply(421, "4.3.2", "shutting down"))
	var unasked *UnaskedError
	if !errors.As(err, &unasked) || unasked.Reply.Code != 421 {
		t.Fatalf("err is %v, want an *UnaskedError with the reply", err)
	}
	if !strings.Contains(err.Error(), "421 4.3.2 shutting down") {
		t.Errorf("%q does not quote the reply", err)
	}
}

// What is forwarded about a client travels with the MAIL that it is about, to who takes groups.
func TestPipelineXforward(t *testing.T) {
	for _, tt := range []struct {
		keywords []string
		want     int
	}{{[]string{"PIPELINING", "XFORWARD ADDR"}, 4}, {[]string{"XFORWARD ADDR"}, 1}} {
		p := NewPipeline(EHLO{}, true)
		p.Queue(Command{Verb: VerbEhlo, Arg: "me.example"})
		p.Flight()
		mustAnswer(t, p, ehloReply("mx.example", tt.keywords...))
		for _, line := range []string{"RSET", "XFORWARD ADDR=192.0.2.1", "XFORWARD HELO=a", "MAIL FROM:<a@b.example>"} {
			p.Queue(ParseCommand([]byte(line)))
		}
		if f := p.Flight(); len(f) != tt.want {
			t.Errorf("%q: %d commands left, want %d", tt.keywords, len(f), tt.want)
		}
	}
}

// A Pipeline never leaves more than MaxOutstanding commands unanswered.
func TestPipelineMaxOutstanding(t *testing.T) {
	p := NewPipeline(EHLO{}, true)
	p.Queue(Command{Verb: VerbEhlo, Arg: "me.example"})
	p.Flight()
	mustAnswer(t, p, ehloReply("mx.example", "PIPELINING"))
	for range MaxOutstanding + 50 {
		p.Queue(Command{Verb: VerbRcpt, Path: Path{Local: "b", Domain: "b.example"}})
	}
	if n := len(p.Flight()); n != MaxOutstanding {
		t.Fatalf("%d commands left at once, want %d", n, MaxOutstanding)
	}
	if f := p.Flight(); f != nil {
		t.Fatalf("with %d outstanding left%s", p.Waiting(), wire(f))
	}
	for range 30 {
		mustAnswer(t, p, NewReply(250, "", "ok"))
	}
	if n := len(p.Flight()); n != 30 {
		t.Fatalf("30 answers made room for %d commands", n)
	}
	if p.Waiting() != MaxOutstanding || p.Unsent() != 20 {
		t.Fatalf("%d outstanding and %d unsent", p.Waiting(), p.Unsent())
	}
}

// What Flight and Withdraw returned belongs to the caller, and what was passed to
// Queue still does.
func TestPipelineAliases(t *testing.T) {
	known := NewEHLO("mx.example", Param{Name: "PIPELINING"}, Param{Name: "PIPECONNECT"})
	p := NewPipeline(known, false)
	cmds := []Command{{Verb: VerbEhlo, Arg: "me.example"}, {Verb: VerbNoop}, {Verb: VerbVrfy, Arg: "x"}, {Verb: VerbHelp}}
	p.Queue(cmds...)
	cmds[0], cmds[3] = Command{Verb: VerbQuit}, Command{Verb: VerbQuit}
	first := p.Flight()
	back := p.Withdraw()
	p.Queue(Command{Verb: VerbRset}, Command{Verb: VerbRset})
	if got, want := wire(first), "\n\tEHLO me.example\n\tNOOP"; got != want {
		t.Errorf("the first flight became%s", got)
	}
	if got, want := wire(back), "\n\tVRFY x\n\tHELP"; got != want {
		t.Errorf("what was withdrawn became%s", got)
	}
}

// A reply to STARTTLS decides whether anything may follow.
func TestPipelineStarttls(t *testing.T) {
	for _, tt := range []struct {
		code int
		goes bool
	}{{220, false}, {250, false}, {454, true}, {502, true}, {421, true}, {334, true}} {
		p := NewPipeline(EHLO{}, true)
		p.Queue(Command{Verb: VerbStarttls}, Command{Verb: VerbMail})
		p.Flight()
		mustAnswer(t, p, NewReply(tt.code, "", "x"))
		if goes := p.Flight() != nil; goes != tt.goes {
			t.Errorf("behind %d to STARTTLS in clear: MAIL left is %v", tt.code, goes)
		}
	}
}

func TestPipelineProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { checkPipeline(t, drawChoices(t)) })
}

func FuzzPipeline(f *testing.F) {
	addChoices(f)
	f.Fuzz(func(t *testing.T, b []byte) { checkPipeline(t, choices(b)) })
}

// choices are the bytes that a random conversation is made of.
type choices []byte

func drawChoices(t *rapid.T) choices {
	n := rapid.IntRange(0, 600).Draw(t, "n") // left to itself, SliceOfN likes some five elements
	return rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "choices")
}

// addChoices seeds a fuzz target with conversations of some length.
func addChoices(f *testing.F) {
	var seed []byte
	for i := range 600 {
		seed = append(seed, byte(i*i>>3+i))
	}
	f.Add([]byte{})
	f.Add(seed[:100])
	f.Add(seed)
}

// pick returns a number below n, which is at most 256.
func (c *choices) pick(n int) int {
	if len(*c) == 0 {
		return 0
	}
	v := int((*c)[0]) % n
	*c = (*c)[1:]
	return v
}

// oneOf picks an element.
func oneOf[T any](c *choices, s []T) T { return s[c.pick(len(s))] }

// checkPipeline queues, sends, hears and withdraws in any order, and holds each
// step against pipelineModel.
func checkPipeline(t rapid.TB, c choices) {
	t.Helper()
	replies, commands := ehloReplies(), anyCommand()
	m := &pipelineModel{set: ParseEHLO(oneOf(&c, replies)), lmtp: c.pick(2) == 1, greeted: c.pick(2) == 1}
	p := NewPipeline(m.set, m.greeted)
	p.LMTP = m.lmtp
	for serial := 0; len(c) > 0; {
		switch c.pick(16) {
		default:
			for range 1 + c.pick(6) {
				serial++
				cmd := oneOf(&c, commands)
				cmd.Arg = strconv.Itoa(serial) // tells commands apart
				p.Queue(cmd)
				m.queue = append(m.queue, cmd)
			}
		case 3, 4, 5, 6:
			m.checkFlight(t, p.Flight())
		case 7, 8, 9, 10, 11, 12, 13, 14:
			m.checkAnswer(t, p, m.makeReply(&c, replies))
		case 15:
			if got, want := p.Withdraw(), m.queue; wire(got) != wire(want) {
				t.Fatalf("withdrew%s, want%s", wire(got), wire(want))
			}
			m.queue = nil
		}
		m.checkState(t, p)
	}
}

func (m *pipelineModel) checkState(t rapid.TB, p *Pipeline) {
	t.Helper()
	switch {
	case p.Waiting() != m.waiting():
		t.Fatalf("waits for %d replies, want %d", p.Waiting(), m.waiting())
	case p.Unsent() != len(m.queue):
		t.Fatalf("%d unsent, want %d", p.Unsent(), len(m.queue))
	case !p.EHLO().Equal(m.set) || p.Confirmed() != m.confirmed:
		t.Fatalf("EHLO is %v, confirmed %v", p.EHLO(), p.Confirmed())
	case p.Early() != m.early:
		t.Fatalf("Early is %v", p.Early())
	}
}

// makeReply makes up what the peer says next.
func (m *pipelineModel) makeReply(c *choices, ehlos []Reply) Reply {
	r := Reply{Code: oneOf(c, []int{250, 250, 250, 250, 250, 250, 220, 354, 334, 421, 450, 503, 550}), Lines: []string{"x"}}
	if len(m.out) == 0 {
		return r
	}
	switch v := m.out[0].Verb; {
	case r.Code == 250 && (v == VerbEhlo || v == VerbLhlo || v == VerbHelo):
		r.Lines = oneOf(c, ehlos[1:]).Lines
	case r.Code == 250 && v == VerbData:
		r.Code = 354
	}
	return r
}

func ehloReplies() []Reply {
	return []Reply{
		{},
		ehloReply("mx.example"),
		ehloReply("mx.example", "PIPELINING"),
		ehloReply("mx.example", "PIPECONNECT"),
		ehloReply("mx.example", "PIPELINING", "PIPECONNECT"),
		ehloReply("mx.example", "PIPELINING", "PIPE_CONNECT", "CHUNKING"),
	}
}

func anyCommand() []Command {
	cmds := []Command{{Verb: VerbBdat, Size: 3, Last: true}, {Verb: "FROB"}}
	for _, v := range []Verb{VerbEhlo, VerbEhlo, VerbLhlo, VerbHelo, VerbMail, VerbMail, VerbRcpt, VerbRcpt, VerbRcpt, VerbData, VerbData, VerbBdat,
		VerbEndOfData, VerbEndOfData, VerbRset, VerbNoop, VerbQuit, VerbVrfy, VerbExpn, VerbHelp, VerbStarttls, VerbAuth, VerbEtrn, VerbXclient} {
		cmds = append(cmds, Command{Verb: v})
	}
	return cmds
}

// pipelineModel is the rules once more, each said by itself.
type pipelineModel struct {
	lmtp, greeted, confirmed, early bool

	set   EHLO
	queue []Command
	out   []Command // sent and not answered
	heard int       // replies to out[0]

	hello  string // Arg of the first EHLO or LHLO that left
	guess  string // the same, if it left on the strength of the known set
	text   bool   // DATA has its 354
	failed bool
	over   bool
	rcpts  int
}

// forbids says which rule c breaks if it leaves now, "" for none.
func (m *pipelineModel) forbids(c Command) string {
	pipelining := m.confirmed && m.set.Has("PIPELINING")
	guessed := m.guess != "" && m.outstanding(m.guess) // an early EHLO is unanswered
	couldGuess := isHello(c) && m.hello == "" && !m.confirmed && m.set.Has("PIPELINING") && m.set.PipeConnect()
	switch {
	case m.over:
		return "nothing follows STARTTLS or QUIT"
	case m.text != (c.Verb == VerbEndOfData):
		return "the text follows 354, and nothing else does"
	case !m.greeted && !guessed && !couldGuess:
		return "nothing goes before the greeting unless the peer is known to take it"
	case c.Verb == VerbBdat && m.failed:
		return "no chunk follows a refused one"
	case c.Verb == VerbBdat && c.Last && m.lmtp && (len(m.out) > 0 || m.rcpts == 0):
		return "LMTP: the last chunk needs an accepted recipient"
	case len(m.out) == 0:
		return ""
	case !pipelining && !guessed:
		return "one command at a time without PIPELINING"
	case len(m.out) >= MaxOutstanding:
		return "too many outstanding"
	}
	switch last := m.out[len(m.out)-1]; last.Verb {
	case VerbMail, VerbRcpt, VerbRset, VerbBdat, VerbEndOfData:
		return ""
	default:
		if last.Arg == m.guess {
			return ""
		}
		return "nothing passes a synchronisation point"
	}
}

func (m *pipelineModel) outstanding(arg string) bool {
	for _, c := range m.out {
		if c.Arg == arg {
			return true
		}
	}
	return false
}

func isHello(c Command) bool { return c.Verb == VerbEhlo || c.Verb == VerbLhlo }

func (m *pipelineModel) checkFlight(t rapid.TB, flight []Command) {
	t.Helper()
	if flight != nil && len(flight) == 0 {
		t.Fatalf("an empty flight is not nil")
	}
	for _, c := range flight {
		if len(m.queue) == 0 || m.queue[0].Arg != c.Arg {
			t.Fatalf("%s %s left out of order", c.Verb, c.Arg)
		}
		if why := m.forbids(c); why != "" {
			t.Fatalf("%s left behind%s: %s", c.Verb, wire(m.out), why)
		}
		if !m.greeted || m.guess != "" && m.outstanding(m.guess) {
			m.early = true
		}
		if isHello(c) && m.hello == "" {
			m.hello = c.Arg
			if !m.confirmed && m.set.Has("PIPELINING") && m.set.PipeConnect() {
				m.guess = c.Arg
			}
		}
		m.text = false
		m.queue, m.out = m.queue[1:], append(m.out, c)
	}
	if len(m.queue) > 0 && m.forbids(m.queue[0]) == "" {
		t.Fatalf("%s could have left behind%s", m.queue[0].Verb, wire(m.out))
	}
}

// due is how many replies out[i] has in all.
func (m *pipelineModel) due(i int) int {
	c := m.out[i]
	if !m.lmtp || c.Verb != VerbEndOfData && !(c.Verb == VerbBdat && c.Last) {
		return 1
	}
	return max(1, m.rcpts)
}

func (m *pipelineModel) waiting() int {
	n := -m.heard
	if !m.greeted {
		n++
	}
	for i := range m.out {
		n += m.due(i)
	}
	return n
}

func (m *pipelineModel) checkAnswer(t rapid.TB, p *Pipeline, r Reply) {
	t.Helper()
	a, err := p.Answer(r)
	switch {
	case !m.greeted:
		if m.greeted = true; err != nil || a.Command.Verb != "" || !a.Last {
			t.Fatalf("the greeting answers %+v, %v", a, err)
		}
		return
	case len(m.out) == 0:
		if err == nil {
			t.Fatalf("%v answers %s, although nothing is outstanding", r, a.Command.Verb)
		}
		return
	case err != nil:
		t.Fatal(err)
	}
	c, last := m.out[0], m.heard+1 == m.due(0)
	if a.Command.Arg != c.Arg || a.Index != m.heard || a.Last != last {
		t.Fatalf("answers %s %s, index %d, last %v; want %s %s, index %d, last %v",
			a.Command.Verb, a.Command.Arg, a.Index, a.Last, c.Verb, c.Arg, m.heard, last)
	}
	if m.heard++; !last {
		return
	}
	m.heard, m.out = 0, m.out[1:]
	before := m.set
	m.consequences(c, r)
	if want := !m.set.Equal(before) && c.Verb != VerbXclient; a.Changed != want {
		t.Fatalf("Changed is %v behind %s", a.Changed, c.Verb)
	}
}

func (m *pipelineModel) consequences(c Command, r Reply) {
	ok := r.Class() == 2
	switch {
	case isHello(c) || c.Verb == VerbHelo:
		if !ok && !m.confirmed {
			m.set = EHLO{}
		}
		if ok && c.Verb == VerbHelo {
			r.Lines = r.Lines[:1]
		}
		if ok {
			m.set, m.confirmed, m.rcpts, m.failed = ParseEHLO(r), true, 0, false
		}
	case c.Verb == VerbMail && ok, c.Verb == VerbRset && ok:
		m.rcpts, m.failed = 0, false
	case c.Verb == VerbRcpt && ok:
		m.rcpts++
	case c.Verb == VerbEndOfData, c.Verb == VerbBdat && c.Last:
		m.rcpts = 0
	case c.Verb == VerbBdat && !ok:
		m.failed = true
	case c.Verb == VerbData:
		m.text = r.Code == 354
	case c.Verb == VerbQuit, c.Verb == VerbStarttls && ok:
		m.over = true
	case c.Verb == VerbXclient && ok:
		m.set, m.confirmed, m.rcpts, m.failed = EHLO{}, false, 0, false
	}
}

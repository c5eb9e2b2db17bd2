package smtpwire

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The files under testdata/pipeline and testdata/sequence are conversations that
// anybody who reads mail logs can write. A '#' begins a comment line. Every line
// must come true, and nothing else may happen.
//
// Both know
//
//	C: MAIL FROM:<a@b.example>   the client says this ("C: ." is the text and the dot)
//	S: 250-mx / 250 PIPELINING   the server says this; " / " parts its lines
//	want: rcpts 2, not early     what must hold now; the words are in the checkers below
//	mode: lmtp, greeted          at the top: what kind of session this is; in
//	                             testdata/sequence "max 2" sets MaxRcpts
//
// In testdata/pipeline the client is ours. Its C: lines are what Flight returns: a
// run of them is one flight, a blank line ends it, and each S: checks that nothing
// else could leave before it. Everything a client will say is queued at the start;
// a line "---" parts what is queued then from what is queued only when the
// conversation has come that far.
//
//	known: mx / PIPELINING       at the top: the EHLO answer that the cache holds
//	Q: RSET                      queued at this place, and never leaves
//	withdraw                     the client takes back what has not left
//	S: closes                    at the end: replies may be outstanding
//
// In testdata/sequence the server is ours. A run of C: lines is one flight, checked
// line by line before the first is answered. Then each has its answer:
//
//	offer: PIPELINING / SIZE 10  what our EHLO offers from here on
//	R: 503 5.5.1 MAIL first      Check refuses with this, or what begins with it
//	S: 250 2.1.0 ok              Check lets it pass, and this was answered
//	tls                          TLS is up
type transcript struct {
	t    *testing.T
	name string
	rest []tline
	at   tline // the line being played, for messages
}

type tline struct {
	number int
	kind   string // "C", "S", "want", "" for a blank line, …
	text   string
}

// playAll plays each file of the directory as a subtest.
func playAll(t *testing.T, dir string, play func(*transcript)) {
	files, err := filepath.Glob(filepath.Join("testdata", dir, "*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts in testdata/%s: %v", dir, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			tr := &transcript{t: t, name: file, rest: parseTranscript(string(text))}
			play(tr)
			if len(tr.rest) > 0 {
				tr.at = tr.rest[0]
				tr.fatalf("nothing consumed this line")
			}
		})
	}
}

func parseTranscript(text string) []tline {
	var lines []tline
	for i, line := range strings.Split(strings.TrimSpace(text), "\n") {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#") {
			continue
		}
		kind, rest, _ := strings.Cut(line, ":")
		lines = append(lines, tline{number: i + 1, kind: kind, text: strings.TrimSpace(rest)})
	}
	return lines
}

func (tr *transcript) fatalf(format string, args ...any) {
	tr.t.Helper()
	tr.t.Fatalf("%s:%d: %s: %s: %s", tr.name, tr.at.number, tr.at.kind, tr.at.text, fmt.Sprintf(format, args...))
}

// next consumes one line if it is of one of the kinds.
func (tr *transcript) next(kinds ...string) bool {
	if len(tr.rest) == 0 || !slices.Contains(kinds, tr.rest[0].kind) {
		return false
	}
	tr.at, tr.rest = tr.rest[0], tr.rest[1:]
	return true
}

// command parses the current line as a command.
func (tr *transcript) command() Command {
	if tr.at.text == "." {
		return Command{Verb: VerbEndOfData}
	}
	return ParseCommand([]byte(tr.at.text))
}

// goodCommand is command where a client of ours speaks.
func (tr *transcript) goodCommand() Command {
	c := tr.command()
	if !c.Refused.IsZero() {
		tr.fatalf("not a command: %v", c.Refused)
	}
	return c
}

// reply parses the current line as a reply.
func (tr *transcript) reply() Reply {
	var r Reply
	for _, line := range strings.Split(tr.at.text, " / ") {
		code, text := line[:min(3, len(line))], ""
		if len(line) > 4 {
			text = line[4:]
		}
		n, err := strconv.Atoi(code)
		if err != nil || r.Code != 0 && r.Code != n {
			tr.fatalf("not a reply")
		}
		r.Code, r.Lines = n, append(r.Lines, text)
	}
	return r
}

// ehlo parses "mx.example / PIPELINING / SIZE 10".
func (tr *transcript) ehlo() EHLO {
	return ParseEHLO(Reply{Code: 250, Lines: strings.Split(tr.at.text, " / ")})
}

// wants checks each statement of a want line with hold. A statement may begin
// with "not".
func (tr *transcript) wants(hold func(word, arg string) (bool, error)) {
	for _, statement := range strings.Split(tr.at.text, ", ") {
		positive, negated := strings.CutPrefix(statement, "not ")
		word, arg, _ := strings.Cut(positive, " ")
		ok, err := hold(word, arg)
		if err != nil {
			tr.fatalf("%v", err)
		}
		if ok == negated {
			tr.fatalf("%q does not hold", statement)
		}
	}
}

func wire(cmds []Command) string {
	var b []byte
	for _, c := range cmds {
		b = c.AppendTo(append(b, "\n\t"...))
		if c.Verb == VerbEndOfData {
			b = append(b, '.')
		}
	}
	if len(b) == 0 {
		return " nothing"
	}
	return strings.ReplaceAll(string(b), "\r\n", "")
}

// pipelineTalk plays one conversation of testdata/pipeline.
type pipelineTalk struct {
	*transcript
	p      *Pipeline
	stay   int       // Q: lines passed
	sent   []Command // not answered, beginning with the zero Command for the greeting
	answer Answer
	err    error
}

func TestPipelineTranscripts(t *testing.T) {
	playAll(t, "pipeline", func(tr *transcript) { (&pipelineTalk{transcript: tr}).play() })
}

func (pt *pipelineTalk) play() {
	var known EHLO
	var mode string
	for pt.next("known", "mode", "") {
		switch pt.at.kind {
		case "known":
			known = pt.ehlo()
		case "mode":
			mode = pt.at.text
		}
	}
	greeted := strings.Contains(mode, "greeted")
	pt.p = NewPipeline(known, greeted)
	pt.p.LMTP = strings.Contains(mode, "lmtp")
	if !greeted {
		pt.sent = []Command{{}}
	}
	pt.queue()
	closed := false
	for !closed && pt.step(&closed) {
	}
	pt.nothingElse()
	if n := pt.p.Waiting(); n > 0 && !closed {
		pt.fatalf("the conversation ends and %d replies are outstanding", n)
	}
	if n := pt.p.Unsent(); n != pt.stay {
		pt.fatalf("the conversation ends with %d commands unsent, the transcript has %d", n, pt.stay)
	}
}

// step plays a flight or a line, and reports whether there was one.
func (pt *pipelineTalk) step(closed *bool) bool {
	switch {
	case pt.next(""):
	case pt.next("---"):
		pt.nothingElse()
		pt.queue()
	case pt.next("withdraw"):
		pt.nothingElse()
		if n := len(pt.p.Withdraw()); n != pt.stay {
			pt.fatalf("%d commands came back, the transcript has %d", n, pt.stay)
		}
		pt.stay = 0
	case pt.next("Q"):
		pt.stay++
	case pt.next("C"):
		pt.flight()
	case pt.next("S"):
		pt.nothingElse()
		if *closed = pt.at.text == "closes"; !*closed {
			pt.hear()
		}
	case pt.next("want"):
		pt.wants(pt.hold)
	default:
		return false
	}
	return true
}

// queue hands all commands down to the next "---" to the Pipeline.
func (pt *pipelineTalk) queue() {
	for _, line := range pt.rest {
		if line.kind == "---" {
			return
		}
		if line.kind == "C" || line.kind == "Q" {
			pt.at = line
			pt.p.Queue(pt.goodCommand())
		}
	}
}

func (pt *pipelineTalk) flight() {
	want := []Command{pt.goodCommand()}
	for pt.next("C") {
		want = append(want, pt.goodCommand())
	}
	got := pt.p.Flight()
	if wire(got) != wire(want) {
		pt.fatalf("the flight that ends here is not the one that left\n left:%s\n want:%s", wire(got), wire(want))
	}
	pt.sent = append(pt.sent, got...)
}

func (pt *pipelineTalk) nothingElse() {
	pt.t.Helper()
	if got := pt.p.Flight(); got != nil {
		pt.fatalf("before this a flight left that is not in the transcript:%s", wire(got))
	}
}

// hear takes a reply and checks that it answers what was sent first.
func (pt *pipelineTalk) hear() {
	pt.answer, pt.err = pt.p.Answer(pt.reply())
	if pt.err != nil {
		if len(pt.rest) == 0 || pt.rest[0].kind != "want" || !strings.Contains(pt.rest[0].text, "unasked") {
			pt.fatalf("%v", pt.err)
		}
		return
	}
	want := pt.sent[0]
	if got := pt.answer.Command; wire([]Command{got}) != wire([]Command{want}) {
		pt.fatalf("answers%s, want%s", wire([]Command{got}), wire([]Command{want}))
	}
	if pt.answer.Last {
		pt.sent = pt.sent[1:]
	}
}

func (pt *pipelineTalk) hold(word, arg string) (bool, error) {
	n, _ := strconv.Atoi(arg)
	switch word {
	case "changed":
		return pt.answer.Changed, nil
	case "last":
		return pt.answer.Last, nil
	case "index":
		return pt.answer.Index == n, nil
	case "confirmed":
		return pt.p.Confirmed(), nil
	case "early":
		return pt.p.Early(), nil
	case "waiting":
		return pt.p.Waiting() == n, nil
	case "unsent":
		return pt.p.Unsent() == n, nil
	case "offers":
		return pt.p.EHLO().Has(arg), nil
	case "host":
		return pt.p.EHLO().Host() == arg, nil
	case "unasked":
		return pt.err != nil, nil
	}
	return false, fmt.Errorf("no such statement: %q", word)
}

// sequenceTalk plays one conversation of testdata/sequence.
type sequenceTalk struct {
	*transcript
	s Sequence
}

func TestSequenceTranscripts(t *testing.T) {
	playAll(t, "sequence", func(tr *transcript) { (&sequenceTalk{transcript: tr}).play() })
}

func (st *sequenceTalk) play() {
	for st.next("mode", "") {
		for _, word := range strings.Split(st.at.text, ", ") {
			st.s.LMTP = st.s.LMTP || word == "lmtp"
			if n, ok := strings.CutPrefix(word, "max "); ok {
				st.s.MaxRcpts, _ = strconv.Atoi(n)
			}
		}
	}
	for {
		switch {
		case st.next(""):
		case st.next("offer"):
			st.s.Offered(ParseEHLO(Reply{Code: 250, Lines: strings.Split("us.example / "+st.at.text, " / ")}))
		case st.next("tls"):
			st.s.Secured()
		case st.next("want"):
			st.wants(st.hold)
		case st.next("C"):
			st.flight()
		default:
			return
		}
	}
}

// flight checks a run of commands, and then gives each its answer.
func (st *sequenceTalk) flight() {
	type checked struct {
		line    tline
		command Command
		refusal Reply
	}
	var flight []checked
	for more := true; more; more = st.next("C") {
		c := checked{line: st.at, command: st.command()}
		refusal, ok := st.s.Check(c.command)
		if ok != refusal.IsZero() {
			st.fatalf("passed is %v and the refusal %q", ok, refusal)
		}
		c.refusal = refusal
		flight = append(flight, c)
	}
	for st.next("") {
	}
	for _, c := range flight {
		switch {
		case st.next("R"):
			if got := c.refusal.String(); got != st.at.text && !strings.HasPrefix(got, st.at.text+" ") {
				st.fatalf("line %d is refused with %q", c.line.number, got)
			}
		case st.next("S"):
			if !c.refusal.IsZero() {
				st.fatalf("line %d is refused: %v", c.line.number, c.refusal)
			}
			st.s.Answered(c.command, st.reply())
		default:
			st.at = c.line
			st.fatalf("the transcript has no answer to this")
		}
	}
}

func (st *sequenceTalk) hold(word, arg string) (bool, error) {
	n, _ := strconv.Atoi(arg)
	switch word {
	case "greeted":
		return st.s.Greeted(), nil
	case "mail":
		return st.s.InMail(), nil
	case "chunking":
		return st.s.Chunking(), nil
	case "rcpts":
		return st.s.Rcpts() == n, nil
	}
	return false, fmt.Errorf("no such statement: %q", word)
}

package proxy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"slipstream/bench/refpeer"
)

// Smuggling (CVE-2023-51764 and its kin): two servers disagree where a message
// ends, so that text for the one is commands for the other. Here every disguise
// of the end of data goes through both doors, to hops that fall for all of them.

// smuggled is what an attacker hides behind a disguised end: a second message,
// whose own end is that of the text that it hides in.
const smuggled = "MAIL FROM:<evil@smuggled.example>\r\nRCPT TO:<victim@example.org>\r\nDATA\r\n" +
	"Subject: smuggled\r\n\r\nsmuggled\r\n"

// smugglePublished are the disguises that published lists name, and their
// neighbours with a NUL.
func smugglePublished() []string {
	return []string{
		"\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r\n.\r", "\r.\r\n", "\n.\r", "\r.\n",
		"\r\n\x00.\r\n", "\r\n.\x00\r\n", "\r\n.\r\x00\n", "\r\x00\n.\r\n", "\x00\r\n.\r", "\n\x00.\r\n", "\n.\x00\n",
		"\r\r\n.\r\r\n", "\r\n.\r\r\n", "\n\n.\r\n", "\r\n.\n\r\n", "\n\n.\n\n", "\r\r.\r\r", "\n\r.\n\r", "\n\r.\r\n",
		"\r\n\n.\r\n", "\r\n.\n\n", "\r\n\r.\r\n", "\r\n.\r\r", "\r\n\r\n.\n",
		"\r\n..\r\n", "\r\n.. \r\n", "\r\n. \r\n", "\r\n.\t\r\n", "\r\n .\r\n", "\n..\n", "\r\n..\n",
	}
}

// smuggleAround returns a dot with up to n line ends, whole or broken, and NULs
// around it.
func smuggleAround(n int) []string {
	runs := [][]string{{""}} // by how many there are in a run
	for i := range n {
		var longer []string
		for _, run := range runs[i] {
			for _, symbol := range []string{"\r", "\n", "\r\n", "\x00"} {
				longer = append(longer, run+symbol)
			}
		}
		runs = append(runs, longer)
	}
	var all []string
	for i := range runs {
		for j := range runs[:len(runs)-i] {
			for _, before := range runs[i] {
				for _, behind := range runs[j] {
					all = append(all, before+"."+behind)
				}
			}
		}
	}
	slices.Sort(all) // a CR and an LF are a CRLF, too
	return slices.Compact(all)
}

// smuggleLegal tells whether CR and LF come only together, and no NUL does.
func smuggleLegal(text string) bool {
	return !strings.ContainsAny(strings.ReplaceAll(text, "\r\n", ""), "\r\n\x00")
}

// smuggleSeen tells whether an offence shows in the beginning of a text, where a
// CR at its end may yet be followed by its LF.
func smuggleSeen(begin string) bool { return !smuggleLegal(strings.TrimSuffix(begin, "\r")) }

// smuggleUnstuffed removes the transparency dots of a legal text.
func smuggleUnstuffed(text string) string {
	lines := strings.Split(text, "\r\n")
	for i, line := range lines {
		lines[i] = strings.TrimPrefix(line, ".")
	}
	return strings.Join(lines, "\r\n")
}

// A smuggleHop is a door and what stands behind it.
type smuggleHop struct {
	name     string
	inbound  bool
	lmtp     bool // the client speaks LMTP
	old      bool // the hop knows HELO alone
	hopLMTP  bool
	chunking bool
	endings  []refpeer.Ending
}

// smuggleHops are all ways through us, to hops that take anything for the end of
// a message.
func smuggleHops() []smuggleHop {
	hops := []smuggleHop{
		{name: "inbound to DATA", inbound: true},
		{name: "outbound to DATA"},
		{name: "inbound to BDAT", inbound: true, chunking: true},
		{name: "inbound to an old server", inbound: true, old: true},
		{name: "inbound to LMTP DATA", inbound: true, hopLMTP: true},
		{name: "inbound to LMTP BDAT", inbound: true, hopLMTP: true, chunking: true},
		{name: "outbound to BDAT", chunking: true},
		{name: "outbound LMTP to DATA", lmtp: true},
	}
	for i := range hops {
		hops[i].endings = []refpeer.Ending{refpeer.LFDotLF, refpeer.LFDotCRLF, refpeer.CRLFDotLF, refpeer.LFDotCR,
			refpeer.CRLFDotCR, refpeer.CRDotCR, refpeer.CRDotLF, refpeer.CRDotCRLF}
	}
	return hops
}

func (h smuggleHop) server() *refpeer.Server {
	s := &refpeer.Server{Keywords: refpeer.Modern(), Old: h.old, LMTP: h.hopLMTP, Lenient: h.endings, Record: 256 << 20}
	s.Keywords.Chunking = h.chunking
	return s
}

// A smuggler is a client on one connection, and a hop that writes down what came
// of it.
type smuggler struct {
	t   *testing.T
	w   *world
	hop *refpeer.Server
	c   *dialog

	lmtp bool // the client speaks LMTP

	n      int      // cases so far
	id     string   // of the case under way
	bodies []string // what the hop must have in the end, in order
	ids    []string // the cases among them
	second int      // how often a second message was no disguise: the true end stood before it
}

func newSmuggler(t *testing.T, h smuggleHop) *smuggler { return newSmugglerTo(t, h, nil) }

// newSmugglerTo is newSmuggler with a hop that misbehaves.
func newSmugglerTo(t *testing.T, h smuggleHop, behave func(refpeer.Event) refpeer.Action) *smuggler {
	hop := h.server()
	hop.Behave = behave
	w := newWorld(t)
	w.cfg.Limits.MaxTransactions, w.cfg.Limits.MaxBadCommands = 1<<20, 1<<20
	s := &smuggler{t: t, w: w, lmtp: h.lmtp}
	at := outboundAt
	if h.inbound {
		at = inboundAt
		s.hop = w.serve(backendAddr, hop)
		w.inbound(func(in *InboundConfig) { in.Backend.LMTP = h.hopLMTP })
	} else {
		s.hop = w.serve(mxAddr, hop)
		w.outbound(func(out *OutboundConfig) {
			out.Offer = append(out.Offer, "CHUNKING")
			if h.lmtp {
				out.Protocol = "lmtp"
			}
		})
	}
	w.start()
	s.c = w.client(at)
	if h.lmtp {
		s.c.ask("LHLO client.example", "250")
	} else {
		s.c.ask("EHLO client.example", "250")
	}
	return s
}

// head begins the text of a new case, with a mark that is on no other.
func (s *smuggler) head() string {
	s.n++
	s.id = fmt.Sprintf("case-%06d", s.n)
	return "Subject: " + s.id + "\r\n\r\nfirst"
}

func (s *smuggler) envelope(then string) string {
	return "MAIL FROM:<a@client.example>\r\nRCPT TO:<b@example.org>\r\n" + then
}

// deliver notes that a text must be at the hop.
func (s *smuggler) deliver(text string) {
	s.bodies = append(s.bodies, text)
	if strings.Contains(text, s.id) {
		s.ids = append(s.ids, s.id)
	}
}

// verdict takes the final reply and notes what follows from it.
func (s *smuggler) verdict(text string) {
	s.t.Helper()
	if !smuggleLegal(text) {
		s.c.want("550 5.6.0 ")
		return
	}
	s.c.want("250 ")
	s.deliver(text)
}

// data sends a disguise by DATA. Where cut is above 0 the text leaves in two
// segments, cut behind as many octets of the disguise.
func (s *smuggler) data(disguise string, cut int) {
	s.t.Helper()
	head := s.head()
	raw := head + disguise + smuggled + ".\r\n"
	end := strings.Index(raw, "\r\n.\r\n") + len("\r\n.\r\n")
	if end < len(raw) && raw[end:] != smuggled+".\r\n" {
		return // the sender ended the message, and sends us nonsense
	}
	s.c.raw(s.envelope("DATA\r\n"))
	s.c.want("250 ")
	s.c.want("250 ")
	s.c.want("354 ")
	at := len(head) + cut
	if cut > 0 {
		s.c.raw(raw[:at])
		synctest.Wait()
		s.c.raw(raw[at:])
	} else {
		s.c.raw(raw)
	}
	text := raw[:end-len(".\r\n")]
	if smuggleLegal(text) {
		text = smuggleUnstuffed(text)
	}
	s.verdict(text)
	if end < len(raw) {
		// No disguise: the true end, and behind it a transaction of its own.
		s.c.want("250 ")
		s.c.want("250 ")
		s.c.want("354 ")
		s.c.want("250 ")
		s.second++
		s.deliver("Subject: smuggled\r\n\r\nsmuggled\r\n")
	}
}

// bdat sends a disguise in one chunk, or in two that are cut behind as many
// octets of the disguise. In a chunk even the true end is text.
func (s *smuggler) bdat(disguise string, cut int) {
	s.t.Helper()
	if s.lmtp {
		return // is not offered BDAT
	}
	head := s.head()
	text := head + disguise + smuggled + ".\r\n"
	if cut == 0 {
		s.c.raw(s.envelope(fmt.Sprintf("BDAT %d LAST\r\n%s", len(text), text)))
		s.c.want("250 ")
		s.c.want("250 ")
		s.verdict(text)
		return
	}
	first, rest := text[:len(head)+cut], text[len(head)+cut:]
	s.c.raw(s.envelope(fmt.Sprintf("BDAT %d\r\n%sBDAT %d LAST\r\n%s", len(first), first, len(rest), rest)))
	s.c.want("250 ")
	s.c.want("250 ")
	if smuggleSeen(first) {
		s.c.want("550 5.6.0 ")
		s.c.want("503 5.5.1 ")
		s.c.ask("RSET", "250 ")
		return
	}
	s.c.want("250 2.0.0 ")
	s.verdict(text)
}

var smuggleMark = regexp.MustCompile(`case-\d{6}`)

// finish checks that the session is in step, and that the hop has what it must
// have and not an octet of anything else.
func (s *smuggler) finish() {
	s.t.Helper()
	text := s.head() + "\r\n"
	s.c.raw(s.envelope("DATA\r\n"))
	s.c.want("250 ")
	s.c.want("250 ")
	s.c.want("354 ")
	s.c.raw(text + ".\r\n")
	s.verdict(text)
	s.c.ask("QUIT", "221 ")
	s.c.wantClosed()
	synctest.Wait()

	messages := s.hop.Messages()
	for i := range min(len(messages), len(s.bodies)) {
		if got, want := string(messages[i].Body), s.bodies[i]; got != want {
			s.t.Fatalf("message %d at the hop:\n got %.200q\nwant %.200q", i, got, want)
		}
	}
	if len(messages) != len(s.bodies) || len(s.hop.Refused()) != 0 {
		s.t.Errorf("the hop has %d messages and refused %d, want %d and 0", len(messages), len(s.hop.Refused()), len(s.bodies))
	}
	var marks []string
	second := 0
	for _, conn := range s.hop.Connections() {
		if int64(len(conn.Received.Data)) != conn.Received.Total {
			s.t.Errorf("connection %d: only %d of %d octets were recorded", conn.ID, len(conn.Received.Data), conn.Received.Total)
		}
		for _, mark := range smuggleMark.FindAll(conn.Received.Data, -1) {
			marks = append(marks, string(mark))
		}
		for _, line := range conn.Commands {
			if strings.Contains(line, "smuggled.example") {
				second++
			}
		}
	}
	if !slices.Equal(marks, s.ids) {
		s.t.Errorf("on the wire to the hop were %d texts, want %d; the first that differ: %q", len(marks), len(s.ids), smuggleDiffer(marks, s.ids))
	}
	if second != s.second {
		s.t.Errorf("the hop heard %d commands of a second message, want %d", second, s.second)
	}
	if v := s.hop.Violations(); len(v) != 0 {
		s.t.Errorf("the hop saw %d violations, the first: %v", len(v), v[0])
	}
}

func smuggleDiffer(got, want []string) []string {
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return []string{got[i], want[i]}
		}
	}
	return slices.Concat(got[min(len(got), len(want)):], want[min(len(got), len(want)):])[:1]
}

// smuggleRun sends every disguise through one hop, on one connection.
func smuggleRun(t *testing.T, h smuggleHop, disguises []string, cuts bool) {
	synctest.Test(t, func(t *testing.T) {
		s := newSmuggler(t, h)
		var d string
		defer func() {
			if t.Failed() {
				t.Logf("in %s, last with %q", s.id, d)
			}
		}()
		for _, d = range disguises {
			s.data(d, 0)
			s.bdat(d, 0)
			for cut := 1; cuts && cut <= len(d); cut++ {
				s.data(d, cut)
				s.bdat(d, cut)
			}
		}
		s.finish()
		if got := hostileCount(t, s.w.proxy.metrics.smuggling); got == 0 {
			t.Error("no smuggling was counted")
		}
	})
}

func TestSmugglingPublished(t *testing.T) {
	for _, h := range smuggleHops() {
		t.Run(h.name, func(t *testing.T) { smuggleRun(t, h, smugglePublished(), true) })
	}
}

// Each ending alone, since a server that knows several may stop at the wrong one.
func TestSmugglingOneEnding(t *testing.T) {
	for _, h := range smuggleHops()[:2] {
		for _, ending := range h.endings {
			one := h
			one.endings = []refpeer.Ending{ending}
			t.Run(fmt.Sprintf("%s that ends at %q", h.name, ending), func(t *testing.T) { smuggleRun(t, one, smugglePublished(), false) })
		}
	}
}

func TestSmugglingAll(t *testing.T) {
	for i, h := range smuggleHops() {
		n := 3
		if i == 0 && !testing.Short() {
			n = 4
		}
		t.Run(h.name, func(t *testing.T) { smuggleRun(t, h, smuggleAround(n), false) })
	}
}

// smuggleOdd are texts that look like an attack and are none.
func smuggleOdd() map[string]string {
	var octets []byte
	for b := 1; b < 256; b++ {
		if b != '\r' && b != '\n' {
			octets = append(octets, byte(b))
		}
	}
	return map[string]string{
		"nothing":             "",
		"an empty line":       "\r\n",
		"a dot":               ".\r\n",
		"two dots":            "..\r\n",
		"lines of one dot":    ".\r\n.\r\n.\r\n",
		"lines of more dots":  ".\r\n..\r\n...\r\n....\r\n.....\r\n",
		"dots everywhere":     "..x..\r\n.x\r\n x.\r\n.\r\n\r\n.\r\n",
		"dots and spaces":     ". \r\n .\r\n.\t\r\n",
		"empty lines":         strings.Repeat("\r\n", 1000),
		"commands":            "\r\n.\r\n" + smuggled + ".\r\nQUIT\r\n",
		"every octet":         string(octets) + "\r\n",
		"8 bit":               "Subject: \xc3\xa4\r\n\r\ngr\xfc\xdfe \xff\xfe\r\n",
		"a long line":         strings.Repeat("x", 100<<10) + "\r\n",
		"a long line of dots": "\r\n" + strings.Repeat(".", 100<<10) + "\r\n",
		"many lines of dots":  strings.Repeat(".\r\n", 20<<10),
		"no end of line":      "Subject: x\r\n\r\nx",
		"a dot at the end":    "x\r\n.",
		"dots at the end":     "\r\n..",
	}
}

// Odd texts arrive octet for octet, by whatever command and in whatever pieces.
func TestOddTextsArrive(t *testing.T) {
	for _, h := range smuggleHops() {
		t.Run(h.name, func(t *testing.T) {
			for name, text := range smuggleOdd() {
				t.Run(name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						h := h
						if len(text) > 5000 {
							h.endings = nil // it would take its time
						}
						s := newSmuggler(t, h)
						if strings.HasSuffix(text, "\r\n") || text == "" {
							s.oddData(text)
						}
						for _, size := range []int{len(text), max(1, len(text)/7), max(1, len(text)/200)} {
							s.oddChunks(text, size)
						}
						s.arrived(text, h)
					})
				})
			}
		})
	}
}

// oddData sends a text by DATA, at once and in small segments.
func (s *smuggler) oddData(text string) {
	s.t.Helper()
	lines := strings.SplitAfter(text, "\r\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") {
			lines[i] = "." + line
		}
	}
	raw := strings.Join(lines, "") + ".\r\n"
	for _, segment := range []int{len(raw), max(1, len(raw)/50)} {
		s.c.raw(s.envelope("DATA\r\n"))
		s.c.want("250 ")
		s.c.want("250 ")
		s.c.want("354 ")
		for rest := raw; rest != ""; {
			n := min(segment, len(rest))
			s.c.raw(rest[:n])
			rest = rest[n:]
			synctest.Wait()
		}
		s.c.want("250 ")
		s.n++
	}
}

// oddChunks sends a text by BDAT, in one flight.
func (s *smuggler) oddChunks(text string, size int) {
	s.t.Helper()
	if s.lmtp {
		return // is not offered BDAT
	}
	var flight strings.Builder
	flight.WriteString(s.envelope(""))
	replies := 2
	for ; len(text) > size; text, replies = text[size:], replies+1 {
		fmt.Fprintf(&flight, "BDAT %d\r\n%s", size, text[:size])
	}
	fmt.Fprintf(&flight, "BDAT %d LAST\r\n%s", len(text), text)
	s.c.raw(flight.String())
	for range replies + 1 {
		s.c.want("250 ")
	}
	s.n++
}

// arrived checks that the hop has one text as often as it was sent. A hop that
// takes DATA gets the last line's end, which DATA cannot do without.
func (s *smuggler) arrived(text string, h smuggleHop) {
	s.t.Helper()
	s.c.ask("QUIT", "221 ")
	s.c.wantClosed()
	synctest.Wait()
	want := text
	if !h.chunking && text != "" && !strings.HasSuffix(text, "\r\n") {
		want += "\r\n"
	}
	messages := s.hop.Messages()
	if len(messages) != s.n {
		s.t.Errorf("the hop has %d messages, want %d", len(messages), s.n)
	}
	for i, m := range messages {
		if got := string(m.Body); got != want {
			s.t.Errorf("message %d by %s: got %d octets %.100q, want %d octets %.100q", i, m.Via, len(got), got, len(want), want)
		}
	}
	for _, v := range s.hop.Violations() {
		if !h.old || !strings.Contains(v.What, "8 bit") {
			s.t.Errorf("the hop saw a violation: %v", v)
		}
	}
}

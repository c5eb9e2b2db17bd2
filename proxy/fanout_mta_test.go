package proxy

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"time"
)

// A FanoutMail is one message in the queue of the MTA. Two that differ in nothing
// but their ID look alike to everybody but the journals.
type FanoutMail struct {
	ID   string
	From string
	To   []string
	Text string
}

// A FanoutMTA is one delivery agent of an MTA: it has a queue of its own and keeps
// trying, as its journal says, until it has heard of every recipient.
type FanoutMTA struct {
	Dial     func() (*FanoutConn, error)
	Draw     *rand.Rand
	Note     func(...FanoutEvent)
	Pause    func(most time.Duration) // between two attempts, by lot
	Patience time.Duration            // for a reply

	// Vanish is the probability that it is gone from a transaction, without a
	// word, at each of the places where that makes a difference. It comes again
	// after Away.
	Vanish float64
	Away   func()

	// Hasty: it does what Exim does, to which 452 behind an accepted or refused
	// recipient says that there are too many: a refusal of the text is for those
	// as well.
	Hasty bool

	// Mortal: we may die. Otherwise a connection that breaks is an error. A message
	// under way is given back then.
	Mortal bool

	conn *FanoutConn
	bdat bool // it is offered
	used int  // transactions on this connection
}

// A FanoutConn is a connection of the MTA. A reply is looked at before it is
// taken: who dies in between has not heard it.
type FanoutConn struct {
	net.Conn

	// Peek waits until there is more than have octets to be read, and returns
	// all of them. Nil: they are taken one by one, since nobody dies in between.
	Peek func(have int) ([]byte, error)

	buf []byte
}

// reply waits for one, has it written down, and takes it.
func (c *FanoutConn) reply(patience time.Duration, note func(string)) (string, error) {
	_ = c.SetReadDeadline(time.Now().Add(patience))
	for have := 0; ; {
		data, err := c.peek(have)
		if n := fanoutReply(data); n > 0 {
			r := string(data[:n])
			if note != nil {
				note(r)
			}
			return strings.TrimSuffix(r, "\r\n"), c.take(n)
		}
		if err != nil {
			return "", err
		}
		have = len(data)
	}
}

func (c *FanoutConn) peek(have int) ([]byte, error) {
	if c.Peek != nil {
		return c.Peek(have)
	}
	if len(c.buf) > have {
		return c.buf, nil
	}
	p := make([]byte, 1) // a reply behind this one is not taken with it
	n, err := c.Read(p)
	c.buf = append(c.buf, p[:n]...)
	return c.buf, err
}

func (c *FanoutConn) take(n int) error {
	if c.Peek != nil {
		_, err := io.ReadFull(c.Conn, make([]byte, n))
		return err
	}
	c.buf = c.buf[n:]
	return nil
}

// fanoutReply is the length of the first reply; 0: it is not complete.
func fanoutReply(data []byte) int {
	n := 0
	for line := range strings.Lines(string(data)) {
		if !strings.HasSuffix(line, "\r\n") || len(line) < 6 {
			return 0
		}
		n += len(line)
		if line[3] == ' ' {
			return n
		}
	}
	return 0
}

var (
	errFanoutGone  = errors.New("the MTA is gone, as was decided")
	errFanoutOff   = errors.New("the connection is of no use any more, as we said")
	errFanoutWrong = errors.New("no MTA would understand that")
)

// FanoutPause is the most that the MTA waits between two attempts.
const FanoutPause = 20 * time.Millisecond

// Deliver tries a message from transaction number try on, until there is nothing
// open, for so many attempts at most. It returns what still is.
func (m *FanoutMTA) Deliver(mail FanoutMail, open []string, try, attempts int) (left []string, next int, err error) {
	for range attempts {
		if len(open) == 0 {
			return nil, try, nil
		}
		to := append([]string(nil), open...)
		m.Draw.Shuffle(len(to), func(i, j int) { to[i], to[j] = to[j], to[i] })
		var gone bool
		for again := m.Draw.IntN(2) == 0; len(to) > 0; { // some send at once what was told to come on its own
			open, to, gone, err = m.transaction(mail, try, open, to)
			try++
			if err != nil {
				return open, try, err
			}
			if gone || !again {
				break
			}
		}
		if gone && m.Mortal {
			break
		}
		m.Pause(FanoutPause)
	}
	return open, try, nil
}

// transaction sends to some of the open recipients, and returns who is open now,
// and who of them is to come on his own.
func (m *FanoutMTA) transaction(mail FanoutMail, try int, open, to []string) (
	still, alone []string, gone bool, err error,
) {
	m.Note(FanoutEvent{At: time.Now(), Kind: FanoutBegun, Mail: mail.ID, Try: try})
	t := &fanoutSending{m: m, mail: mail, try: try, to: to, heard: map[string]string{}}
	err = t.send()
	switch {
	case errors.Is(err, errFanoutOff):
		gone = true
		m.drop(false)
	case errors.Is(err, errFanoutGone) || err != nil && m.Mortal && !errors.Is(err, errFanoutWrong) && !fanoutLate(err):
		gone = true
		m.drop(m.Draw.IntN(2) == 0)
		m.Away()
	case err != nil:
		return nil, nil, false, fmt.Errorf("transaction %d of %s: %w", try, mail.ID, err)
	case m.Draw.IntN(3) == 0:
		m.Leave()
	}
	for _, rcpt := range open {
		heard := t.heard[rcpt]
		if heard == "" || heard[0] == '4' {
			still = append(still, rcpt)
		}
		if strings.HasPrefix(heard, "452") {
			alone = append(alone, rcpt)
		}
	}
	if len(alone) == len(to) {
		alone = nil // all of them: that would not help
	}
	return still, alone, gone, nil
}

// fanoutLate tells whether an error is that nothing came in time.
func fanoutLate(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// Leave says QUIT, or just closes.
func (m *FanoutMTA) Leave() {
	if m.conn == nil {
		return
	}
	if m.Draw.IntN(2) == 0 {
		if _, err := io.WriteString(m.conn, "QUIT\r\n"); err == nil && m.Draw.IntN(2) == 0 { // Postfix does not wait
			_, _ = m.conn.reply(m.Patience, nil)
		}
	}
	m.drop(false)
}

// drop ends the connection: in order, or by a reset.
func (m *FanoutMTA) drop(reset bool) {
	if m.conn == nil {
		return
	}
	if r, ok := m.conn.Conn.(interface{ Reset() }); ok && reset {
		r.Reset()
	}
	_ = m.conn.Close()
	m.conn = nil
}

// open connects, if there is no connection.
func (m *FanoutMTA) open() error {
	if m.conn != nil {
		return nil
	}
	conn, err := m.Dial()
	if err != nil {
		return err
	}
	m.conn, m.used = conn, 0
	if _, err := conn.reply(m.Patience, nil); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "EHLO mta.example\r\n"); err != nil {
		return err
	}
	r, err := conn.reply(m.Patience, nil)
	m.bdat = strings.Contains(r, "CHUNKING")
	if err == nil && r[0] != '2' {
		err = fmt.Errorf("%w: EHLO was answered %q", errFanoutWrong, r)
	}
	return err
}

// A fanoutSending is one transaction of the MTA.
type fanoutSending struct {
	m     *FanoutMTA
	mail  FanoutMail
	try   int
	to    []string
	heard map[string]string // by recipient
	taken []string          // those whose RCPT was accepted
	many  []string          // those that are too many, as a hasty MTA takes it
	some  bool              // there was one that was accepted or refused
}

// send goes through it.
func (t *fanoutSending) send() error {
	m := t.m
	if err := m.open(); err != nil {
		return err
	}
	m.used++
	lines := []string{fmt.Sprintf("MAIL FROM:<%s> ENVID=%s/%d", t.mail.From, t.mail.ID, t.try)}
	for _, rcpt := range t.to {
		lines = append(lines, "RCPT TO:<"+rcpt+">")
	}
	style := m.Draw.IntN(4)
	if style == 3 && !m.bdat {
		style = 2
	}
	switch style {
	case 0, 1: // in lock step, or pipelined up to DATA
		if err := t.envelope(lines, style == 0); err != nil || len(t.taken) == 0 {
			return errors.Join(err, t.giveUp())
		}
		return t.data()
	case 2:
		if err := t.say(strings.Join(lines, "\r\n") + "\r\nDATA\r\n"); err != nil {
			return err
		}
		if err := t.replies(lines); err != nil {
			return err
		}
		return t.text()
	default:
		flight := fmt.Sprintf("%s\r\nBDAT %d LAST\r\n%s", strings.Join(lines, "\r\n"), len(t.mail.Text), t.mail.Text)
		if t.goes() { // behind MAIL: it says that what was said before was heard
			said := len(lines[0]) + len("\r\n")
			return t.vanish(flight[:said+m.Draw.IntN(len(flight)-said)])
		}
		if err := t.say(flight); err != nil {
			return err
		}
		if err := t.replies(lines); err != nil {
			return err
		}
		if err := t.final(); err != nil || len(t.taken) > 0 && t.heard[t.taken[0]][0] == '2' {
			return err
		}
		return t.giveUp() // https://www.rfc-editor.org/rfc/rfc3030#section-2
	}
}

func (t *fanoutSending) say(octets string) error {
	_, err := io.WriteString(t.m.conn, octets)
	return err
}

// goes draws whether the MTA is gone at this place.
func (t *fanoutSending) goes() bool { return t.m.Draw.Float64() < t.m.Vanish }

// vanish sends what was on its way.
func (t *fanoutSending) vanish(octets string) error {
	_ = t.say(octets) // it is gone either way
	return errFanoutGone
}

// envelope asks for the recipients.
func (t *fanoutSending) envelope(lines []string, lockStep bool) error {
	if !lockStep {
		if err := t.say(strings.Join(lines, "\r\n") + "\r\n"); err != nil {
			return err
		}
		return t.replies(lines)
	}
	for i, line := range lines {
		if err := t.say(line + "\r\n"); err != nil {
			return err
		}
		if err := t.hear(i); err != nil {
			return err
		}
	}
	return nil
}

// replies takes those to MAIL and RCPT.
func (t *fanoutSending) replies(lines []string) error {
	for i := range lines {
		if err := t.hear(i); err != nil {
			return err
		}
	}
	return nil
}

// hear takes the reply to MAIL (0) or to a recipient.
func (t *fanoutSending) hear(i int) error {
	r, err := t.m.conn.reply(t.m.Patience, func(r string) {
		if i > 0 && r[0] != '2' {
			t.note(r, t.to[i-1])
		}
	})
	switch {
	case err != nil:
		return err
	case strings.HasPrefix(r, "421"):
		return errFanoutOff
	case i == 0 && r[0] != '2':
		return fmt.Errorf("%w: MAIL was answered %q", errFanoutWrong, r)
	case i > 0 && r[0] == '2':
		t.taken = append(t.taken, t.to[i-1])
	case i > 0:
		t.heard[t.to[i-1]] = r
		if t.m.Hasty && t.some && strings.HasPrefix(r, "452") {
			t.many = append(t.many, t.to[i-1])
		}
	}
	t.some = t.some || i > 0 && r[0] != '4'
	return nil
}

// note writes down what settles recipients.
func (t *fanoutSending) note(r string, to ...string) {
	var events []FanoutEvent
	for _, rcpt := range to {
		events = append(events, FanoutEvent{At: time.Now(), Kind: FanoutHeard, Mail: t.mail.ID, Try: t.try, Rcpt: rcpt,
			Words: strings.TrimSuffix(r, "\r\n")})
	}
	t.m.Note(events...)
}

// giveUp ends a transaction without a text.
func (t *fanoutSending) giveUp() error {
	if t.m.conn == nil {
		return nil
	}
	if err := t.say("RSET\r\n"); err != nil {
		return err
	}
	_, err := t.m.conn.reply(t.m.Patience, nil)
	return err
}

// concerned are those whom the last word is about.
func (t *fanoutSending) concerned(r string) []string {
	if r[0] == '5' && len(t.taken) > 0 {
		return append(t.taken[:len(t.taken):len(t.taken)], t.many...)
	}
	return t.taken
}

// data asks whether the text may come.
func (t *fanoutSending) data() error {
	if t.goes() {
		return errFanoutGone
	}
	if err := t.say("DATA\r\n"); err != nil {
		return err
	}
	return t.text()
}

// text sends it, where it may come.
func (t *fanoutSending) text() error {
	r, err := t.m.conn.reply(t.m.Patience, nil)
	if err != nil {
		return err
	}
	if r[0] != '3' {
		return t.over(r)
	}
	if len(t.taken) == 0 {
		return fmt.Errorf("%w: DATA was answered 354, and there is no recipient", errFanoutWrong)
	}
	text := strings.ReplaceAll(t.mail.Text, "\r\n.", "\r\n..")
	if t.goes() {
		return t.vanish(text[:t.m.Draw.IntN(len(text))])
	}
	if err := t.say(text + ".\r\n"); err != nil {
		return err
	}
	return t.final()
}

// over takes a refusal of DATA for all recipients that were accepted.
func (t *fanoutSending) over(r string) error {
	if to := t.concerned(r); len(to) > 0 {
		t.note(r, to...)
		for _, rcpt := range to {
			t.heard[rcpt] = r
		}
	}
	return t.giveUp()
}

// final takes the last word about all recipients that were accepted.
func (t *fanoutSending) final() error {
	m := t.m
	if t.goes() { // with the text on its way
		if m.Draw.IntN(4) > 0 {
			m.Pause(4 * FanoutPause)
		}
		return errFanoutGone
	}
	r, err := m.conn.reply(m.Patience, func(r string) {
		if len(t.taken) > 0 {
			t.note(r, t.concerned(r)...)
		}
		m.Note(FanoutEvent{At: time.Now(), Kind: FanoutEnded, Mail: t.mail.ID, Try: t.try})
	})
	if err != nil {
		return err
	}
	for _, rcpt := range t.concerned(r) {
		t.heard[rcpt] = r
	}
	if strings.HasPrefix(r, "421") {
		return errFanoutOff
	}
	if len(t.taken) == 0 && r[0] == '2' {
		return fmt.Errorf("%w: the text was answered %q, and there is no recipient", errFanoutWrong, r)
	}
	return nil
}

package proxy

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"slipstream/auth"
	"slipstream/smtpwire"
)

// A record is what the log says about one transaction: one line, made at MAIL,
// filled by whoever knows something, written once.
type record struct {
	relay    string // the hops, in the order they were reached
	tls      string // protection towards the last of them
	verified bool
	resumed  int // what resumption did on its connection, in bits
	trips    int
	saved    savings
	used     int // how many transactions the connection had carried, this one included
	asked    time.Time
	ended    string        // why it ended without a text, if it did
	textAt   time.Time     // the first octet of text was expected
	commitAt time.Time     // the text was complete
	judged   *auth.Report  // nil: nobody looked at the text
	recalled int           // recipients whose outcome was known
	judging  time.Duration // what the verdict was waited for
	tap      string        // the name of its copy, or why there is none; "": there was to be none
}

// hop notes a hop that takes part.
func (r *record) hop(p *peer) {
	if r.relay != "" {
		r.relay += ","
	}
	if len(r.relay) < maxRelayField {
		r.relay += p.label
	}
	r.tls, r.verified, r.used = describeTLS(p.tls), p.verified, p.used
	r.resumed = p.resumption()
	r.asked = time.Now()
}

// maxRelayField bounds how many octets of hops one log line names.
const maxRelayField = 512

// done notes what a hop's connection has cost since it was last asked.
func (r *record) done(p *peer) {
	r.trips += p.wire.trips - p.counted
	p.counted = p.wire.trips
	r.saved.add(p.gain)
	p.gain = savings{}
}

// status sums the final replies up in a word, as Postfix does.
func (t *transaction) status() string {
	var sent, deferred, bounced int
	for _, rc := range t.rcpts {
		if !rc.accepted() {
			continue
		}
		switch rc.final.Class() {
		case 2:
			sent++
		case 5:
			bounced++
		default:
			deferred++
		}
	}
	switch {
	case sent > 0 && deferred+bounced > 0:
		return "mixed"
	case sent > 0:
		return "sent"
	case bounced > 0 && deferred > 0:
		return "mixed"
	case bounced > 0:
		return "bounced"
	}
	return "deferred"
}

// refusedAll tells whether every recipient was refused, and gives the last
// refusal.
func (t *transaction) refusedAll() (status string, said smtpwire.Reply, ok bool) {
	for _, rc := range t.rcpts {
		if rc.accepted() || rc.reply.Class() < 4 {
			return "", said, false
		}
		switch word := refusedStatus(rc.reply); status {
		case "", word:
			status = word
		default:
			status = "mixed"
		}
		said = rc.reply
	}
	return status, said, status != ""
}

// refusedStatus is the word for a refusal.
func refusedStatus(r smtpwire.Reply) string {
	if r.Class() == 5 {
		return "bounced"
	}
	return "deferred"
}

// A Summary is what is known of a transaction when it is over: the log's line,
// for programs.
type Summary struct {
	Door     string
	ID       string
	From     string
	To       []string
	Status   string         // "sent", "deferred", "bounced", "mixed", "refused" (MAIL), "aborted"
	Reply    smtpwire.Reply // the last reply to the client; zero where it got none
	Relay    string         // the hops that took part
	TLS      string         // protection towards them, "none" or version and cipher
	Verified bool           // their certificate was checked and good
	// Resumption is what TLS resumption did with the last of them, in the bits of
	// Exim's $tls_out_resumption: 1 supported, 2 asked for a ticket, 4 offered a
	// session, 8 got a ticket, 16 resumed.
	Resumption int
	Trips      int           // round trips spent with them, connecting included
	Saved      savings       // round trips that were not spent, and why
	Control    bool          // it went without what makes others fast
	Octets     int64         // message text as the client sent it
	Auth       *auth.Report  // who it is from; nil where that was not asked, or no text came
	InDoubt    bool          // every octet was sent, but no final reply came
	Took       time.Duration // from MAIL to the final reply
}

func (t *transaction) summary(status string, said smtpwire.Reply) Summary {
	sum := Summary{
		Door: t.s.door.name, ID: t.id, From: t.mail.Path.String(), Status: status, Reply: said,
		Relay: t.rec.relay, TLS: t.rec.tls, Verified: t.rec.verified, Resumption: t.rec.resumed, Trips: t.rec.trips,
		Saved: t.rec.saved, Control: t.plain, Auth: t.rec.judged,
		InDoubt: t.inDoubt(), Took: time.Since(t.start),
	}
	for _, rc := range t.rcpts {
		sum.To = append(sum.To, rc.cmd.Path.String())
	}
	if t.msg != nil {
		sum.Octets = t.msg.scan.Octets
	}
	return sum
}

// write puts the transaction's line into the log, in Postfix's order with our
// fields behind, and counts it.
func (t *transaction) write(status string, said smtpwire.Reply) {
	s := t.s
	sum := t.summary(status, said)
	dsn, _ := said.Enhanced()
	fields := []zap.Field{
		zap.String("S", t.id),
		zap.String("qid", queueID(said)),
		zap.String("from", sum.From),
		zap.String("to", listed(sum.To)),
		zap.Int("nrcpt", len(sum.To)),
		zap.String("relay", sum.Relay),
		zap.String("tls", sum.TLS),
		zap.Bool("verified", sum.Verified),
		zap.String("tls_session", describeResumption(sum.Resumption)),
		zap.Int("conn_use", t.rec.used),
		zap.String("delay", seconds(sum.Took)),
		zap.String("delays", t.delays(t.start.Add(sum.Took))),
		zap.Int("trips", sum.Trips),
		zap.Int("saved", sum.Saved.total()),
		zap.String("how", sum.Saved.String()),
		zap.String("dsn", dsn),
		zap.String("status", status),
		zap.String("reply", replied(said)),
		zap.String("client", s.client.addr.String()),
		zap.String("helo", s.client.helo),
		zap.String("client_tls", describeTLS(s.client.tls)),
		zap.String("client_tls_session", describeResumption(s.client.resumption())),
		zap.Int64("size", sum.Octets),
	}
	fields = append(fields, t.rec.verdict()...)
	if s.own.loggedIn() {
		fields = append(fields, zap.String("client_login", s.own.mechanism)) // as whom, the backend knows
	}
	if t.rec.tap != "" {
		fields = append(fields, zap.String("tap", t.rec.tap))
	}
	if t.rec.ended != "" {
		fields = append(fields, zap.String("ended", t.rec.ended))
	}
	if sum.Control {
		fields = append(fields, zap.Bool("control", true))
	}
	if t.rec.recalled > 0 {
		fields = append(fields, zap.Int("recalled", t.rec.recalled))
	}
	if sum.InDoubt {
		fields = append(fields, zap.Bool("in_doubt", true))
	}
	if refused := t.refused(); refused != "" {
		fields = append(fields, zap.String("refused", refused))
	}
	if len(t.notes) > 0 {
		fields = append(fields, zap.NamedError("trouble", errors.Join(t.notes...)))
	}
	s.door.log.Info(s.door.name, fields...)
	s.door.metrics.transaction(sum)
	if s.door.done != nil {
		s.door.done(sum)
	}
}

// replied is a reply for the log; the zero reply is none.
func replied(r smtpwire.Reply) string {
	if r.IsZero() {
		return ""
	}
	return r.String()
}

// maxListed bounds how many recipients one log line names.
const maxListed = 50

// listed joins addresses for one log line, within bounds.
func listed(addrs []string) string {
	if n := len(addrs); n > maxListed {
		return strings.Join(addrs[:maxListed], ",") + fmt.Sprintf(",and %d more", n-maxListed)
	}
	return strings.Join(addrs, ",")
}

// refused lists recipients that are not delivered to, with the reason.
func (t *transaction) refused() string {
	var list []string
	for _, rc := range t.rcpts {
		r := rc.reply
		if rc.accepted() {
			r = rc.final
		}
		if r.Class() < 4 {
			continue
		}
		if len(list) == maxListed {
			list = append(list, "and more")
			break
		}
		list = append(list, rc.cmd.Path.String()+" "+r.String())
	}
	if len(t.rcpts) == 1 && t.rcpts[0].accepted() {
		return "" // the reply says it
	}
	return strings.Join(list, "; ")
}

func (t *transaction) inDoubt() bool {
	for _, l := range t.legs {
		if l.outcome.inDoubt {
			return true
		}
	}
	return false
}

// delays tells where the time went: until a hop took the envelope / until the
// text began / while the client sent it / until the final reply.
func (t *transaction) delays(now time.Time) string {
	parts := make([]string, 0, 4)
	from := t.start
	for _, at := range []time.Time{t.rec.asked, t.rec.textAt, t.rec.commitAt, now} {
		if at.IsZero() || at.Before(from) {
			parts = append(parts, "0")
			continue
		}
		parts = append(parts, seconds(at.Sub(from)))
		from = at
	}
	return strings.Join(parts, "/")
}

func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'g', 3, 64) }

func describeTLS(state *tls.ConnectionState) string {
	if state == nil {
		return "none"
	}
	return tls.VersionName(state.Version) + ":" + tls.CipherSuiteName(state.CipherSuite)
}

// queueID finds the next MTA's own name for the message in its final reply, so
// that one search finds the lines of both: "queued as X" (Postfix), "id=X"
// (Exim), "X Message accepted" (sendmail, OpenSMTPD).
func queueID(r smtpwire.Reply) string {
	text := strings.Join(r.Lines, " ")
	for _, mark := range []string{"queued as ", "id="} {
		if _, rest, ok := strings.Cut(text, mark); ok {
			return word(rest)
		}
	}
	if before, _, ok := strings.Cut(text, " Message accepted"); ok {
		if fields := strings.Fields(before); len(fields) > 0 {
			return word(fields[len(fields)-1])
		}
	}
	return ""
}

// maxQueueID bounds what we take for a queue id.
const maxQueueID = 40

func word(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), " ")
	s = strings.TrimRight(s, ".,;)")
	if len(s) > maxQueueID {
		return ""
	}
	return s
}

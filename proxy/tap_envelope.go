package proxy

import (
	"bytes"
	"encoding/json"
	"strings"
	"time"

	"slipstream/smtpwire"
)

// tapVersion is that of the envelope's format. Fields may be added; what is there
// keeps its name and meaning.
const tapVersion = 1

// A tapMail is the envelope of a copy, as NAME.json has it.
//
// Addresses are as on the wire, without brackets; they are UTF-8, as the door takes
// no others. What hops say need not be: octets that are none become U+FFFD.
type tapMail struct {
	Version    int            `json:"version"`
	ID         string         `json:"id"`      // S= in the log
	Session    string         `json:"session"` // of the client's connection
	File       string         `json:"file"`    // with the text
	Octets     int64          `json:"octets"`  // in that file
	Received   time.Time      `json:"received"`
	Finished   time.Time      `json:"finished"`
	Door       tapDoor        `json:"door"`
	Client     tapClient      `json:"client"`
	Sender     tapAddress     `json:"sender"`
	Recipients []tapRecipient `json:"recipients"`
	Status     string         `json:"status"` // as in the log
}

type tapDoor struct {
	Name      string `json:"name"`
	Direction string `json:"direction"` // "inbound", "outbound"
	Protocol  string `json:"protocol"`  // "smtp", "lmtp": what the client spoke
}

type tapClient struct {
	Address string `json:"address"` // "" for a local socket
	Port    uint16 `json:"port"`
	HELO    string `json:"helo"`
	TLS     string `json:"tls"` // "none", or version and cipher
}

// A tapAddress is one address of the envelope. Names of parameters are in upper
// case, values as they came.
type tapAddress struct {
	Address    string            `json:"address"`
	Parameters map[string]string `json:"parameters"`
}

type tapRecipient struct {
	tapAddress
	Outcome  string `json:"outcome"` // "sent", "deferred", "bounced", "unknown"
	Earlier  bool   `json:"earlier"` // that was in an earlier transaction, and nothing was sent in this one
	Code     int    `json:"code"`
	Enhanced string `json:"enhanced"` // "" for none
	Text     string `json:"text"`     // behind them, lines joined by line feeds
	Hop      string `json:"hop"`      // "" for none
	HopTLS   string `json:"hop_tls"`  // "none", or version and cipher
}

// tapped hands the message to the tap where it was delivered to somebody, or may
// have been. It returns whether its text is the tap's now.
func (t *transaction) tapped() bool {
	tap, d := t.s.door.tap, t.s.door
	if t.msg == nil || !tap.wants(d.name) || !t.arrivedSomewhere() {
		return false
	}
	now := time.Now()
	m := &message{prefix: t.msg.prefix, header: t.msg.header, body: t.msg.body, without: t.msg.without}
	c := &tapCopy{name: newTapName(now, t.id), door: d.name, text: m, octets: m.size()}
	if t.rec.tap = tap.glance(c); t.rec.tap == "" {
		c.envelope = t.tapMail(c, now).encode()
		c.load = loadOf(m, c.envelope)
		t.rec.tap = tap.take(c)
	}
	if t.rec.tap != "" {
		t.rec.tap = "left out: " + t.rec.tap
		return false
	}
	t.rec.tap = c.name
	return true
}

// arrivedSomewhere tells whether a hop took the message in this transaction, or
// may have.
func (t *transaction) arrivedSomewhere() bool {
	for _, rc := range t.rcpts {
		if rc.recalled {
			continue // that was then
		}
		if word := t.tapOutcome(rc); word == outcomeSent || word == outcomeUnknown {
			return true
		}
	}
	return false
}

// What became of a message for one recipient, in the log's words for all.
const (
	outcomeSent     = "sent"
	outcomeDeferred = "deferred"
	outcomeBounced  = "bounced"
	outcomeUnknown  = "unknown" // every octet was sent, but no final reply came
)

func (t *transaction) tapOutcome(rc *recipient) string {
	switch {
	case rc.accepted() && rc.final.Class() == 2:
		return outcomeSent
	case rc.accepted() && rc.leg != nil && !rc.recalled && rc.leg.outcome.inDoubt:
		return outcomeUnknown
	case rc.told().Class() == 5:
		return outcomeBounced
	}
	return outcomeDeferred
}

// told is the last that the client heard of a recipient.
func (rc *recipient) told() smtpwire.Reply {
	if rc.accepted() && rc.final.Code != 0 {
		return rc.final
	}
	return rc.reply
}

func (t *transaction) tapMail(c *tapCopy, now time.Time) *tapMail {
	s, d := t.s, t.s.door
	m := &tapMail{
		Version: tapVersion, ID: t.id, Session: s.id, File: c.name + tapText, Octets: c.octets,
		Received: t.start.UTC(), Finished: now.UTC(),
		Door:   tapDoor{Name: d.name, Direction: "outbound", Protocol: "smtp"},
		Client: tapClient{HELO: s.client.helo, TLS: describeTLS(s.client.tls)},
		Sender: tapAddressOf(t.mail), Status: t.status(),
	}
	if d.inbound {
		m.Door.Direction = "inbound"
	}
	if d.lmtp {
		m.Door.Protocol = "lmtp"
	}
	if addr := s.client.addr; addr.IsValid() {
		m.Client.Address, m.Client.Port = addr.Addr().String(), addr.Port()
	}
	for _, rc := range t.rcpts {
		m.Recipients = append(m.Recipients, t.tapRecipient(rc))
	}
	return m
}

func (t *transaction) tapRecipient(rc *recipient) tapRecipient {
	said := rc.told()
	r := tapRecipient{tapAddress: tapAddressOf(rc.cmd), Outcome: t.tapOutcome(rc), Code: said.Code}
	r.Enhanced, _ = said.Enhanced()
	r.Text = tapWords(said, r.Enhanced)
	if r.Earlier = rc.recalled; rc.leg != nil && !r.Earlier {
		r.Hop, r.HopTLS = rc.leg.hop, rc.leg.hopTLS
	}
	return r
}

// maxTapWords bounds what an envelope keeps of one reply.
const maxTapWords = 1000

// tapWords is the text of a reply behind its codes.
func tapWords(r smtpwire.Reply, enhanced string) string {
	lines := make([]string, len(r.Lines))
	for i, line := range r.Lines {
		if enhanced != "" {
			line = strings.TrimPrefix(strings.TrimPrefix(line, enhanced), " ")
		}
		lines[i] = line
	}
	return cut(strings.Join(lines, "\n"), maxTapWords)
}

func tapAddressOf(c smtpwire.Command) tapAddress {
	a := tapAddress{Address: c.Path.Mailbox(), Parameters: make(map[string]string)}
	for _, p := range c.Params {
		a.Parameters[strings.ToUpper(p.Name)] = p.Value
	}
	return a
}

// encode makes the octets of the file: one line.
func (m *tapMail) encode() []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // addresses are no HTML
	_ = e.Encode(m)        // nothing in it can fail
	return b.Bytes()
}

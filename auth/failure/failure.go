// Package failure sends failure reports: mail that tells the owner of a domain about one message that claimed to be
// from there and failed authentication. It does what RFC 9991 says, in the format of RFC 6591.
//
// A message takes these steps:
//
//  1. [Reporter.Add]: is a report due, for which failures (due.go), and is it of a kind that was told already
//     (similar.go)? Then what it needs is copied (incident.go, excerpt.go) and it waits in a queue
//  2. whoever is to hear of it must agree, and not have heard too much lately (send.go, rates.go)
//  3. the report is written (report.go, feedback.go, encode.go) and handed to an MTA
//
// Everything in a report but its frame was written by a stranger. Nobody is told more than the header of the message,
// and of that no more than a bound; the body is never seen here.
//
// Reports are not kept: what cannot be handed over is lost, as is what waits when the process ends. The same failure
// will come again, and aggregate reports count it.
package failure

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/mail"
	"time"

	"slipstream/auth"
)

// Config says how reports are made. Mailer, Destinations, From and Hostname must be set.
type Config struct {
	Mailer       auth.Mailer
	Destinations auth.Destinations

	// From is who the reports are from: a mailbox in ASCII, with or without a display name. Its domain should be one
	// for which the MTA signs: reports should pass DMARC themselves (https://www.rfc-editor.org/rfc/rfc9991#section-5.1).
	From string
	// ReturnPath is the mailbox of MAIL FROM. Empty is the null path, to which no report can be returned, nor a report
	// on that.
	ReturnPath string
	// Hostname is what this machine is called.
	Hostname string
	// UserAgent says what wrote the reports: a product and its version. Empty: "Slipstream".
	UserAgent string

	Limits Limits

	// Observe is told what became of each report; nil: nobody is. It is called by Add and by the Reporter's own
	// goroutine, and must not wait.
	Observe func(Event)
}

// Limits bound what is sent. Zero means the default.
type Limits struct {
	// Queue is how many messages may wait for their reports, most of them not from one organization. Default: 256.
	Queue int
	// Header is how many octets of a message's header are told. Default: 16 KiB.
	Header int
	// Total and PerDestination are how many reports go out in an hour: in all, and to the addresses of one domain. A
	// sixth of it may go at once. Defaults: 600 and 60. A sender of failure reports must have such limits:
	// https://www.rfc-editor.org/rfc/rfc9991#section-2
	Total, PerDestination int
	// Similar is for how long failures that are like one already told are only counted. Default: an hour.
	Similar time.Duration
}

const (
	defaultQueue          = 256
	defaultHeader         = 16 << 10
	defaultTotal          = 600
	defaultPerDestination = 60
	defaultSimilar        = time.Hour
)

// An Outcome is what became of a report.
type Outcome string

const (
	Sent       Outcome = "sent"       // the MTA took it
	Refused    Outcome = "refused"    // the MTA did not, for good
	Failed     Outcome = "failed"     // it could not be handed over; it is given up
	Unwanted   Outcome = "unwanted"   // the address has not agreed to it, or reports cannot be sent to such a URI
	Unverified Outcome = "unverified" // whether the address agrees could not be found out
	Limited    Outcome = "limited"    // too many have gone out lately
	Similar    Outcome = "similar"    // like one that was told; it is counted
	Loop       Outcome = "loop"       // the message is a report or a reply by a machine itself
	Dropped    Outcome = "dropped"    // too many wait, or the Reporter ends
)

// An Event tells what became of one report. Its strings are printable ASCII.
type Event struct {
	Outcome Outcome
	Kind    Kind   // of failure; empty where there are several
	Domain  string // the author domain that it is about
	To      string // whom it was for; empty where it did not come to that
	Err     error  // why, for Failed, Refused and Unverified
}

// A Reporter sends failure reports. Make one with New, and end it with Close: it owns a goroutine. Its methods may be
// called by several goroutines at once.
type Reporter struct {
	config  Config
	from    mail.Address
	similar similar
	rates   rates

	ctx    context.Context // ends what is under way
	cancel context.CancelFunc
	done   chan struct{} // closed when the goroutine has ended

	queue *queue
}

// maxFrom is the longest sender that is taken, display name included: it must fit a line.
const maxFrom = 500

// New returns a Reporter that has started.
func New(c Config) (*Reporter, error) {
	if c.Mailer == nil || c.Destinations.Resolver == nil {
		return nil, errors.New("failure reports: there is no Mailer or no Resolver")
	}
	from, err := mail.ParseAddress(c.From)
	if err != nil {
		return nil, fmt.Errorf("failure reports: %q cannot be a sender: %w", c.From, err)
	}
	if !printable(from.Address) || len(c.From) > maxFrom || len(from.String()) > maxFrom {
		return nil, fmt.Errorf("failure reports: %.80q cannot be a sender: it must be short and in ASCII", c.From)
	}
	hostname, ok := auth.CanonicalDomain(c.Hostname)
	if !ok {
		return nil, fmt.Errorf("failure reports: %.80q is no host name", c.Hostname)
	}
	c.Hostname = hostname
	c.UserAgent = clean(cmp.Or(c.UserAgent, "Slipstream"))
	if c.Observe == nil {
		c.Observe = func(Event) {}
	}
	l := &c.Limits
	l.Queue = cmp.Or(max(l.Queue, 0), defaultQueue)
	l.Header = cmp.Or(max(l.Header, 0), defaultHeader)
	l.Total = cmp.Or(max(l.Total, 0), defaultTotal)
	l.PerDestination = cmp.Or(max(l.PerDestination, 0), defaultPerDestination)
	l.Similar = cmp.Or(max(l.Similar, 0), defaultSimilar)
	r := &Reporter{
		config: c, from: *from,
		similar: similar{window: l.Similar},
		rates:   rates{perDestination: l.PerDestination, total: bucket{perHour: l.Total}},
		done:    make(chan struct{}),
		queue:   newQueue(l.Queue),
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	go r.run() // ends with Close
	return r, nil
}

// A Message is what a report tells of a message besides what was found out about it.
type Message struct {
	// Header is the whole header as it came, with or without the empty line. It is not kept.
	Header []byte
	// Received is when the message came.
	Received time.Time
	// ID is what the message is called in our own log; it may be empty.
	ID string
	// Port is the client's; 0: not known.
	Port uint16
	// Taken says that the next hop took the message.
	Taken bool
}

// Add reports a message where the owner of its author domain asks for that. It reports whether anything will be told:
// false also where too much is told already. It does not wait for anything.
func (r *Reporter) Add(found *auth.Report, m Message) bool {
	if found == nil {
		return false
	}
	kinds := due(found)
	if len(kinds) == 0 {
		return false
	}
	queued := false
	fields := readable(m.Header)
	if loops(found, fields, r.from.Address) {
		r.tell(Loop, "", found.DMARC.Domain)
		return false
	}
	for _, kind := range kinds {
		count, first := r.similar.count(similarity(found, kind), time.Now())
		if !first {
			r.tell(Similar, kind, found.DMARC.Domain)
			continue
		}
		in := newIncident(found, m, kind, fields, r.config.Limits.Header)
		in.count = count
		if !r.queue.put(in) {
			r.tell(Dropped, kind, found.DMARC.Domain)
			continue
		}
		queued = true
	}
	return queued
}

// Close takes no more, sends what waits, and returns when that is done. When ctx ends, what is left is dropped. It may
// be called more than once. No goroutine is left.
func (r *Reporter) Close(ctx context.Context) error {
	r.queue.close()
	stop := context.AfterFunc(ctx, r.cancel)
	<-r.done
	defer r.cancel()
	if !stop() && r.ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

func (r *Reporter) tell(o Outcome, kind Kind, domain string) {
	r.config.Observe(Event{Outcome: o, Kind: kind, Domain: domain})
}

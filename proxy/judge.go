package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"slipstream/auth"
	"slipstream/auth/arc"
	"slipstream/smtpwire"
)

// A judge is how an inbound door finds out who its mail is from.
type judge struct {
	checker *auth.Checker
	trusted Prefixes // clients that are not judged
	growth  int64    // octets that its fields may take

	warned atomic.Int64 // when it was last told that the DNS does not answer, in seconds
}

// warnEvery is how often the log tells that the DNS does not answer: for one name server in the world that is down, or
// for ours.
const warnEvery = time.Minute

// unanswered tells of a message that could not be judged for want of answers.
func (j *judge) unanswered(log *zap.Logger, r *auth.Report) {
	now, last := time.Now().Unix(), j.warned.Load()
	if now-last < int64(warnEvery/time.Second) || !j.warned.CompareAndSwap(last, now) {
		return
	}
	log.Warn("the DNS did not tell who a message is from; further ones within a minute are not told",
		zap.String("dmarc_domain", r.DMARC.Domain), zap.String("auth", summed(r.Results)), zap.Bool("auth_late", r.Late))
}

// What the fields of a judge take, generously: there are five results and a signature or two, of 600 octets in all, and
// a seal repeats them. The SIZE that we offer leaves room for it.
const (
	resultsGrowth = 4 << 10
	sealGrowth    = 8 << 10
)

// newJudge makes the judge of an inbound door; nil: there is none.
func (p *Proxy) newJudge(cfg *Config, door string, conf *AuthConfig) (*judge, error) {
	if !conf.Enabled {
		return nil, nil
	}
	if p.authDNS == nil {
		return nil, errors.New("auth: the resolver cannot look up what authentication needs")
	}
	names := AuthResolver(p.metrics.timed(p.authDNS))
	suffixes, err := loadSuffixes(conf.DMARCTLDFile)
	if err != nil {
		return nil, err
	}
	j := &judge{trusted: conf.TrustedNetworks, growth: resultsGrowth}
	j.checker = &auth.Checker{
		ID:       conf.id(cfg.Hostname),
		Resolver: names,
		DMARC: &auth.DMARC{
			Resolver: names, Discovery: auth.Discovery(conf.Discovery), Suffixes: suffixes, TrustedSealers: conf.TrustedSealers,
		},
		Enforcement: auth.Enforcement{
			Limit: auth.Policy(conf.Enforce), Unknown: auth.Unknown(conf.OnTemperror),
			Networks: conf.ExemptNetworks, Domains: conf.ExemptDomains, FaultyFrom: true,
		},
		Deadline: conf.Deadline,
		Broke: func(err any) {
			p.metrics.panicked(door)
			p.log.Error("a method of authentication broke by an error in Slipstream", zap.String("door", door),
				zap.Any("panic", err), zap.Stack("stack"))
		},
	}
	if j.checker.Sealer, err = conf.sealer(); err != nil {
		return nil, err
	}
	if j.checker.Sealer != nil {
		j.growth += sealGrowth
	}
	return j, nil
}

// id is the name that a door's field speaks in.
func (a *AuthConfig) id(hostname string) string {
	if a.AuthservID != "" {
		return a.AuthservID
	}
	return hostname
}

// loadSuffixes reads a list of public suffixes; "" is the one that is built in.
func loadSuffixes(path string) (*auth.Suffixes, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("auth: dmarc_tld_file: %w", err)
	}
	defer f.Close() // only read from: nothing to lose
	s, err := auth.ParseSuffixes(f)
	if err != nil {
		return nil, fmt.Errorf("auth: dmarc_tld_file: %s: %w", path, err)
	}
	return s, nil
}

// sealer is what seals messages; nil: nothing does.
func (a *AuthConfig) sealer() (*arc.Sealer, error) {
	if a.ARCKeyFile == "" {
		return nil, nil
	}
	key, err := auth.LoadKey(a.ARCKeyFile)
	if err != nil {
		return nil, fmt.Errorf("auth: arc_key_file: %w", err)
	}
	s := &arc.Sealer{Domain: a.ARCDomain, Selector: a.ARCSelector, Key: key}
	if err := s.Check(); err != nil {
		return nil, fmt.Errorf("auth: arc_domain %q, arc_selector %q, arc_key_file %q: %w",
			a.ARCDomain, a.ARCSelector, a.ARCKeyFile, err)
	}
	return s, nil
}

// judges tells whether mail of a client is judged.
func (j *judge) judges(client netip.Addr) bool {
	return j != nil && !j.trusted.Contains(client.Unmap().WithZone(""))
}

// beginExam starts what the envelope is enough for, where that has not been done.
func (t *transaction) beginExam(ctx context.Context) {
	if !t.judged || t.exam != nil {
		return
	}
	c := &t.s.client
	_, utf8 := t.mail.Params.Get("SMTPUTF8")
	t.exam = &examination{
		judge: t.s.door.auth,
		room:  t.s.door.spools.headers,
		check: t.s.door.auth.checker.Begin(ctx, auth.Envelope{
			Client: c.addr.Addr(), Helo: c.helo, MailFrom: t.mail.Path.Mailbox(), UTF8: utf8,
		}),
	}
}

// dropExam gives an examination up that has not come to its end, and lets go of what it holds.
func (t *transaction) dropExam() {
	if t.exam != nil {
		t.exam.drop()
		t.exam = nil
	}
}

// growth is how many octets we may put above the message.
func (t *transaction) growth() int64 {
	n := int64(len(t.prefix))
	if t.judged {
		n += t.s.door.auth.growth
	}
	return n
}

// examined brings the examination of a text that is here to its end, unless there is an error already. The error is a
// *rejection where the message is not to go on.
func (t *transaction) examined(ctx context.Context, err error) error {
	if err == nil && t.spared() {
		return t.withoutForged(ctx)
	}
	if err != nil || t.exam == nil {
		return err
	}
	start := time.Now()
	report, sealed, err := t.exam.finish(ctx, t.msg, t.prefix)
	if err != nil {
		return &smtpwire.WriteError{Err: err} // the text itself is here
	}
	t.rec.judged, t.rec.judging = report, time.Since(start)
	t.s.door.metrics.judged(t.s.door.name, report, t.rec.judging)
	if sealed != nil {
		t.note(fmt.Errorf("auth: the message is not sealed: %w", sealed))
	}
	if report.Late || report.DMARC.Status == auth.StatusTempError {
		t.s.door.auth.unanswered(t.s.door.log, report)
	}
	if d := report.Decision; d.Code != 0 {
		return &rejection{composed(d.Code, d.Enhanced, d.Text)}
	}
	return nil
}

// A rejection is the verdict that a message is not to be delivered.
type rejection struct{ reply smtpwire.Reply }

func (r *rejection) Error() string { return "auth: " + r.reply.String() }

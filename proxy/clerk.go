package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"slipstream/auth"
	"slipstream/auth/aggregate"
	"slipstream/auth/failure"
)

// A clerk files what was found out about the mail of one door. What it files goes through queues: it waits for nothing.
type clerk struct {
	hostname  string
	discovery auth.Discovery
	log       *zap.Logger
	metrics   *Metrics

	history  *auth.HistoryFile  // nil: there is none
	journal  *aggregate.Journal // nil: mail is not counted
	failures *failure.Reporter  // nil: nobody is told
}

// file files a message that was delivered, or rejected by its verdict. What was put off comes again, and what the
// backend refused was for it to judge.
func (c *clerk) file(t *transaction, status string) {
	found := t.rec.judged
	taken := status == "sent" || status == "mixed"
	if c == nil || found == nil || t.exam == nil || !taken && found.Decision.Action != auth.ActionReject {
		return
	}
	if !slices.ContainsFunc(t.rcpts, (*recipient).accepted) {
		return // who knows nobody here could fill our files
	}
	if c.history != nil {
		err := c.history.Add(found.History(t.id, c.hostname, t.start))
		if err != nil && !errors.Is(err, auth.ErrNoPolicy) {
			c.metrics.reported(reportHistory, "dropped")
			c.log.Debug("history: not written", zap.String("S", t.id), zap.Error(err))
		}
	}
	if c.journal != nil {
		c.journal.Add(aggregate.FromReport(found, c.discovery)...)
	}
	if c.failures != nil {
		c.failures.Add(found, failure.Message{
			Header: t.exam.header, Received: t.start, ID: t.id, Port: t.s.client.addr.Port(), Taken: taken,
		})
	}
}

// An office holds what clerks file into. Files outlive a reload; who sends reports is made anew.
type office struct {
	histories map[string]*auth.HistoryFile // by path
	journal   *aggregate.Journal
	scheduler *aggregate.Scheduler
	reporters []*failure.Reporter // of the plan in force
	retry     context.CancelFunc  // of another attempt to have what is missing; nil: there is none
	missing   bool                // something could not be had
}

// closeOffice is how long reports that are under way may take when they are not wanted any more.
const closeOffice = 5 * time.Second

// hire gives the doors of a plan their clerks, and ends those before. What cannot be had is done without: mail is not to
// wait for reports on it. Called by one at a time.
func (p *Proxy) hire(pl *plan) {
	before := p.office.reporters
	p.office.reporters, p.office.missing = nil, false
	p.stopScheduler()
	if p.office.retry != nil {
		p.office.retry()
	}
	for _, d := range pl.doors {
		conf := pl.inbound(d)
		if d.auth == nil {
			continue
		}
		c := &clerk{
			hostname: pl.config.Hostname, discovery: auth.Discovery(conf.Auth.Discovery),
			log: p.log.With(zap.String("door", d.name)), metrics: p.metrics,
		}
		if path := conf.Auth.DMARCHistoryFile; path != "" {
			c.history = p.historyAt(path)
		}
		if conf.Auth.AggregateReports {
			c.journal = p.journalFor(pl.config)
			p.startScheduler(pl.config, conf)
		}
		if conf.Auth.FailureReports {
			c.failures = p.reporterFor(pl.config, conf)
		}
		d.clerk.Store(c)
	}
	p.dismiss(before)
	if p.office.missing {
		p.hireLater(pl)
	}
}

// hireWait is how long after a failure it is tried again to have what clerks file into.
const hireWait = 10 * time.Minute

// hireLater equips the clerks of a plan after a while, unless another plan comes before that.
func (p *Proxy) hireLater(pl *plan) {
	ctx, cancel := context.WithCancel(p.ending)
	p.office.retry = cancel
	p.work.Go(func() {
		defer cancel()
		timer := time.NewTimer(hireWait)
		defer timer.Stop()
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		p.reload.Lock()
		defer p.reload.Unlock()
		if ctx.Err() == nil {
			p.equip(pl)
		}
	})
}

// equip gives clerks what they have had to do without.
func (p *Proxy) equip(pl *plan) {
	p.office.missing = false
	for _, d := range pl.doors {
		old := d.clerk.Load()
		if old == nil {
			continue
		}
		c, conf := *old, pl.inbound(d)
		if path := conf.Auth.DMARCHistoryFile; path != "" && c.history == nil {
			c.history = p.historyAt(path)
		}
		if conf.Auth.AggregateReports && c.journal == nil {
			c.journal = p.journalFor(pl.config)
			p.startScheduler(pl.config, conf)
		}
		d.clerk.Store(&c)
	}
	if p.office.missing {
		p.hireLater(pl)
	}
}

// dismiss ends reporters in the background.
func (p *Proxy) dismiss(reporters []*failure.Reporter) {
	for _, r := range reporters {
		p.work.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), closeOffice)
			defer cancel()
			_ = r.Close(ctx) // what is left is lost, as its documentation says
		})
	}
}

// openSoon opens something on a disk that may hang; what is opened too late is dropped.
func openSoon[T any](path string, open func() (T, error), drop func(T)) (none T, err error) {
	type opened struct {
		v   T
		err error
	}
	done, late := make(chan opened), make(chan struct{})
	go func() { // ends when the disk answers
		v, err := open()
		select {
		case done <- opened{v, err}:
		case <-late:
			if err == nil {
				drop(v)
			}
		}
	}()
	timer := time.NewTimer(spoolWait)
	defer timer.Stop()
	select {
	case o := <-done:
		return o.v, o.err
	case <-timer.C:
		close(late)
		return none, fmt.Errorf("%s: no answer from the disk within %v", path, spoolWait)
	}
}

// historyAt opens a history file, once.
func (p *Proxy) historyAt(path string) *auth.HistoryFile {
	if h := p.office.histories[path]; h != nil {
		return h
	}
	options := auth.HistoryOptions{Failed: func(err error) {
		if err != nil {
			p.log.Warn("the history file cannot be written to; records are kept back, then dropped", zap.Error(err))
			return
		}
		p.log.Info("the history file can be written to again", zap.String("file", path))
	}}
	h, err := openSoon(path, func() (*auth.HistoryFile, error) { return auth.OpenHistory(path, options) },
		func(late *auth.HistoryFile) { _ = late.Close(context.Background()) })
	if err != nil {
		p.office.missing = true
		p.metrics.reported(reportHistory, "missing")
		p.log.Error("there is no history file; it is tried again later", zap.String("file", path), zap.Error(err))
		return nil
	}
	if p.office.histories == nil {
		p.office.histories = make(map[string]*auth.HistoryFile)
	}
	p.office.histories[path] = h
	return h
}

// journalFor opens the journal of aggregate reports, once.
func (p *Proxy) journalFor(cfg *Config) *aggregate.Journal {
	if p.office.journal != nil {
		return p.office.journal
	}
	dir := cfg.ReportsDir()
	options := aggregate.Options{Dir: dir, MaxSize: int64(cfg.Reports.MaxSize), Observe: p.aggregated}
	j, err := openSoon(dir, func() (*aggregate.Journal, error) { return aggregate.Open(options) },
		func(late *aggregate.Journal) { _ = late.Close() })
	if err != nil {
		p.office.missing = true
		p.metrics.reported(reportAggregate, "missing")
		p.log.Error("mail is not counted for aggregate reports; it is tried again later", zap.Error(err))
		return nil
	}
	p.office.journal = j
	return j
}

// startScheduler has aggregate reports sent; the first door that wants them says by whom, where nothing else does.
func (p *Proxy) startScheduler(cfg *Config, conf *InboundConfig) {
	if p.office.journal == nil || p.office.scheduler != nil {
		return
	}
	mailer, destinations, err := p.reporting(cfg, conf)
	if err == nil {
		p.office.scheduler, err = aggregate.NewScheduler(p.office.journal, aggregate.SchedulerOptions{
			Config:       cfg.AggregateConfig(p.version),
			Destinations: destinations,
			Mailer:       mailer,
			Observe:      p.aggregated,
		})
	}
	if err != nil {
		p.office.scheduler = nil
		p.log.Error("aggregate reports are not sent", zap.Error(err))
	}
}

func (p *Proxy) stopScheduler() {
	if p.office.scheduler != nil {
		_ = p.office.scheduler.Close() // what was under way is sent again
		p.office.scheduler = nil
	}
}

// reporterFor starts who sends a door's failure reports.
func (p *Proxy) reporterFor(cfg *Config, conf *InboundConfig) *failure.Reporter {
	mailer, destinations, err := p.reporting(cfg, conf)
	var r *failure.Reporter
	if err == nil {
		r, err = failure.New(failure.Config{
			Mailer: mailer, Destinations: destinations, Hostname: cfg.Hostname,
			UserAgent: generator(p.version),
			From:      cmp.Or(conf.Auth.DMARCForensicSender, postmaster(cfg.Hostname)),
			Observe:   p.told,
		})
	}
	if err != nil {
		p.log.Error("failure reports are not sent", zap.String("door", conf.Name), zap.Error(err))
		return nil
	}
	p.office.reporters = append(p.office.reporters, r)
	return r
}

func postmaster(hostname string) string { return "postmaster@" + hostname }

// AggregateConfig says who reports, by a program of some version.
func (c *Config) AggregateConfig(version string) aggregate.Config {
	return aggregate.Config{
		Submitter: c.Hostname, OrgName: c.Reports.OrgName, Email: c.Reports.Email, ContactInfo: c.Reports.ContactInfo,
		Generator: generator(version),
	}
}

func generator(version string) string { return strings.TrimSpace("Slipstream " + version) }

// reporting is how reports on a door's mail leave, and who wants them.
func (p *Proxy) reporting(cfg *Config, conf *InboundConfig) (*Mailer, auth.Destinations, error) {
	destinations, err := conf.Auth.Destinations(AuthResolver(p.authDNS))
	if err != nil {
		return nil, destinations, err
	}
	o := cfg.ReportRelay(conf)
	o.Resolver, o.Dial, o.IsOwn = p.namesFor(cfg), p.dial, p.isOwn
	mailer, err := NewMailer(o)
	return mailer, destinations, err
}

// ReportRelay is the MTA that reports on a door's mail are handed to: the one that is configured, or the backend.
func (c *Config) ReportRelay(d *InboundConfig) MailerOptions {
	o := MailerOptions{Hostname: c.Hostname, Timeouts: &c.Timeouts}
	if c.Reports.Relay.IsZero() {
		o.To, o.TLS, o.TLSName, o.CAFile = d.Backend, d.BackendTLS, d.BackendTLSName, d.BackendCAFile
		o.ClientAddress = d.ClientAddress
		return o
	}
	if o.To = c.Reports.Relay; o.To.Path == "" {
		o.TLS = "may"
	}
	return o
}

// Destinations tells who wants reports, by the way in which a door finds policies.
func (a *AuthConfig) Destinations(names auth.Resolver) (auth.Destinations, error) {
	suffixes, err := loadSuffixes(a.DMARCTLDFile)
	return auth.Destinations{Resolver: names, Discovery: auth.Discovery(a.Discovery), Suffixes: suffixes}, err
}

// closeClerks ends what reports are made of. Nobody files any more.
func (p *Proxy) closeClerks() {
	ctx, cancel := context.WithTimeout(context.Background(), closeOffice)
	defer cancel()
	p.stopScheduler()
	for _, r := range p.office.reporters {
		_ = r.Close(ctx) // what is left is lost, as its documentation says
	}
	for path, h := range p.office.histories {
		if err := h.Close(ctx); err != nil {
			p.log.Warn("records of the history file are lost", zap.String("file", path), zap.Error(err))
		}
	}
	if err := p.office.journal.Close(); err != nil {
		p.log.Warn("what was counted last for aggregate reports may be lost", zap.Error(err))
	}
	p.office = office{}
}

// Kinds of reports.
const (
	reportAggregate = "aggregate"
	reportFailure   = "failure"
	reportHistory   = "history"
)

// aggregated hears what became of aggregate reports.
func (p *Proxy) aggregated(e aggregate.Event) {
	p.metrics.reported(reportAggregate, strings.TrimPrefix(string(e.Kind), "report "))
	fields := []zap.Field{zap.String("day", e.Day.String())}
	if e.Domain != "" {
		fields = append(fields, zap.String("domain", e.Domain), zap.String("to", e.To), zap.String("report", e.ReportID),
			zap.Int("rows", e.Rows))
	}
	if e.Count != 0 {
		fields = append(fields, zap.Int64("count", e.Count))
	}
	if e.Err != nil {
		p.log.Warn("aggregate reports: "+string(e.Kind), append(fields, zap.Error(e.Err))...)
		return
	}
	p.log.Info("aggregate reports: "+string(e.Kind), fields...)
}

// told hears what became of a failure report.
func (p *Proxy) told(e failure.Event) {
	p.metrics.reported(reportFailure, string(e.Outcome))
	log := p.log.Debug
	switch e.Outcome {
	case failure.Sent:
		log = p.log.Info
	case failure.Refused, failure.Failed:
		log = p.log.Warn
	}
	log(fmt.Sprintf("failure report: %s", e.Outcome), zap.String("domain", e.Domain), zap.String("to", e.To),
		zap.String("kind", string(e.Kind)), zap.Error(e.Err))
}

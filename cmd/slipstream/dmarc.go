package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"slipstream/auth"
	"slipstream/auth/aggregate"
	"slipstream/proxy"
)

type dmarcCmd struct {
	Report dmarcReportCmd `cmd:"" help:"Show the aggregate reports on a day."`
}

type dmarcReportCmd struct {
	configFlag
	Dir    string `placeholder:"DIR" help:"Where reports are gathered, instead of what the configuration says."`
	Day    string `placeholder:"YYYY-MM-DD" help:"Day in UTC; \"today\" for what there is so far (yesterday)."`
	DryRun bool   `help:"Show what would be sent. Nothing is sent, and nothing is changed."`
	XML    bool   `name:"xml" help:"Print the documents too."`
	Out    string `placeholder:"DIR" help:"Put the documents, compressed, into files here."`
}

// Help tells what the one line does not.
func (*dmarcReportCmd) Help() string {
	return `Doors with aggregate_reports = true write down what came in the name of domains that ask for reports on it
(rua=), and the running service sends the reports (RFC 9990) once a day, soon after midnight UTC. So there is nothing
to be started here: --dry-run shows which reports there are on a day, how large they are, and to whom they go, or why
not, which the DNS is asked for. The service may go on meanwhile.

Exit codes: 0 done, 1 something went wrong, 64 wrong command line or no --dry-run, 78 wrong configuration.`
}

// errNoDryRun: reports are sent by one process only, which remembers what it has sent.
var errNoDryRun = errors.New("the running service sends reports by itself, soon after midnight UTC, and after a " +
	"pause those that are missing; --dry-run shows them")

// Run shows reports.
func (c *dmarcReportCmd) Run(con console) error {
	if !c.DryRun {
		return &exitError{exitUsage, errNoDryRun}
	}
	day, err := parseReportDay(c.Day, time.Now())
	if err != nil {
		return &exitError{exitUsage, fmt.Errorf("--day: %w", err)}
	}
	s, err := c.source()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	days, err := aggregate.Days(s.dir)
	if err != nil {
		return fmt.Errorf("%w; run this as the user that the service runs as", err)
	}
	sent, err := aggregate.ReadSent(s.dir)
	if err != nil {
		return fmt.Errorf("%w; run this as the user that the service runs as", err)
	}
	p := &reportPrinter{dmarcReportCmd: c, out: con.out, destinations: s.destinations, sent: sent}
	sum, err := aggregate.Reports(ctx, s.dir, day, s.config, nil, func(r *aggregate.Report) error {
		return p.print(ctx, r)
	})
	if err != nil {
		return err
	}
	return p.summary(day, days, sum)
}

// parseReportDay reads the day of the command line.
func parseReportDay(s string, now time.Time) (aggregate.Day, error) {
	switch s {
	case "":
		return aggregate.DayOf(now) - 1, nil
	case "today":
		return aggregate.DayOf(now), nil
	}
	return aggregate.ParseDay(s)
}

// A reportSource is where reports come from, and what they are made with.
type reportSource struct {
	dir          string
	config       aggregate.Config
	destinations auth.Destinations
}

// source reads the configuration, unless a directory was given.
func (c *dmarcReportCmd) source() (reportSource, error) {
	if c.Dir != "" {
		host, err := os.Hostname()
		if err != nil {
			host = "localhost"
		}
		dns, err := newResolver(proxy.DefaultConfig().DNS)
		return reportSource{
			dir: c.Dir, config: aggregate.Config{Submitter: host},
			destinations: auth.Destinations{Resolver: proxy.AuthResolver(dns)},
		}, err
	}
	cfg, err := proxy.LoadConfig(c.Config)
	if err != nil {
		return reportSource{}, &exitError{exitConfig, err}
	}
	dns, err := newResolver(cfg.DNS)
	if err != nil {
		return reportSource{}, &exitError{exitConfig, err}
	}
	destinations, err := reportDestinations(cfg, proxy.AuthResolver(dns))
	if err != nil {
		return reportSource{}, &exitError{exitConfig, err}
	}
	return reportSource{
		dir: cfg.ReportsDir(), config: cfg.AggregateConfig(buildVersion()), destinations: destinations,
	}, nil
}

// reportDestinations finds organizations as the first door does that reports.
func reportDestinations(cfg *proxy.Config, names auth.Resolver) (auth.Destinations, error) {
	for _, door := range cfg.Inbound {
		if door.Auth.AggregateReports {
			return door.Auth.Destinations(names)
		}
	}
	return auth.Destinations{Resolver: names}, nil
}

// A reportPrinter prints reports as they are made.
type reportPrinter struct {
	*dmarcReportCmd
	out          io.Writer
	destinations aggregate.Destinations
	sent         *aggregate.Sent

	reports   int
	unwritten int   // documents that could not be put into files
	firstErr  error // why the first of them could not
}

func (p *reportPrinter) print(ctx context.Context, r *aggregate.Report) error {
	p.reports++
	const anybody = "postmaster@example.com" // the size hardly depends on whom it goes to
	size := len(r.Message(anybody, time.Now()))
	_, err := fmt.Fprintf(p.out, "%s: %s, %s, %d octets, Report-ID %s\n", r.Published.Domain,
		counted(r.Messages, "message"), counted(int64(r.Rows), "row"), size, r.ID)
	for _, to := range aggregate.Recipients(ctx, p.destinations, r) {
		_, lineErr := fmt.Fprintf(p.out, "  %s\n", p.recipient(r, to))
		err = errors.Join(err, lineErr)
	}
	if p.XML && err == nil {
		err = r.WriteXML(p.out)
		_, lineErr := fmt.Fprintln(p.out)
		err = errors.Join(err, lineErr)
	}
	if p.Out == "" || err != nil {
		return err
	}
	if fileErr := p.file(r); fileErr != nil { // the others may do
		if p.unwritten == 0 {
			p.firstErr = fileErr
		}
		p.unwritten++
		_, err = fmt.Fprintf(p.out, "  not written: %s\n", printable(fileErr.Error()))
	}
	return err
}

// recipient is a line about somebody who may get a report.
func (p *reportPrinter) recipient(r *aggregate.Report, to aggregate.Recipient) string {
	switch {
	case to.Err != nil:
		return printable(fmt.Sprintf("not known whether to %s: %v", to.Asked, to.Err))
	case to.To == "":
		_, host, _ := strings.Cut(to.Asked, "@")
		return printable(fmt.Sprintf("not to %s: there is no good %s._report._dmarc.%s that says it wants reports",
			to.Asked, r.Published.Domain, host))
	}
	line := "to " + to.To
	if to.To != to.Asked {
		line += ", instead of " + to.Asked
	}
	switch outcome := p.sent.Outcome(r.Day, r.ID, to.To); {
	case p.sent.Complete(r.Day):
		line += " (the day is done: it was sent, or given up)"
	case outcome == "trying":
		line += " (may have been sent, and will be again)"
	case outcome != "":
		line += " (" + outcome + ")"
	}
	return printable(line)
}

// file writes a report under its name, which is always the same.
func (p *reportPrinter) file(r *aggregate.Report) error {
	const mode = 0o600 // others' mail is nobody's business
	return os.WriteFile(filepath.Join(p.Out, shortName(r.Filename())), r.Compressed, mode)
}

// maxFileName is how many octets file systems take, as a rule.
const maxFileName = 255

// shortName makes a name fit that has two domain names in it: what they end in goes. What tells a report from all
// others is the Report-ID, near the end of the name.
func shortName(name string) string {
	const tail = 3 // the period, and the Report-ID
	if len(name) <= maxFileName {
		return name
	}
	parts := strings.Split(name, "!")
	end := "!" + strings.Join(parts[max(0, len(parts)-tail):], "!")
	return name[:max(0, maxFileName-len(end))] + end
}

func (p *reportPrinter) summary(day aggregate.Day, days []aggregate.Day, sum aggregate.Summary) error {
	line := fmt.Sprintf("%s: %s on %s, of %s", day, counted(int64(p.reports), "report"),
		counted(int64(sum.Domains), "domain"), counted(sum.Messages, "message"))
	if sum.LeftOut > 0 {
		line += fmt.Sprintf("; %d are in none", sum.LeftOut)
	}
	if sum.Skipped > 0 {
		line += fmt.Sprintf("; %d octets of the file are damaged", sum.Skipped)
	}
	if sum.Messages == 0 {
		line = fmt.Sprintf("%s: nothing was written down", day)
		if len(days) == 0 {
			line += ", nor on any other day"
		} else {
			line += ", but on"
			for _, d := range days {
				line += " " + d.String()
			}
		}
	}
	if _, err := fmt.Fprintln(p.out, line); err != nil || p.unwritten == 0 {
		return err
	}
	return fmt.Errorf("%s could not be written: %w", counted(int64(p.unwritten), "document"), p.firstErr)
}

// counted is "1 row", "2 rows".
func counted(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

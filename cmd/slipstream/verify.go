package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"slipstream/auth"
	"slipstream/proxy"
)

type verifyCmd struct {
	IP        string        `name:"ip" placeholder:"ADDRESS" help:"The client. Without it, SPF and iprev are left out."`
	Helo      string        `placeholder:"NAME" help:"What the client called itself."`
	MailFrom  string        `placeholder:"MAILBOX" help:"MAIL FROM, with or without its brackets (<>, the null path)."`
	DNS       []string      `name:"dns" placeholder:"IP[:PORT]" help:"Name servers to ask (the system's)."`
	ID        string        `name:"id" placeholder:"AUTHSERV-ID" help:"Whose word the field is (this system's name)."`
	Discovery string        `enum:"treewalk,psl" default:"treewalk" help:"How organizations are found: treewalk, psl."`
	Deadline  time.Duration `default:"15s" help:"How long the DNS may take, all in all."`
	Explain   bool          `help:"Tell each step, with every question to the DNS and its answer."`
}

// Help tells what the one line does not.
func (*verifyCmd) Help() string {
	return `It reads a message from standard input and prints the Authentication-Results field that an inbound door
would put on top of it. Nothing is changed, sent or reported. Lines may end in CRLF or LF: LF is read as CRLF, which is
what was signed. A message may have up to 100 MiB.

--discovery tells how organizational domains are found: by walking up the tree of names (RFC 9989), or with the built-in
list of public suffixes (RFC 7489).

--explain tells what the field follows from: every question to the DNS with its answer, each signature with the hashes
of its body and header, the chain of ARC, the tree walk and the records of DMARC, which domains are aligned, and what a
door would do with each setting of "enforce".

Exit codes, by the result of DMARC: 0 pass, or none (there is no policy), 3 fail, 4 permerror (no From to judge by, or a
record that cannot be used), 75 temperror (try again later); 1 the message cannot be read, 64 wrong command line.`
}

// Exit codes of verify, by the result of DMARC.
const (
	exitVerifyFail      = 3
	exitVerifyPermerror = 4
)

// Run judges one message.
func (c *verifyCmd) Run(con console) error {
	envelope, err := c.envelope()
	if err != nil {
		return err
	}
	checker, err := c.checker()
	if err != nil {
		return err
	}
	dns, err := dnsOf(c.DNS)
	if err != nil {
		return err
	}
	m, err := readMessage(os.Stdin)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	trace := &dnsTrace{dns: dns}
	if c.Explain {
		patient, cancel := context.WithTimeout(ctx, c.Deadline)
		defer cancel()
		trace.patient = patient
	}
	checker.Resolver = proxy.AuthResolver(trace)
	checker.DMARC = &auth.DMARC{Resolver: checker.Resolver, Discovery: auth.Discovery(c.Discovery)}
	report := examine(ctx, checker, envelope, m)
	if err := ctx.Err(); err != nil {
		return errors.New("interrupted")
	}
	var out strings.Builder
	out.Write(m.asLines(report.Results.Field()))
	if c.Explain {
		explain(&out, m, report, trace, checker.DMARC.Discovery)
	}
	if _, err := fmt.Fprint(con.out, out.String()); err != nil {
		return err
	}
	return verifyExit(report.DMARC.Result)
}

// examine has a message judged.
func examine(ctx context.Context, c *auth.Checker, e auth.Envelope, m message) *auth.Report {
	check := c.Begin(ctx, e)
	check.Header(m.section)
	_, _ = check.Write(m.body) // never fails
	return check.Finish(ctx)
}

// verifyExit is the exit code for a result.
func verifyExit(result string) error {
	switch result {
	case auth.ResultFail:
		return &exitError{code: exitVerifyFail}
	case auth.ResultPermerror:
		return &exitError{code: exitVerifyPermerror}
	case auth.ResultTemperror:
		return &exitError{code: exitTempFail}
	}
	return nil
}

// checker is what the command line asks for, but for the DNS.
func (c *verifyCmd) checker() (*auth.Checker, error) {
	if c.Deadline <= 0 {
		return nil, &exitError{exitUsage, errors.New("--deadline must be more than 0")}
	}
	id := c.ID
	if id == "" {
		id, _ = os.Hostname() // "" becomes "localhost"
		id = cmp.Or(id, "localhost")
	}
	if err := auth.CheckID(id); err != nil {
		return nil, &exitError{exitUsage, fmt.Errorf("--id: %w", err)}
	}
	return &auth.Checker{ID: id, Deadline: c.Deadline}, nil
}

// envelope is what is said of the client.
func (c *verifyCmd) envelope() (auth.Envelope, error) {
	var e auth.Envelope
	if c.IP == "" {
		if c.Helo != "" || c.MailFrom != "" {
			return e, &exitError{exitUsage, errors.New("--helo and --mail-from say nothing without --ip")}
		}
		return e, nil
	}
	addr, err := netip.ParseAddr(c.IP)
	if err != nil || addr.Zone() != "" {
		return e, &exitError{exitUsage, fmt.Errorf("--ip: %q is not an address", c.IP)}
	}
	from := strings.TrimSuffix(strings.TrimPrefix(c.MailFrom, "<"), ">")
	for flag, value := range map[string]string{"--helo": c.Helo, "--mail-from": from} {
		if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return e, &exitError{exitUsage, fmt.Errorf("%s: %q cannot stand in a command", flag, value)}
		}
	}
	return auth.Envelope{Client: addr, Helo: c.Helo, MailFrom: from}, nil
}

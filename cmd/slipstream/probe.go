package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"slipstream/proxy"
)

type probeCmd struct {
	Host    string        `arg:"" name:"host[:port]" help:"Name or address of the host; port 25 unless given. IPv6 addresses with a port go in brackets."`
	TLS     string        `enum:"auto,starttls,implicit,none" default:"auto" help:"auto (STARTTLS where offered, implicit on port 465), starttls, implicit or none."`
	Helo    string        `placeholder:"NAME" help:"Name to give in EHLO (this system's)."`
	MX      bool          `name:"mx" help:"The argument is a domain: probe each of its mail exchangers."`
	DNS     []string      `name:"dns" placeholder:"IP[:PORT]" help:"Name servers to ask (the system's)."`
	Timeout time.Duration `default:"30s" help:"Time for one host."`
	JSON    bool          `name:"json" help:"Print a JSON array with an object for each host."`
}

// Help tells what the one line does not.
func (*probeCmd) Help() string {
	return `It says EHLO, STARTTLS, EHLO, a few NOOPs to measure the trip, and QUIT; never MAIL.

The last lines tell what one small message to one recipient costs in round trips: in lock step, with PIPELINING, and with
CHUNKING (BDAT) as well; from the first packet to the final reply, and on a connection that is warm.

Exit codes: 0 every host answered in full, 1 one did not, 64 wrong command line.`
}

// Run probes and prints what was found.
func (c *probeCmd) Run(con console) error {
	host, port, err := splitHost(c.Host)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	o, err := c.options()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var reports []proxy.ProbeReport
	if c.MX {
		if reports, err = proxy.ProbeMX(ctx, host, port, o); err != nil {
			return errors.New(printable(err.Error()))
		}
	} else {
		reports = []proxy.ProbeReport{proxy.ProbeHost(ctx, host, port, o)}
	}
	if err := c.print(con, reports); err != nil {
		return err
	}
	for _, r := range reports {
		if r.Failure != "" {
			return &exitError{code: exitFailed}
		}
	}
	return nil
}

func (c *probeCmd) print(con console, reports []proxy.ProbeReport) error {
	if c.JSON {
		e := json.NewEncoder(con.out)
		e.SetIndent("", "  ")
		return e.Encode(reports)
	}
	var b strings.Builder
	for i, r := range reports {
		if i > 0 {
			b.WriteByte('\n')
		}
		table(&b, r, time.Now())
	}
	_, err := fmt.Fprint(con.out, b.String())
	return err
}

func (c *probeCmd) options() (proxy.ProbeOptions, error) {
	o := proxy.ProbeOptions{Helo: c.Helo, TLS: c.TLS, Timeout: c.Timeout}
	if c.Timeout <= 0 {
		return o, &exitError{exitUsage, errors.New("--timeout must be more than 0")}
	}
	if strings.ContainsFunc(c.Helo, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return o, &exitError{exitUsage, fmt.Errorf("--helo: %q cannot stand in a command", c.Helo)}
	}
	if o.Helo == "" {
		o.Helo, _ = os.Hostname() // "" becomes "localhost"
	}
	conf := proxy.DefaultConfig().DNS
	for _, s := range c.DNS {
		server, err := parseServer(s)
		if err != nil {
			return o, &exitError{exitUsage, fmt.Errorf("--dns: %w", err)}
		}
		conf.Servers = append(conf.Servers, server)
	}
	var err error
	o.Resolver, err = newResolver(conf)
	return o, err
}

const (
	portSMTP = 25
	portDNS  = 53
)

// splitHost reads HOST or HOST:PORT.
func splitHost(s string) (string, uint16, error) {
	if addr, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return addr.String(), portSMTP, nil
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = s, strconv.Itoa(portSMTP)
	}
	_, notAddr := netip.ParseAddr(host)
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || host == "" || notAddr != nil && strings.ContainsAny(host, ":/@ ") {
		return "", 0, fmt.Errorf("%q is not a host or host:port", s)
	}
	return host, uint16(n), nil
}

func parseServer(s string) (netip.AddrPort, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(addr, portDNS), nil
	}
	return netip.ParseAddrPort(s)
}

// table writes a report for people.
func table(b *strings.Builder, r proxy.ProbeReport, now time.Time) {
	row := func(name, format string, args ...any) {
		fmt.Fprintf(b, "  %-13s %s\n", name, printable(fmt.Sprintf(format, args...)))
	}
	fmt.Fprintf(b, "%s\n", printable(strings.TrimSpace(r.Host+" "+r.Address)))
	if r.Greeting != "" {
		row("greeting", "%s (after %v ms)", r.Greeting, r.GreetingAfter)
		row("EHLO", "%s", or(r.EHLO))
	}
	if t := r.TLS; t != nil {
		tlsRows(row, t, now)
	}
	if r.EHLOInTLS != nil {
		row("EHLO in TLS", "%s", or(r.EHLOInTLS))
	}
	if len(r.Offers)+len(r.Lacks) > 0 {
		row("offers", "%s", or(r.Offers))
		row("lacks", "%s", or(r.Lacks))
	}
	if len(r.Trip.Samples) > 0 {
		row("trip", "%v ms to connect, %v ms per command (median of %d)", r.Trip.Connect, r.Trip.Median, len(r.Trip.Samples))
	}
	if r.Cost.Warm.LockStep > 0 {
		row("first contact", "%s", ways(r.Cost.FirstContact, r.Trip.Median))
		row("warm", "%s", ways(r.Cost.Warm, r.Trip.Median))
	}
	if r.Failure != "" {
		row("FAILED", "%s", r.Failure)
	}
}

func tlsRows(row func(name, format string, args ...any), t *proxy.ProbeTLS, now time.Time) {
	row("TLS", "%s, %s, %s (%v ms)", t.How, t.Version, t.Cipher, t.Took)
	row("certificate", "%s", cmp.Or(t.Subject, "without a subject"))
	row("  for", "%s", or(t.Names))
	row("  issuer", "%s", t.Issuer)
	if left := t.NotAfter.Sub(now); left > 0 {
		row("  until", "%s (%d days)", t.NotAfter.UTC().Format(time.DateOnly), left/(24*time.Hour))
	} else {
		row("  until", "%s: it has ended", t.NotAfter.UTC().Format(time.DateOnly))
	}
	if t.Verified {
		row("  verifies", "yes")
	} else {
		row("  verifies", "no: %s", t.Problem)
	}
}

func or(list []string) string { return cmp.Or(strings.Join(list, ", "), "nothing") }

// ways tells the trips of each way, and the time that they take.
func ways(w proxy.ProbeWays, trip proxy.Millis) string {
	one := func(name string, n int) string {
		if n == 0 {
			return name + " not offered"
		}
		return fmt.Sprintf("%s %s (%v ms)", name, count(n, "trip"), proxy.Millis(n)*trip)
	}
	return strings.Join([]string{one("lock step", w.LockStep), one("pipelined", w.Pipelined), one("BDAT", w.Chunked)}, ", ")
}

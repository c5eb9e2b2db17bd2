package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"slipstream/proxy"
)

type checkCmd struct {
	configFlag
	Offline bool `help:"Connect to nobody and look nothing up."`
}

// Help tells what the one line does not.
func (*checkCmd) Help() string {
	return `Each line begins with ok, warn or fail. The configuration is read as a whole, so that all of its mistakes show at
once, each with its line and column. Then the state directory, the store in it and its key, the tickets' secret,
certificates, ports, privileges, limits, the spool directory and what authentication and reports need are looked at, and
the servers are asked that the service depends on: name servers (also whether the key of our seals is there), backends
(what they offer, and whether they would relay for strangers), relays, and the MTA that reports are handed to. No message
is sent. A service that runs may go on meanwhile.

Exit codes: 0 nothing failed, 1 something did, 64 wrong command line.`
}

// Run checks and prints a line for each finding.
func (c *checkCmd) Run(con console) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	failures := 0
	report := func(f proxy.Finding) {
		if f.State == proxy.Failed {
			failures++
		}
		printFinding(con.out, f)
	}
	if cfg := c.load(report); cfg != nil {
		o := proxy.CheckOptions{Offline: c.Offline, Run: runProgram}
		if !c.Offline {
			o.Resolver = checkResolver(cfg.DNS, report)
		}
		checkMemory(cfg, report)
		checkReports(cfg, report)
		proxy.Check(ctx, cfg, o, report)
	}
	if failures > 0 {
		return &exitError{code: exitFailed}
	}
	return nil
}

// load reads the configuration; nil means that it cannot be used.
func (c *checkCmd) load(report func(proxy.Finding)) *proxy.Config {
	cfg, err := proxy.LoadConfig(c.Config)
	var wrong *proxy.ConfigError
	switch {
	case errors.As(err, &wrong):
		for _, p := range wrong.Problems {
			report(proxy.Finding{State: proxy.Failed, About: "config", Text: p.String()})
		}
		if wrong.More > 0 {
			report(proxy.Finding{State: proxy.Failed, About: "config", Text: fmt.Sprintf("and %d more", wrong.More)})
		}
	case err != nil:
		report(proxy.Finding{State: proxy.Failed, About: "config", Text: err.Error()})
	default:
		report(proxy.Finding{State: proxy.Fine, About: "config", Text: fmt.Sprintf("%s: hostname %s, %s, %s",
			c.Config, cfg.Hostname, count(len(cfg.Inbound), "inbound door"), count(len(cfg.Outbound), "outbound door"))})
		return cfg
	}
	return nil
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// checkResolver makes the resolver that the service would have; nil where the
// system names no servers.
func checkResolver(conf proxy.DNSConfig, report func(proxy.Finding)) proxy.Resolver {
	dns, err := newResolver(conf)
	if err != nil {
		report(proxy.Finding{State: proxy.Failed, About: "dns", Text: err.Error() + "; set servers in [dns]"})
		return nil
	}
	return dns
}

func printFinding(w io.Writer, f proxy.Finding) {
	state := fmt.Sprintf("%-4s", f.State)
	if isTerminal(w) {
		state = map[proxy.State]string{proxy.Fine: green, proxy.Doubtful: yellow, proxy.Failed: red}[f.State] + state + plain
	}
	fmt.Fprintf(w, "%s  %-11s  %s\n", state, f.About, printable(f.Text))
}

// Command slipstream is a transparent SMTP accelerator proxy. It stands beside a
// mail server with two kinds of doors: inbound, from the world to the mail
// server, and outbound, from the mail server to the world. It keeps no queue:
// a sender hears that a message was taken once the next host has said so.
//
//	slipstream serve -c FILE      run the service
//	slipstream check -c FILE      try what the service needs
//	slipstream probe HOST[:PORT]  ask a mail host what it offers and how far away it is
//	slipstream intercept COMMAND  have other programs' connections brought to the doors
//	slipstream cache COMMAND      see what is remembered about peers, and have it forgotten
//	slipstream verify             tell who a message is from
//	slipstream seal               put an ARC set on top of a message
//	slipstream dmarc report       see the reports that domains get on mail in their name
//	slipstream demo               see it work on this machine alone
//	slipstream bench              measure what a message costs over a wide-area link, and under load
//	slipstream version            tell which build this is
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/alecthomas/kong"
)

// cli is the command line.
type cli struct {
	Serve   serveCmd   `cmd:"" help:"Run the service until it is told to stop."`
	Check   checkCmd   `cmd:"" help:"Try what the service needs, and say what to do about the rest."`
	Probe   probeCmd   `cmd:"" help:"Ask a mail host what it offers and how far away it is. No message is sent."`
	Cache   cacheCmd   `cmd:"" help:"See what is remembered about peers, and have it forgotten."`
	Verify  verifyCmd  `cmd:"" help:"Tell whether a message is from whom it says, and why."`
	Seal    sealCmd    `cmd:"" help:"Put an ARC set on top of a message."`
	Dmarc   dmarcCmd   `cmd:"" help:"See the reports that domains get on mail in their name."`
	Demo    demoCmd    `cmd:"" help:"Show the service at work, on this machine alone."`
	Bench   benchCmd   `cmd:"" help:"Measure what a message costs, with the service and without."`
	Version versionCmd `cmd:"" help:"Tell which build this is."`

	Intercept interceptCmd `cmd:"" help:"Have other programs' connections brought to the doors, by rules of nftables."`
}

// Exit codes.
const (
	exitFailed = 1
	exitUsage  = 64 // EX_USAGE of sysexits.h; 2 is what a Go program that broke exits with
	exitConfig = 78 // EX_CONFIG of sysexits.h: another start will not help
)

// An exitError is an error with an exit code of its own.
type exitError struct {
	code int
	err  error // nil: everything was said already
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// A console is where a command speaks to whoever started it.
type console struct{ out, err io.Writer }

func main() { os.Exit(run(os.Args[1:])) }

// run carries out a command line and returns the exit code.
func run(args []string) int {
	parser, err := kong.New(&cli{},
		kong.Name("slipstream"),
		kong.Description("A transparent SMTP accelerator proxy beside your mail server."),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.Bind(console{os.Stdout, os.Stderr}),
	)
	if err != nil {
		fmt.Fprintln(os.Stderr, "slipstream:", err)
		return exitFailed
	}
	command, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintf(os.Stderr, "slipstream: %v; \"slipstream --help\" tells more\n", err)
		return exitUsage
	}
	return exitCode(command.Run())
}

// exitCode says what is left to say about an error.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	if text := err.Error(); text != "" {
		fmt.Fprintln(os.Stderr, "slipstream:", printableLines(text))
	}
	var exit *exitError
	if errors.As(err, &exit) {
		return exit.code
	}
	return exitFailed
}

package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

type cacheCmd struct {
	List cacheListCmd `cmd:"" help:"List what is remembered."`
	Show cacheShowCmd `cmd:"" help:"Show all that is remembered about a peer."`
	Drop cacheDropCmd `cmd:"" help:"Forget a peer, or everyone."`
}

// Help tells what the one line does not.
func (*cacheCmd) Help() string {
	return `What is remembered: of hops, the extensions that they offer, TLS sessions that can be resumed, and what they
were seen not to bear; of clients, which get no TLS tickets because they break on them. Secrets are never shown.

The running service is asked through control.sock in its state_dir, which only its own user may use. While it does not
run, its store is opened; a service that starts meanwhile goes on without it. A PEER is a host name, an address, or an
address and port; of clients, an address, a network like 192.0.2.0/24, an EHLO name or the domain of such.

Exit codes: 0 done, 1 nothing is remembered about the PEER to show, or something went wrong, 64 wrong command line,
78 wrong configuration.`
}

type cacheListCmd struct {
	configFlag
	Peer string `placeholder:"PEER" help:"Only what is about this peer."`
	JSON bool   `name:"json" help:"Print a JSON object on each line, in no order."`
}

// Run lists.
func (c *cacheListCmd) Run(con console) error {
	return withCache(c.Config, func(source cacheSource) error {
		if c.JSON {
			_, err := cacheLines(con.out, source, c.Peer)
			return err
		}
		entries, more, err := gather(source, c.Peer)
		if err != nil {
			return err
		}
		return cacheTable(con.out, entries, more)
	})
}

type cacheShowCmd struct {
	configFlag
	Peer string `arg:"" help:"Whom."`
	JSON bool   `name:"json" help:"Print a JSON object on each line, in no order."`
}

// Run shows.
func (c *cacheShowCmd) Run(con console) error {
	if !namesPeer(c.Peer) {
		return &exitError{exitUsage, fmt.Errorf("%q is not a peer", c.Peer)}
	}
	nothing := fmt.Errorf("nothing is remembered about %s", c.Peer)
	return withCache(c.Config, func(source cacheSource) error {
		if c.JSON {
			n, err := cacheLines(con.out, source, c.Peer)
			if err == nil && n == 0 {
				err = nothing
			}
			return err
		}
		entries, more, err := gather(source, c.Peer)
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			return nothing
		}
		return cacheDetails(con.out, entries, more)
	})
}

type cacheDropCmd struct {
	configFlag
	Peer string `arg:"" optional:"" help:"Whom."`
	All  bool   `help:"Forget everyone."`
}

// Run forgets.
func (c *cacheDropCmd) Run(con console) error {
	if c.All == (c.Peer != "") || !c.All && !namesPeer(c.Peer) {
		return &exitError{exitUsage, errors.New("say whom to forget: a peer, or --all")}
	}
	return withCache(c.Config, func(source cacheSource) error {
		n, err := source.drop(c.Peer)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(con.out, "dropped %d\n", n)
		return err
	})
}

// withCache calls f with what is remembered.
func withCache(config string, f func(cacheSource) error) error {
	source, err := openCache(config)
	if err != nil {
		return err
	}
	return errors.Join(f(source), source.Close())
}

// cleanEntry makes what peers said of themselves fit for a terminal.
func cleanEntry(e cacheEntry) cacheEntry {
	e.Kind, e.Peer, e.Host = printable(e.Kind), printable(e.Peer), printable(e.Host)
	for i, f := range e.Fields {
		e.Fields[i] = cacheField{printable(f.Name), printable(f.Value)}
	}
	return e
}

// cacheLines prints a JSON object on each line, and returns how many.
func cacheLines(w io.Writer, source cacheSource, peer string) (n int, err error) {
	buffered := bufio.NewWriter(w)
	lines := json.NewEncoder(buffered)
	var failed error
	err = source.each(peer, func(e cacheEntry) bool {
		failed = lines.Encode(cleanEntry(e))
		n++
		return failed == nil
	})
	return n, errors.Join(err, failed, buffered.Flush())
}

// maxGathered is how many entries are held to be sorted and aligned.
const maxGathered = 10_000

// gather returns the entries in order of their peers, and how many more there are.
func gather(source cacheSource, peer string) (entries []cacheEntry, more int, err error) {
	err = source.each(peer, func(e cacheEntry) bool {
		if len(entries) == maxGathered {
			more++
			return true
		}
		entries = append(entries, cleanEntry(e))
		return true
	})
	slices.SortFunc(entries, func(a, b cacheEntry) int {
		return cmp.Or(cmp.Compare(a.Peer, b.Peer), cmp.Compare(a.Kind, b.Kind),
			cmp.Compare(a.summary(), b.summary()), a.Written.Compare(b.Written))
	})
	return entries, more, err
}

// summary tells entries of one peer apart, in a word.
func (e cacheEntry) summary() string {
	for _, f := range e.Fields {
		switch f.Name {
		case "phase", "level", "quirk":
			return f.Value
		}
	}
	return "-"
}

func cacheTable(w io.Writer, entries []cacheEntry, more int) error {
	if len(entries) == 0 {
		_, err := fmt.Fprintln(w, "nothing is remembered")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "PEER\tKIND\tWHAT\tWRITTEN\tEXPIRES\tOCTETS") // Flush returns the error
	for _, e := range entries {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d\n", e.Peer, e.Kind, e.summary(),
			e.Written.Format(time.RFC3339), e.Expires.Format(time.RFC3339), e.Octets)
	}
	return errors.Join(t.Flush(), tellMore(w, more))
}

func cacheDetails(w io.Writer, entries []cacheEntry, more int) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i, e := range entries {
		if i > 0 {
			fmt.Fprintln(t)
		}
		fmt.Fprintf(t, "%s\n", e.Peer) // Flush returns the error
		fmt.Fprintf(t, "  %s\t%d octets, from %s until %s\n", e.Kind, e.Octets,
			e.Written.Format(time.RFC3339), e.Expires.Format(time.RFC3339))
		for _, f := range e.Fields {
			fmt.Fprintf(t, "  %s\t%s\n", f.Name, f.Value)
		}
	}
	return errors.Join(t.Flush(), tellMore(w, more))
}

func tellMore(w io.Writer, more int) error {
	if more == 0 {
		return nil
	}
	_, err := fmt.Fprintf(w, "and %d more, which --json prints\n", more)
	return err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"slipstream/auth"
	"slipstream/auth/arc"
	"slipstream/proxy"
)

type sealCmd struct {
	Domain   string   `required:"" placeholder:"DOMAIN" help:"Domain to seal for: d= of both signatures."`
	Selector string   `required:"" placeholder:"NAME" help:"Selector: the public key is at NAME._domainkey.DOMAIN."`
	Key      string   `required:"" placeholder:"FILE" help:"Private key, RSA or Ed25519, in PEM form."`
	ID       string   `name:"id" placeholder:"AUTHSERV-ID" help:"Whose Authentication-Results to seal (DOMAIN)."`
	Headers  string   `placeholder:"LIST" help:"Fields to sign, with colons between, as From:To:Subject."`
	Arrived  string   `placeholder:"FILE" help:"The message as it arrived, if it was changed since."`
	DNS      []string `name:"dns" placeholder:"IP[:PORT]" help:"Name servers to ask (the system's)."`
	Time     *int64   `placeholder:"UNIX" help:"The time, in seconds since 1970 (now)."`
}

// Help tells what the one line does not.
func (*sealCmd) Help() string {
	return `It reads a message from standard input and writes it to standard output with one more ARC set on top (RFC
8617), and otherwise as it came. Lines may end in CRLF or LF: the signatures are made as for CRLF, which is what mail
travels with, and what is put on top has the line ends of the first line. A message may have up to 100 MiB.

All Authentication-Results fields of the AUTHSERV-ID are combined into the one that is sealed, in their order, as far
as their methods and results are registered ones. Who wrote them is not known here: forged ones must be gone before.
The chain that the message came with is verified, and what is found goes in as its arc= result. Where the message was
changed since it arrived, --arrived names what it was: it is that whose chain is verified.

A broken chain is sealed as broken (cv=fail). Nothing is put above a chain that is sealed as broken already, nor above
50 sets. Where the DNS does not answer, nothing is sealed either: what cannot be seen now need not be broken.

Exit codes: 0 sealed, 1 the message or the key cannot be used, 3 nothing can be put above this chain, 64 wrong command
line, 75 no answer from the DNS: try again later. Unless it is 0, nothing is written.`
}

// Exit codes of seal and verify.
const (
	exitChainOver = 3  // nothing may be put above this chain
	exitTempFail  = 75 // EX_TEMPFAIL of sysexits.h
)

// Run seals one message.
func (c *sealCmd) Run(con console) error {
	sealer, err := c.sealer()
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
	arrived := m
	if c.Arrived != "" {
		if arrived, err = readMessageFile(c.Arrived); err != nil {
			return err
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	verified, err := verifyChain(ctx, arrived, proxy.AuthResolver(dns), sealer.Now())
	if err != nil {
		return err
	}
	set, err := c.seal(con, sealer, m, verified)
	if err != nil {
		return err
	}
	_, err = con.out.Write(slices.Concat(m.asLines(set), m.raw))
	return err
}

// sealer is what the command line asks for.
func (c *sealCmd) sealer() (*arc.Sealer, error) {
	if c.ID == "" {
		c.ID = c.Domain
	}
	if err := auth.CheckID(c.ID); err != nil {
		return nil, &exitError{exitUsage, fmt.Errorf("--id: %w", err)}
	}
	s := &arc.Sealer{Domain: c.Domain, Selector: c.Selector, Now: time.Now}
	if c.Time != nil {
		at := time.Unix(*c.Time, 0)
		if *c.Time < 0 {
			return nil, &exitError{exitUsage, errors.New("--time must not be negative")}
		}
		s.Now = func() time.Time { return at }
	}
	if c.Headers != "" {
		for name := range strings.SplitSeq(c.Headers, ":") {
			s.Headers = append(s.Headers, strings.TrimSpace(name))
		}
	}
	var err error
	if s.Key, err = auth.LoadKey(c.Key); err != nil {
		return nil, fmt.Errorf("--key: %w", err)
	}
	if err := s.Check(); err != nil {
		return nil, &exitError{exitUsage, err}
	}
	return s, nil
}

// seal makes the set for a message whose chain was verified, and says what people may want to know.
func (c *sealCmd) seal(con console, sealer *arc.Sealer, m message, verified arc.Result) ([]byte, error) {
	headers, err := arc.SplitHeader(m.section)
	if err != nil {
		return nil, fmt.Errorf("the message cannot be sealed: %w", err)
	}
	body := arc.NewBodyHash(arc.Relaxed)
	_, _ = body.Write(m.body) // it has not ended
	results, unread := combineResults(headers, c.ID, verified)
	if unread > 0 {
		fmt.Fprintf(con.err, "slipstream: %s of %s cannot be read: left out\n",
			count(unread, "Authentication-Results field"), printable(c.ID))
	}
	set, err := sealer.Seal(headers, body, verified, results.PayloadUTF8())
	switch {
	case errors.Is(err, arc.ErrSealedFailed), errors.Is(err, arc.ErrSealedFull):
		return nil, &exitError{exitChainOver, err}
	case err != nil:
		return nil, err
	}
	if verified.Value == arc.Fail {
		fmt.Fprintf(con.err, "slipstream: sealed as cv=fail: %s\n", verified.Reason)
	}
	return set, nil
}

// combineResults makes one of all the results of an id, as https://www.rfc-editor.org/rfc/rfc8617#section-5.1.1 asks.
// Of the chain they must say what was found; what they do say, such as where the message came from, stays if it
// agrees. unread counts the fields that claim the id and cannot be read.
func combineResults(headers []arc.Header, id string, verified arc.Result) (results auth.Results, unread int) {
	results.ID = id
	agrees := false
	for _, h := range headers {
		if !strings.EqualFold(h.Name, "Authentication-Results") {
			continue
		}
		parsed, err := auth.ParseResults(h.Value())
		if err != nil {
			_, claimed := auth.StripOwn(h.Raw, []string{id}, true)
			unread += claimed
			continue
		}
		if !sameID(parsed.ID, id) {
			continue
		}
		for _, r := range parsed.List {
			if r.Method == auth.MethodARC {
				if r.Value != verified.Value || agrees {
					continue
				}
				agrees = true
			}
			results.List = append(results.List, r)
		}
	}
	if !agrees {
		results.List = append([]auth.Result{chainResult(verified)}, results.List...)
	}
	return results, unread
}

// chainResult is what was found of a chain, as a result.
func chainResult(verified arc.Result) auth.Result {
	r := auth.Result{Method: auth.MethodARC, Value: verified.Value, Reason: verified.Reason}
	if verified.Value == arc.Pass {
		r.Properties = []auth.Property{auth.NewProperty(auth.PropOldestPass, fmt.Sprint(verified.OldestPass))}
	}
	return r
}

// sameID compares names of those who authenticate: https://www.rfc-editor.org/rfc/rfc8601#section-2.5
func sameID(a, b string) bool {
	x, ok1 := auth.CanonicalDomain(a)
	y, ok2 := auth.CanonicalDomain(b)
	return ok1 && ok2 && x == y || strings.EqualFold(a, b)
}

// verifyChain verifies the chain of a message. Where a key was not had for want of an answer, a chain that does not
// pass is an error: it may well pass another time.
func verifyChain(ctx context.Context, m message, names auth.Resolver, now time.Time) (arc.Result, error) {
	headers, err := arc.SplitHeader(m.section)
	if headers == nil && err != nil {
		return arc.Result{}, fmt.Errorf("the message cannot be sealed: %w", err)
	}
	var lost atomic.Bool
	lookup := func(ctx context.Context, selector, domain string) ([]string, error) {
		records, err := names.LookupTXT(ctx, selector+"._domainkey."+domain)
		if isTemporary(err) && ctx.Err() == nil { // else the verifier has seen enough
			lost.Store(true)
		}
		return records, err
	}
	v := arc.NewVerifier(ctx, headers, lookup, now)
	_, _ = v.Write(m.body) // never fails
	result := v.Close(ctx)
	if result.Value == arc.Fail && lost.Load() {
		return result, &exitError{exitTempFail, fmt.Errorf("the chain cannot be verified: %s", result.Reason)}
	}
	return result, nil
}

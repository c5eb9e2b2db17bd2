package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"slipstream/bench/refpeer"
	"slipstream/proxy"
)

// config is the demonstration's configuration: what a file would hold.
func (d *demo) config(cert tls.Certificate) (*proxy.Config, error) {
	certFile, keyFile, err := d.save(cert)
	if err != nil {
		return nil, err
	}
	backend, peer, err := ports(d.oldAt, d.peerAt)
	if err != nil {
		return nil, err
	}
	cfg := proxy.DefaultConfig()
	cfg.Hostname, cfg.StateDir, cfg.SpoolDir = demoHostname, d.dir, d.dir
	in := proxy.DefaultInbound()
	in.Backend = proxy.Endpoint{Host: "127.0.0.1", Port: backend}
	in.TLSCert, in.TLSKey = certFile, keyFile
	in.Auth.TrustedNetworks = nil // everybody here is on this machine
	out := proxy.DefaultOutbound()
	out.MXPort = int(peer)
	out.AllowPrivateDestinations = true
	cfg.Inbound = []proxy.InboundConfig{in}
	// The same door once more without TLS, to compare like with like.
	clear := out
	clear.Name, clear.Listen, clear.TLS = clearDoor, []string{"127.0.0.1:10526"}, "none"
	cfg.Outbound = []proxy.OutboundConfig{out, clear}
	return cfg, nil
}

// clearDoor is the outbound door that does without TLS.
const clearDoor = "outbound-clear"

func ports(addrs ...string) (first, second uint16, err error) {
	var got [2]uint16
	for i, addr := range addrs {
		_, port, err := net.SplitHostPort(addr)
		if err != nil {
			return 0, 0, err
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return 0, 0, err
		}
		got[i] = uint16(n)
	}
	return got[0], got[1], nil
}

// save writes the certificate where the configuration can name it.
func (d *demo) save(cert tls.Certificate) (certFile, keyFile string, err error) {
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return "", "", err
	}
	certFile, keyFile = filepath.Join(d.dir, "cert.pem"), filepath.Join(d.dir, "key.pem")
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
	return certFile, keyFile, errors.Join(os.WriteFile(certFile, certPEM, 0o600), os.WriteFile(keyFile, keyPEM, 0o600))
}

func serverTLS(cert tls.Certificate) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{cert}}
}

// show sends a message each way and tells what happened.
func (d *demo) show(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, demoTime)
	defer cancel()
	fmt.Fprintf(d.out, "An old MTA (%s) and a modern mail host (mx.%s), with Slipstream between them.\n", demoOld, demoModern)
	if err := d.showInbound(ctx); err != nil {
		return fmt.Errorf("inbound: %w", err)
	}
	if err := d.showForged(ctx); err != nil {
		return fmt.Errorf("forged: %w", err)
	}
	if err := d.showOutbound(ctx); err != nil {
		return fmt.Errorf("outbound: %w", err)
	}
	fmt.Fprintf(d.out, "\nAll messages arrived octet for octet below our fields, and no sender heard 250 before the next hop had said it.\n")
	return nil
}

// showInbound: the modern host sends over TLS, all in one flight; the old MTA
// hears what it always heard.
func (d *demo) showInbound(ctx context.Context) error {
	fmt.Fprintf(d.out, "\nIN   mx.%s -> Slipstream -> old MTA\n", demoModern)
	sender := &refpeer.Client{Style: refpeer.Chunking, Name: "mx." + demoModern, TLS: &tls.Config{InsecureSkipVerify: true}}
	mail := refpeer.Mail{From: "sender@" + demoModern, To: []string{"user@" + demoOld}, Body: []byte(d.signed)}
	if err := send(ctx, sender, d.door("inbound"), mail); err != nil {
		return err
	}
	fmt.Fprintf(d.out, "\n  What the sender said and heard:\n%s", indent(conversation(sender)))
	state := sender.ConnectionState()
	fmt.Fprintf(d.out, "    (%s from STARTTLS on)\n", tls.VersionName(state.Version))
	fmt.Fprintf(d.out, "\n  What the old MTA heard:\n%s", indent(lastCommands(d.old)))
	got, err := d.old.WaitMessages(ctx, 1)
	if err != nil {
		return err
	}
	text := string(got[len(got)-1].Body)
	fmt.Fprintf(d.out, "\n  What stands on top of the message now:\n%s", indent(fieldsOf(text)))
	for _, want := range []string{"spf=pass", "dkim=pass", "dmarc=pass"} {
		if !strings.Contains(text, "\t"+want+" ") {
			return fmt.Errorf("no %s was found: %.500q", want, text)
		}
	}
	return compare([]byte(text), d.signed, true)
}

// showOutbound: the old MTA speaks as it always did; the modern host hears TLS
// and short conversations.
func (d *demo) showOutbound(ctx context.Context) error {
	fmt.Fprintf(d.out, "\nOUT  old MTA -> Slipstream -> mx.%s\n", demoModern)
	mail := refpeer.Mail{From: "user@" + demoOld, To: []string{"friend@" + demoModern}, Body: []byte(demoText)}

	alone := &refpeer.Client{Style: refpeer.OldLockStep, Name: demoOld}
	if err := send(ctx, alone, d.peerAt, mail); err != nil {
		return err
	}
	secured := &refpeer.Client{Style: refpeer.LockStep, Name: demoOld, TLS: &tls.Config{InsecureSkipVerify: true}}
	if err := send(ctx, secured, d.peerAt, mail); err != nil {
		return err
	}
	clear, err := d.through(ctx, clearDoor, &refpeer.Client{Style: refpeer.OldLockStep, Name: demoOld}, mail)
	if err != nil {
		return err
	}
	sender := &refpeer.Client{Style: refpeer.OldLockStep, Name: demoOld}
	sum, err := d.through(ctx, "outbound", sender, mail)
	if err != nil {
		return err
	}
	fmt.Fprintf(d.out, "\n  What the old MTA said and heard:\n%s", indent(conversation(sender)))
	fmt.Fprintf(d.out, "\n  What mx.%s heard:\n%s", demoModern, indent(lastCommands(d.modern)))
	fmt.Fprintf(d.out, "    (%s)\n", sum.TLS)
	fmt.Fprintf(d.out, `
  What the way to mx.%s cost in round trips, connecting included:

                                 in clear text   with TLS
    the old MTA alone                       %2d         %2d (if it could)
    through Slipstream                      %2d         %2d
`, demoModern, lockStepTrips(alone, 0), lockStepTrips(secured, 1), clear.Trips, sum.Trips)
	for _, kind := range []struct {
		style refpeer.Style
		label string
	}{
		{refpeer.OldLockStep, "the next message"},
		{refpeer.Pipelining, "of an MTA that pipelines"},
	} {
		clear, err := d.through(ctx, clearDoor, &refpeer.Client{Style: kind.style, Name: demoOld}, mail)
		if err != nil {
			return err
		}
		sum, err := d.through(ctx, "outbound", &refpeer.Client{Style: kind.style, Name: demoOld}, mail)
		if err != nil {
			return err
		}
		fmt.Fprintf(d.out, "    %-38s  %2d         %2d\n", kind.label, clear.Trips, sum.Trips)
	}
	got, err := d.modern.WaitMessages(ctx, demoOutbound)
	if err != nil {
		return err
	}
	for _, m := range got {
		if err := compare(m.Body, demoText, false); err != nil {
			return err
		}
	}
	return nil
}

// demoOutbound is how many messages the modern host gets: two without us, and
// three through either door.
const demoOutbound = 2 + 3*2

// through sends a message through a door of ours and returns what is known of it.
func (d *demo) through(ctx context.Context, door string, c *refpeer.Client, m refpeer.Mail) (proxy.Summary, error) {
	d.mu.Lock()
	delete(d.done, door)
	d.mu.Unlock()
	if err := send(ctx, c, d.door(door), m); err != nil {
		return proxy.Summary{}, err
	}
	return d.last(ctx, door)
}

// send opens a connection, sends one message and says goodbye.
func send(ctx context.Context, c *refpeer.Client, addr string, m refpeer.Mail) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close() // QUIT was answered, or there is nothing to save
	c.Conn = conn
	r, err := c.Send(ctx, m)
	if err != nil {
		return err
	}
	if !r.OK() {
		return fmt.Errorf("the message was refused: %v", r.Final)
	}
	return c.Quit(ctx)
}

// lockStepTrips counts what a client that sends one command at a time waited
// for: to be connected, each reply, and the TLS handshake.
func lockStepTrips(c *refpeer.Client, handshakes int) int {
	replies := len(c.Replies())
	if slices.ContainsFunc(c.Replies(), func(e refpeer.Exchange) bool { return e.Command == "QUIT" }) {
		replies--
	}
	return 1 + replies + handshakes
}

func conversation(c *refpeer.Client) []string {
	var lines []string
	for _, e := range c.Replies() {
		if e.Command != "greeting" {
			lines = append(lines, "-> "+e.Command)
		}
		for i, line := range e.Reply.Lines {
			sep := " "
			if i < len(e.Reply.Lines)-1 {
				sep = "-"
			}
			lines = append(lines, fmt.Sprintf("<- %d%s%s", e.Reply.Code, sep, line))
		}
	}
	return lines
}

// lastCommands lists what a server heard on its newest connection.
func lastCommands(s *refpeer.Server) []string {
	conns := s.Connections()
	return conns[len(conns)-1].Commands
}

// compare checks that a message arrived as it was sent, below fields of ours where the door puts them.
func compare(got []byte, sent string, inbound bool) error {
	text := string(got)
	if inbound {
		for _, field := range []string{"Authentication-Results: " + demoHostname, "Received: from "} {
			if !strings.HasPrefix(text, field) {
				return fmt.Errorf("the message lacks the field %q: %.80q", field, text)
			}
			text = belowField(text)
		}
	}
	if text != sent {
		return fmt.Errorf("the message was changed on the way: %q", got)
	}
	return nil
}

// belowField is what follows the first field of a text.
func belowField(text string) string {
	for {
		_, text, _ = strings.Cut(text, "\r\n")
		if !strings.HasPrefix(text, "\t") && !strings.HasPrefix(text, " ") {
			return text
		}
	}
}

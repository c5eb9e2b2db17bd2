package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"slipstream/auth/arc"
	"slipstream/bench/refpeer"
	"slipstream/proxy/resolver"
)

// demoHeader and demoBody have what is easily broken on the way: a line of one dot, and a signature's worth of spaces.
const (
	demoHeader = "From: Sender <sender@" + demoModern + ">\r\nTo: user@" + demoOld + "\r\nSubject: through Slipstream\r\n"
	demoBody   = "A line that is a dot:\r\n.\r\nTrailing blanks:   \r\n"
	demoText   = demoHeader + "\r\n" + demoBody
)

// demoForged is written by a stranger, who says that it is from the modern host and that we found it to be so.
const demoForged = "Authentication-Results: " + demoHostname + "; dmarc=pass header.from=" + demoModern + "\r\n" + demoText

// demoStranger sends it.
const demoStranger = "stranger.example"

// demoSelector is where the modern host's key stands in the DNS.
const demoSelector = "demo"

// signDemo signs demoText as mail hosts do, https://www.rfc-editor.org/rfc/rfc8463, and returns it with what stands in
// the DNS about the key.
func signDemo() (text, record string, err error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", "", err
	}
	body := arc.NewBodyHash(arc.Relaxed)
	if _, err := body.Write([]byte(demoBody)); err != nil {
		return "", "", err
	}
	sum := body.Sum()
	field := fmt.Sprintf("DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed; d=%s; s=%s;\r\n\th=from:to:subject; bh=%s;\r\n\tb=",
		demoModern, demoSelector, base64.StdEncoding.EncodeToString(sum[:]))
	var signed []byte
	for line := range strings.Lines(demoHeader) {
		signed = arc.Relaxed.AppendHeader(signed, []byte(line))
	}
	signed = arc.Relaxed.AppendHeader(signed, []byte(field+"\r\n"))
	digest := sha256.Sum256(signed[:len(signed)-len("\r\n")]) // https://www.rfc-editor.org/rfc/rfc6376#section-3.7
	signature := base64.StdEncoding.EncodeToString(ed25519.Sign(private, digest[:]))
	record = "v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(public)
	return field + signature[:44] + "\r\n\t" + signature[44:] + "\r\n" + demoText, record, nil
}

// demoDNS knows the domains of the demonstration.
type demoDNS struct{ texts map[string]string }

// newDemoDNS publishes what a domain publishes that does not want to be forged.
func newDemoDNS(key string) demoDNS {
	return demoDNS{map[string]string{
		demoModern: "v=spf1 ip4:127.0.0.1 -all",
		demoSelector + "._domainkey." + demoModern: key,
		"_dmarc." + demoModern:                     "v=DMARC1; p=reject",
	}}
}

func demoNowhere(name string) error {
	return &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}

func (demoDNS) MX(_ context.Context, domain string) ([]*net.MX, error) {
	if domain == demoModern {
		return []*net.MX{{Host: "mx." + demoModern, Pref: 10}}, nil
	}
	return nil, demoNowhere(domain)
}

func (demoDNS) Addrs(_ context.Context, network, host string) ([]netip.Addr, error) {
	if host == "mx."+demoModern && network != "ip6" {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	}
	return nil, demoNowhere(host)
}

// LookupPTR: whatever runs on this machine is the modern host's.
func (demoDNS) LookupPTR(_ context.Context, addr netip.Addr) (out resolver.Result[string], err error) {
	if addr.IsLoopback() && addr.Is4() {
		out.Records = []string{"mx." + demoModern + "."}
		return out, nil
	}
	return out, demoNowhere(addr.String())
}

func (d demoDNS) LookupTXT(_ context.Context, name string) (out resolver.Result[string], err error) {
	if text, ok := d.texts[name]; ok {
		out.Records = []string{text}
		return out, nil
	}
	return out, demoNowhere(name)
}

func (d demoDNS) LookupMX(ctx context.Context, name string) (out resolver.Result[resolver.MX], err error) {
	list, err := d.MX(ctx, name)
	for _, mx := range list {
		out.Records = append(out.Records, resolver.MX{Preference: mx.Pref, Host: mx.Host})
	}
	return out, err
}

func (d demoDNS) LookupA(ctx context.Context, name string) (out resolver.Result[netip.Addr], err error) {
	out.Records, err = d.Addrs(ctx, "ip4", name)
	return out, err
}

func (d demoDNS) LookupAAAA(ctx context.Context, name string) (out resolver.Result[netip.Addr], err error) {
	out.Records, err = d.Addrs(ctx, "ip6", name)
	return out, err
}

// showForged: a stranger writes in the modern host's name, and the field says so.
func (d *demo) showForged(ctx context.Context) error {
	fmt.Fprintf(d.out, "\nIN   %s -> Slipstream -> old MTA, in the name of %s\n", demoStranger, demoModern)
	sender := &refpeer.Client{Style: refpeer.Chunking, Name: demoStranger}
	mail := refpeer.Mail{From: "x@" + demoStranger, To: []string{"user@" + demoOld}, Body: []byte(demoForged)}
	if err := send(ctx, sender, d.door("inbound"), mail); err != nil {
		return err
	}
	got, err := d.old.WaitMessages(ctx, 2)
	if err != nil {
		return err
	}
	text := string(got[len(got)-1].Body)
	fmt.Fprintf(d.out, "\n  The message said \"dmarc=pass\" in our name. What stands on top of it now:\n%s", indent(fieldsOf(text)))
	if strings.Count(text, "Authentication-Results: "+demoHostname) != 1 || !strings.Contains(text, "dmarc=fail ") {
		return fmt.Errorf("a forged message was not found out: %.300q", text)
	}
	return compare([]byte(text), demoText, true)
}

// fieldsOf are the lines that we put on top of a message.
func fieldsOf(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "\t") && !strings.HasPrefix(line, "Authentication-Results:") {
			break
		}
		lines = append(lines, strings.ReplaceAll(strings.TrimRight(line, "\r\n"), "\t", "    "))
	}
	return lines
}

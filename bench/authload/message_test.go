package authload

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"slipstream/auth/arc"
)

// The envelope of every message.
const (
	clientIP   = "192.0.2.1"
	clientName = "mail.example.com"
	mailFrom   = "author@example.com"
	rcptTo     = "reader@example.net"
	authservID = "mx.example.net"
)

// A mail is one message as it travels.
type mail struct {
	header, body []byte // the header without the blank line
	sealed       bool   // it has an ARC set
}

func (m mail) about() string {
	if m.sealed {
		return "dkim+arc"
	}
	return "dkim"
}

func (m mail) whole() []byte { return slices.Concat(m.header, []byte("\r\n"), m.body) }

// world is what a message is made with, and what the DNS says about it.
type world struct {
	key *rsa.PrivateKey
	dns map[string][]string // "TYPE name": what is there
}

func newWorld(tb testing.TB) *world {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		tb.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		tb.Fatal(err)
	}
	record := "v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(der)
	return &world{key: key, dns: map[string][]string{
		"TXT s1._domainkey.example.com.":   {record},
		"TXT s1._domainkey.relay.example.": {record},
		"TXT example.com.":                 {"v=spf1 ip4:198.51.100.0/24 include:spf.example.com -all"},
		"TXT spf.example.com.":             {"v=spf1 ip4:203.0.113.0/24 ip4:192.0.2.0/24 ~all"},
		"TXT mail.example.com.":            {"v=spf1 a -all"},
		"TXT _dmarc.example.com.":          {"v=DMARC1; p=reject; adkim=r; aspf=r; rua=mailto:dmarc@example.com"},
		"A mail.example.com.":              {clientIP},
		"MX example.com.":                  {clientName + "."},
		"PTR 1.2.0.192.in-addr.arpa.":      {clientName + "."},
	}}
}

// lookup is how package arc asks for keys.
func (w *world) lookup(_ context.Context, selector, domain string) ([]string, error) {
	return w.dns["TXT "+selector+"._domainkey."+domain+"."], nil
}

// mail makes a message with a header as mail has it and a body of 10 KB, signed once, and sealed once or not at all.
func (w *world) mail(tb testing.TB, sealed bool) mail {
	const line = "Some words of a line that is as long as lines of mail are, more or less.\r\n"
	m := mail{
		sealed: sealed,
		header: []byte(strings.Repeat("Received: from mail.example.com (mail.example.com [192.0.2.1])\r\n"+
			"\tby mx.example.net (Postfix) with ESMTPS id 4TZ9Qk1XyZz9sVp\r\n"+
			"\tfor <reader@example.net>; Tue, 14 Nov 2023 22:13:20 +0000 (UTC)\r\n", 3) +
			"Date: Tue, 14 Nov 2023 22:13:20 +0000\r\nFrom: \"A. N. Author\" <author@example.com>\r\n" +
			"To: \"B. Reader\" <reader@example.net>\r\nSubject: Some words about what was said the other day\r\n" +
			"Message-ID: <20231114221320.1234@mail.example.com>\r\nMIME-Version: 1.0\r\n" +
			"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 7bit\r\n" +
			"User-Agent: Some Agent 1.0\r\nX-Mailer: Some Mailer\r\n"),
		body: []byte(strings.Repeat(line, 10<<10/len(line))),
	}
	m.header = slices.Concat(w.sign(tb, m), m.header)
	if sealed {
		m.header = slices.Concat(w.seal(tb, m), m.header)
	}
	return m
}

// sign returns a DKIM-Signature.
func (w *world) sign(tb testing.TB, m mail) []byte {
	hash := arc.NewBodyHash(arc.Relaxed)
	_, _ = hash.Write(m.body)
	sum := hash.Sum()
	field := fmt.Sprintf("DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=example.com; s=s1;\r\n"+
		"\th=From:To:Subject:Date:Message-ID:MIME-Version:Content-Type:\r\n\tContent-Transfer-Encoding;\r\n"+
		"\tbh=%s;\r\n\tb=AAAA\r\n", base64.StdEncoding.EncodeToString(sum[:]))
	headers, err := arc.SplitHeader(slices.Concat([]byte(field), m.header))
	if err != nil {
		tb.Fatal(err)
	}
	parsed, err := arc.ParseSignature(headers[0])
	if err != nil {
		tb.Fatal(err)
	}
	digest := parsed.Digest(arc.NewFields(headers))
	signature, err := w.key.Sign(rand.Reader, digest, crypto.SHA256)
	if err != nil {
		tb.Fatal(err)
	}
	text := base64.StdEncoding.EncodeToString(signature)
	var folded strings.Builder
	for len(text) > 0 {
		n := min(len(text), 70)
		fmt.Fprintf(&folded, "\r\n\t%s", text[:n])
		text = text[n:]
	}
	return []byte(strings.Replace(field, "AAAA", folded.String(), 1))
}

// seal returns an ARC set.
func (w *world) seal(tb testing.TB, m mail) []byte {
	headers, err := arc.SplitHeader(m.header)
	if err != nil {
		tb.Fatal(err)
	}
	hash := arc.NewBodyHash(arc.Relaxed)
	_, _ = hash.Write(m.body)
	verifier := arc.NewVerifier(tb.Context(), headers, w.lookup, time.Now())
	_, _ = verifier.Write(m.body)
	sealer := &arc.Sealer{Domain: "relay.example", Selector: "s1", Key: w.key}
	set, err := sealer.Seal(headers, hash, verifier.Close(tb.Context()),
		[]byte(" relay.example; dkim=pass header.d=example.com; spf=pass smtp.mailfrom=example.com;\r\n\tdmarc=pass"))
	if err != nil {
		tb.Fatal(err)
	}
	return set
}

// bare is the cryptography that nobody can do without.
func (w *world) bare(tb testing.TB, m mail) func() error {
	sum := sha256.Sum256(m.body)
	signature, err := w.key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		tb.Fatal(err)
	}
	return func() error {
		sum := sha256.Sum256(m.body)
		return rsa.VerifyPKCS1v15(&w.key.PublicKey, crypto.SHA256, sum[:], signature)
	}
}

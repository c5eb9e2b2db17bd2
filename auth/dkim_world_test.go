package auth

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"slipstream/auth/arc"
)

// Keys of the tests, made once.
var (
	dkimRSA1024 = sync.OnceValue(func() crypto.Signer { return dkimMakeRSA(1024) })
	dkimRSA2048 = sync.OnceValue(func() crypto.Signer { return dkimMakeRSA(2048) })
	dkimEd25519 = sync.OnceValue(func() crypto.Signer {
		return ed25519.NewKeyFromSeed([]byte("thirty-two octets of a test seed"))
	})
)

func dkimMakeRSA(bits int) crypto.Signer {
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		panic(err)
	}
	return k
}

// dkimText is what one DKIM key record says.
func dkimText(pub crypto.PublicKey, tags string) string {
	if p, ok := pub.(ed25519.PublicKey); ok {
		return "v=DKIM1; k=ed25519; " + tags + "p=" + base64.StdEncoding.EncodeToString(p)
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		panic(err)
	}
	return "v=DKIM1; " + tags + "p=" + base64.StdEncoding.EncodeToString(der)
}

// dkimSigner signs messages of tests; its zero values sign for s1 of example.com, relaxed/relaxed, with RSA of 2048
// bits.
type dkimSigner struct {
	key            crypto.Signer
	domain         string // d=
	canon, headers string // c=, h=
	tags           string // more tags, each with its ";"
	tail           string // behind the value of b=
}

// sign puts a signature on top of message, whose lines end in CRLF.
func (s dkimSigner) sign(t testing.TB, message string) string {
	t.Helper()
	if s.key == nil {
		s.key = dkimRSA2048()
	}
	algorithm := arc.RSASHA256
	if _, ok := s.key.Public().(ed25519.PublicKey); ok {
		algorithm = arc.Ed25519SHA256
	}
	if s.domain == "" {
		s.domain = "example.com"
	}
	if s.canon == "" {
		s.canon = "relaxed/relaxed"
	}
	if s.headers == "" {
		s.headers = "from:to:subject"
	}
	header, body, _ := strings.Cut(message, "\r\n\r\n")
	canon := arc.Simple
	if strings.HasSuffix(s.canon, "/relaxed") {
		canon = arc.Relaxed
	}
	hash := arc.NewBodyHash(canon)
	hash.Write([]byte(body))
	sum := hash.Sum()
	field := fmt.Sprintf("DKIM-Signature: v=1; a=%s; c=%s; d=%s; s=s1;\r\n\th=%s; %s\r\n\tbh=%s;\r\n\tb=AAAA%s\r\n",
		algorithm, s.canon, s.domain, s.headers, s.tags, base64.StdEncoding.EncodeToString(sum[:]), s.tail)
	fields, err := arc.SplitHeader([]byte(field + header + "\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := arc.ParseSignature(fields[0])
	if err != nil {
		return field + message // meant to be broken
	}
	digest := parsed.Digest(arc.NewFields(fields))
	opts := crypto.SignerOpts(crypto.SHA256)
	if algorithm == arc.Ed25519SHA256 {
		opts = crypto.Hash(0)
	}
	b, err := s.key.Sign(rand.Reader, digest, opts)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Replace(field, "b=AAAA", "b="+base64.StdEncoding.EncodeToString(b), 1) + message
}

// dkimZone holds the test key at s1 of example.com and below.
func dkimZone(signer crypto.Signer, tags string) *zone {
	if signer == nil {
		signer = dkimRSA2048()
	}
	text := []string{dkimText(signer.Public(), tags)}
	return &zone{txt: map[string][]string{
		"s1._domainkey.example.com":             text,
		"s1._domainkey.sub.example.com":         text,
		"s1._domainkey.xn--bcher-kva.example":   text,
		"s1._domainkey.list.example.net":        text,
		"s1._domainkey.a.very.deep.example.com": text,
	}}
}

const dkimPlain = "From: A <a@example.com>\r\nTo: b@example.net\r\nSubject: one\r\nX-Other: x\r\n\r\n" +
	"Hello  there. \r\n\r\nSecond line\r\n\r\n\r\n"

// dkimPlainSize is the size of its body in relaxed form.
const dkimPlainSize = int64(len("Hello there.\r\n\r\nSecond line\r\n"))

// dkimVerify verifies a message that is written in pieces of at most so many octets; 0: at once.
func dkimVerify(t testing.TB, r Resolver, message string, piece int) []DKIMResult {
	t.Helper()
	header, body, _ := strings.Cut(message, "\r\n\r\n")
	return dkimVerifyParts(t, r, header+"\r\n", body, piece)
}

func dkimVerifyParts(t testing.TB, r Resolver, header, body string, piece int) []DKIMResult {
	t.Helper()
	fields, err := arc.SplitHeader([]byte(header))
	if fields == nil && err != nil {
		t.Fatal(err)
	}
	v := NewDKIM(context.Background(), fields, r, time.Now())
	for piece > 0 && len(body) > piece {
		v.Write([]byte(body[:piece]))
		body = body[piece:]
	}
	v.Write([]byte(body))
	return v.Close(context.Background())
}

// dkimOne is dkimVerify for messages of one signature.
func dkimOne(t testing.TB, r Resolver, message string) DKIMResult {
	t.Helper()
	list := dkimVerify(t, r, message, 0)
	if len(list) != 1 {
		t.Fatalf("%d results, want 1: %+v", len(list), list)
	}
	return list[0]
}

// dkimCRLF brings a text of a suite onto the wire.
func dkimCRLF(text string) string {
	return strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\n", "\r\n")
}

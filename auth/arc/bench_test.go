package arc

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// tenKB is a letter with a body of 10 KB.
var tenKB = letter + strings.Repeat("The quick brown fox jumps over the lazy dog, and then once again.\r\n", 155)

// BenchmarkVerify verifies a message of 10 KB with one set, keys at hand,
// beside the cryptography that it cannot do without: SHA-256 over the body, and
// RSA-2048 verifications, once and once for each of the two signatures.
func BenchmarkVerify(b *testing.B) {
	message := seal(b, rsaSealer(), tenKB)
	section, body, _ := strings.Cut(message, "\r\n\r\n")
	lookup, text := testKeys(b), []byte(body)
	b.Run("message", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			headers, _ := SplitHeader([]byte(section + "\r\n"))
			v := NewVerifier(context.Background(), headers, lookup, noon)
			v.Write(text)
			if r := v.Close(context.Background()); r.Value != Pass {
				b.Fatal(r.Reason)
			}
		}
	})
	sum := sha256.Sum256(text)
	signature, err := rsaKey().Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		b.Fatal(err)
	}
	for _, times := range []int{1, 2} {
		b.Run(fmt.Sprintf("bare,rsa=%d", times), func(b *testing.B) {
			for b.Loop() {
				sum := sha256.Sum256(text)
				for range times {
					if err := rsa.VerifyPKCS1v15(&rsaKey().PublicKey, crypto.SHA256, sum[:], signature); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

// BenchmarkSeal seals a message of 10 KB.
func BenchmarkSeal(b *testing.B) {
	section, body, _ := strings.Cut(tenKB, "\r\n\r\n")
	for name, s := range map[string]*Sealer{"rsa": rsaSealer(), "ed25519": edSealer()} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				headers, _ := SplitHeader([]byte(section + "\r\n"))
				if _, err := s.Seal(headers, bodyOf(body), Result{Value: None}, []byte(letterResults)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkWorstChain verifies the dearest chain that we take: fifty sets by
// keys of 8192 bits, each signing a header as large as it may be.
func BenchmarkWorstChain(b *testing.B) {
	key, err := rsa.GenerateKey(rand.Reader, MaxRSABits)
	if err != nil {
		b.Fatal(err)
	}
	lookup := keys(map[string]string{"r relay.example": record(b, key)})
	s := &Sealer{Domain: "relay.example", Selector: "r", Key: key, Headers: []string{"From", "X"},
		Now: func() time.Time { return noon }}
	headers, body := split(b, "X: "+strings.Repeat("x y ", MaxHeaderSize/5)+"\r\n"+letter)
	r := Result{Value: None}
	for i := range MaxSets {
		set, err := s.Seal(headers, bodyOf(body), r, []byte(letterResults))
		if err != nil {
			b.Fatal(err)
		}
		fields, err := SplitHeader(set)
		if err != nil {
			b.Fatal(err)
		}
		headers, r = slices.Concat(fields, headers), Result{Value: Pass, Instance: i + 1}
	}
	for b.Loop() {
		v := NewVerifier(context.Background(), headers, lookup, noon)
		v.Write([]byte(body))
		if r := v.Close(context.Background()); r.Value != Pass || r.OldestPass != 0 {
			b.Fatalf("%+v", r)
		}
	}
}

package proxy

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/auth"
	"slipstream/auth/arc"
	"slipstream/bench/refpeer"
)

// sealingKey is a key and what stands in the DNS about it.
func sealingKey(t *testing.T) (ed25519.PrivateKey, string) {
	t.Helper()
	key := ed25519.NewKeyFromSeed([]byte(strings.Repeat("k", ed25519.SeedSize)))
	public := key.Public().(ed25519.PublicKey)
	return key, "v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(public)
}

// What leaves a door that seals verifies, chain by chain, with our field in it and without the forged ones; a chain that
// is broken gets one seal that says so, and no more.
func TestAuthSeals(t *testing.T) {
	key, record := sealingKey(t)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "arc.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		hop := w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
		names := w.judged(func(in *InboundConfig) {
			in.AddReceived = true
			in.Auth.ARCDomain, in.Auth.ARCSelector, in.Auth.ARCKeyFile = "proxy.example", "k1", file
		})
		names.txt["k1._domainkey.proxy.example"] = []string{record}
		w.start()
		c := w.client(inboundAt)
		c.ask("EHLO client.example", "250")
		text := "Authentication-Results: proxy.example; dmarc=pass header.from=bank.example\r\n" + honestText
		for round := 1; round <= 3; round++ {
			transports["one flight"](c, honestMail, text)
			c.want("250 ")
			got := receivedTexts(hop)
			text = got[len(got)-1]
			result := verifiedChain(t, names, text)
			if result.Value != arc.Pass || result.Instance != round {
				t.Fatalf("round %d: %+v in %q", round, result, text)
			}
			if n := strings.Count(text, "\r\nAuthentication-Results: proxy.example"); n != 1 {
				t.Errorf("round %d: %d fields of ours in %q", round, n, text)
			}
			if !strings.HasPrefix(text, "ARC-Seal: i=") {
				t.Errorf("round %d: begins with %.50q", round, text)
			}
		}
		text = strings.Replace(text, "Hello", "Hullo", 1)
		for _, want := range []int{4, 4} {
			transports["DATA"](c, honestMail, text)
			c.want("250 ")
			got := receivedTexts(hop)
			text = got[len(got)-1]
			if result := verifiedChain(t, names, text); result.Value != arc.Fail || result.Instance != want {
				t.Errorf("broken: %+v in %q", result, text)
			}
		}
		c.talk("QUIT", "221 ")
	})
}

// verifiedChain is what a later reader makes of a chain.
func verifiedChain(t *testing.T, names *slowDNS, text string) arc.Result {
	t.Helper()
	headers, err := arc.SplitHeader([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	v := arc.NewVerifier(t.Context(), headers, func(_ context.Context, selector, domain string) ([]string, error) {
		if list := names.txt[selector+"._domainkey."+domain]; list != nil {
			return list, nil
		}
		return nil, errors.New("no such key")
	}, time.Now())
	_, body, _ := strings.Cut(text, "\r\n\r\n")
	_, _ = v.Write([]byte(body))
	return v.Close(t.Context())
}

// A sealer that is trusted speaks for a message that fails by itself; one that is not does not.
func TestAuthTrustedSealer(t *testing.T) {
	for _, trusted := range []string{"sealer.example", "other.example"} {
		t.Run(trusted, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				hop := w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
				names := w.judged(func(in *InboundConfig) {
					in.Auth.Enforce, in.Auth.TrustedSealers = "reject", []string{trusted}
				})
				text := sealedText(t, names, forgedText)
				w.start()
				c := w.client(inboundAt)
				c.ask("EHLO client.example", "250")
				transports["BDAT"](c, honestMail, text)
				if trusted != "sealer.example" {
					c.want("550 5.7.26 ")
					return
				}
				c.want("250 ")
				d := w.last().Auth.Decision
				if d.Action != auth.ActionAccept || d.Exempt != "sealer sealer.example" {
					t.Errorf("decided: %+v", d)
				}
				if got := receivedTexts(hop)[0]; !strings.Contains(got, "\tdmarc=fail (exempt: sealer sealer.example) reason=\"overridden: passed before") {
					t.Errorf("the hop has %q", got)
				}
				c.talk("QUIT", "221 ")
			})
		})
	}
}

package arc

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// noon is when the tests take place.
var noon = time.Unix(1_790_000_000, 0)

var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

var edKey = sync.OnceValue(func() ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed([]byte("thirty-two octets of no entropy!"))
})

// record is the TXT record of a key.
func record(t testing.TB, key crypto.Signer) string {
	t.Helper()
	if pub, ok := key.Public().(ed25519.PublicKey); ok {
		return "v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(pub)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return "v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(der)
}

// keys is a KeyLookup by "selector domain".
func keys(records map[string]string) KeyLookup {
	return func(_ context.Context, selector, domain string) ([]string, error) {
		if text, ok := records[selector+" "+domain]; ok {
			return []string{text}, nil
		}
		return nil, &net.DNSError{Err: "no such host", IsNotFound: true}
	}
}

// testKeys has the keys of the two sealers of these tests.
func testKeys(t testing.TB) KeyLookup {
	return keys(map[string]string{"r relay.example": record(t, rsaKey()), "e relay.example": record(t, edKey())})
}

func rsaSealer() *Sealer {
	return &Sealer{Domain: "relay.example", Selector: "r", Key: rsaKey(), Now: func() time.Time { return noon }}
}

func edSealer() *Sealer {
	return &Sealer{Domain: "relay.example", Selector: "e", Key: edKey(), Now: func() time.Time { return noon }}
}

const letter = "Received: from a.example by b.example; Thu, 1 Jan 2026 00:00:00 +0000\r\n" +
	"DKIM-Signature: v=1; a=rsa-sha256; d=a.example; s=one; h=From; bh=AA==; b=AA==\r\n" +
	"dkim-signature: v=1; a=rsa-sha256; d=a.example; s=two; h=From; bh=AA==; b=AA==\r\n" +
	"From: Ann <ann@a.example>\r\n" +
	"To: bob@b.example\r\n" +
	"Subject: a letter\r\n" +
	"  in two lines\r\n" +
	"Date: Thu, 1 Jan 2026 00:00:00 +0000\r\n" +
	"Message-ID: <1@a.example>\r\n" +
	"\r\n" +
	"Dear Bob,\r\n" +
	"\r\n" +
	"this is  it.\t\r\n" +
	"\r\n"

const letterResults = "relay.example; arc=none; spf=pass smtp.mailfrom=a.example"

// bodyOf hashes a body for sealing.
func bodyOf(text string) *BodyHash {
	b := NewBodyHash(Relaxed)
	b.Write([]byte(text))
	return b
}

// trySeal puts one more set on a message.
func trySeal(t testing.TB, s *Sealer, message string, lookup KeyLookup) (string, error) {
	t.Helper()
	headers, body := split(t, message)
	set, err := s.Seal(headers, bodyOf(body), verifyAt(t, message, lookup, noon), []byte(letterResults))
	return string(set) + message, err
}

func seal(t testing.TB, s *Sealer, message string) string {
	t.Helper()
	sealed, err := trySeal(t, s, message, testKeys(t))
	if err != nil {
		t.Fatalf("Seal: %v", err)
	}
	return sealed
}

// sealed is the letter with so many sets, by RSA and Ed25519 in turn.
func sealed(t testing.TB, sets int) string {
	t.Helper()
	message := letter
	for i := range sets {
		s := rsaSealer()
		if i%2 == 1 {
			s = edSealer()
		}
		message = seal(t, s, message)
	}
	return message
}

func verifyAt(t testing.TB, message string, lookup KeyLookup, now time.Time) Result {
	t.Helper()
	headers, body := split(t, message)
	v := NewVerifier(t.Context(), headers, lookup, now)
	v.Write([]byte(body))
	return v.Close(t.Context())
}

// wantChain checks a result's value and what its reason says.
func wantChain(t *testing.T, got Result, value, reason string) {
	t.Helper()
	if got.Value != value || !strings.Contains(got.Reason, reason) || (got.Reason == "") != (value != Fail) {
		t.Errorf("%s (%q), want %s (%q)", got.Value, got.Reason, value, reason)
	}
}

func wantError(t *testing.T, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("error %v, want %v", got, want)
	}
}

// replace1 replaces the one place where old stands.
func replace1(t testing.TB, s, old, new string) string {
	t.Helper()
	if n := strings.Count(s, old); n != 1 {
		t.Fatalf("%d times %q in\n%s", n, old, s)
	}
	return strings.Replace(s, old, new, 1)
}

// field returns the whole field of a set.
func field(t testing.TB, message, name string, instance int) string {
	t.Helper()
	headers, _ := split(t, message)
	for _, h := range headers {
		if equalFold(h.Name, name) && strings.HasPrefix(string(h.Value()), fmt.Sprintf(" i=%d;", instance)) {
			return string(h.Raw)
		}
	}
	t.Fatalf("no %s of set %d", name, instance)
	return ""
}

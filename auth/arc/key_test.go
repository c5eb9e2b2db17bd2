package arc

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"math/big"
	"strings"
	"testing"
)

// modulus is a key of so many bits that nobody has the other half of.
func modulus(t testing.TB, bits int) *rsa.PublicKey {
	t.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), uint(bits-1)))
	if err != nil {
		t.Fatal(err)
	}
	return &rsa.PublicKey{N: n.SetBit(n.SetBit(n, bits-1, 1), 0, 1), E: 65537}
}

func pkix(t testing.TB, bits int) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(modulus(t, bits))
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(der)
}

func TestParseKey(t *testing.T) {
	good := pkix(t, 1024)
	ed := base64.StdEncoding.EncodeToString(make([]byte, 32))
	for _, test := range []struct {
		name, record string
		bits         int
		err          error
	}{
		{"full", "v=DKIM1; k=rsa; h=sha1:sha256; s=email:x; t=y; n=note; p=" + good, 1024, nil},
		{"p alone", "p=" + good, 1024, nil},
		{"folded p", "p=" + good[:20] + " \t" + good[20:], 1024, nil},
		{"any service", "s=*; p=" + good, 1024, nil},
		{"without SubjectPublicKeyInfo", "p=" + base64.StdEncoding.EncodeToString(
			x509.MarshalPKCS1PublicKey(modulus(t, 2048))), 2048, nil},
		{"ed25519", "k=ed25519; p=" + ed, 256, nil},
		{"largest", "p=" + pkix(t, MaxRSABits), MaxRSABits, nil},
		{"too small", "p=" + pkix(t, MinRSABits-1), 0, ErrKeySize},
		{"too large", "p=" + pkix(t, MaxRSABits+1), 0, ErrKeySize},
		{"16 kbit", "p=" + pkix(t, 16384), 0, ErrKeySize},
		{"revoked", "v=DKIM1; p=", 0, ErrKeyRevoked},
		{"no p", "v=DKIM1", 0, ErrKeySyntax},
		{"v not first", "p=" + good + "; v=DKIM1", 0, ErrKeySyntax},
		{"another v", "v=DKIM2; p=" + good, 0, ErrKeySyntax},
		{"SPF", "v=spf1 -all", 0, ErrKeySyntax},
		{"no tags", "hello", 0, ErrKeySyntax},
		{"not base64", "p=!!!!", 0, ErrKeySyntax},
		{"not DER", "p=AAAA", 0, ErrKeySyntax},
		{"short ed25519", "k=ed25519; p=AAAA", 0, ErrKeySyntax},
		{"RSA called ed25519", "k=ed25519; p=" + good, 0, ErrKeySyntax},
		{"unknown k", "k=dsa; p=" + good, 0, ErrNoKey},
		{"SHA-1 alone", "h=sha1; p=" + good, 0, ErrKeyUse},
		{"another service", "s=tlsrpt; p=" + good, 0, ErrKeyUse},
		{"too long", "p=" + good + "; n=" + strings.Repeat("x", MaxKeyRecord), 0, ErrKeySyntax},
	} {
		t.Run(test.name, func(t *testing.T) {
			k, err := ParseKey(test.record)
			wantError(t, err, test.err)
			if err == nil && k.Bits() != test.bits {
				t.Errorf("%d bits, want %d", k.Bits(), test.bits)
			}
		})
	}
	k, err := ParseKey("t=y:s; p=" + good)
	if err != nil || !k.Testing || !k.Strict {
		t.Errorf("flags of %+v, %v", k, err)
	}
}

func TestChooseKey(t *testing.T) {
	a, ed := "p="+pkix(t, 1024), "k=ed25519; p="+base64.StdEncoding.EncodeToString(make([]byte, 32))
	for _, test := range []struct {
		name    string
		records []string
		err     error
	}{
		{"one", []string{a}, nil},
		{"beside another text", []string{"v=spf1 -all", a}, nil},
		{"beside one for another algorithm", []string{ed, a}, nil},
		{"none", nil, ErrNoKey},
		{"no text of a key", []string{"v=spf1 -all"}, ErrKeySyntax},
		{"for another algorithm", []string{ed}, ErrNoKey},
		{"two", []string{a, a}, ErrManyKeys},
		{"a crowd", make([]string, MaxKeyRecords+1), ErrManyKeys},
	} {
		t.Run(test.name, func(t *testing.T) {
			k, err := ChooseKey(test.records, RSASHA256)
			wantError(t, err, test.err)
			if (k == nil) != (err != nil) {
				t.Errorf("%v and %v", k, err)
			}
		})
	}
}

// A key that is too large costs no more than its text.
func BenchmarkKey16384(b *testing.B) {
	record := "v=DKIM1; k=rsa; p=" + pkix(b, 16384)
	for b.Loop() {
		if _, err := ParseKey(record); err != ErrKeySize {
			b.Fatal(err)
		}
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add("v=DKIM1; k=rsa; t=y:s; h=sha256; s=email; p=" + pkix(f, 1024))
	f.Add("k=ed25519; p=" + base64.StdEncoding.EncodeToString(make([]byte, 32)))
	f.Add("v=DKIM1; p=")
	f.Add("p=MEgCQQ==")
	f.Fuzz(func(t *testing.T, record string) {
		k, err := ParseKey(record)
		if (k == nil) != (err != nil) {
			t.Fatalf("%v and %v", k, err)
		}
		if err != nil {
			return
		}
		if n := k.Bits(); n != 256 && (n < MinRSABits || n > MaxRSABits) {
			t.Fatalf("a key of %d bits", n)
		}
		s := Signature{Algorithm: k.Algorithm(), Signature: make([]byte, (k.Bits()+7)/8)}
		if err := s.verify(make([]byte, 32), k); err != ErrMismatch && k.Algorithm() == RSASHA256 {
			t.Fatalf("a signature of zeros: %v", err)
		}
	})
}

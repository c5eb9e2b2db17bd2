package auth

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"slipstream/auth/arc"
)

func dkimBenchMessage(b *testing.B, size, signatures int) (header []arc.Header, body []byte) {
	line := "Some words of a line that is as long as lines of mail are, more or less.\r\n"
	text := strings.Repeat(line, size/len(line)+1)[:size-2] + "\r\n"
	message := "From: A <a@example.com>\r\nTo: b@example.net\r\nSubject: one\r\nDate: today\r\n" +
		"Message-ID: <1@example.com>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain\r\n" +
		strings.Repeat("Received: from a by b\r\n\tfor c\r\n", 5) + "\r\n" + text
	for range signatures {
		message = dkimSigner{headers: "from:to:subject:date:message-id:mime-version:content-type"}.sign(b, message)
	}
	section, _, _ := strings.Cut(message, "\r\n\r\n")
	header, err := arc.SplitHeader([]byte(section))
	if err != nil {
		b.Fatal(err)
	}
	return header, []byte(text)
}

// BenchmarkDKIM verifies a message whose keys are known to the resolver, RSA of 2048 bits, relaxed/relaxed; "own" is
// what it takes without the library.
func BenchmarkDKIM(b *testing.B) {
	for _, size := range []int{1 << 10, 10 << 10, 1 << 20} {
		for _, c := range []struct {
			name       string
			signatures int
			own        bool
		}{{"1", 1, false}, {"2", 2, false}, {"own", 1, true}} {
			b.Run(fmt.Sprintf("%dKiB/%s", size>>10, c.name), func(b *testing.B) {
				header, body := dkimBenchMessage(b, size, c.signatures)
				z := dkimZone(nil, "")
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					v := newDKIM(header, time.Now())
					v.signatures[0].own = c.own
					v.start(b.Context(), nil, z)
					v.Write(body)
					if got := v.Close(b.Context()); got[0].Value != "pass" {
						b.Fatal(got)
					}
				}
			})
		}
	}
}

// BenchmarkDKIMBare is what cannot be saved: one RSA verification, and SHA-256 over 10 KiB.
func BenchmarkDKIMBare(b *testing.B) {
	_, body := dkimBenchMessage(b, 10<<10, 0)
	key := dkimRSA2048()
	sum := sha256.Sum256(body)
	sig, err := key.Sign(nil, sum[:], crypto.SHA256)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		sum := sha256.Sum256(body)
		if rsa.VerifyPKCS1v15(key.Public().(*rsa.PublicKey), crypto.SHA256, sum[:], sig) != nil {
			b.Fatal("does not verify")
		}
	}
}

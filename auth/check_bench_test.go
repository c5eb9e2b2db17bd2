//go:build unix

package auth

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"slipstream/auth/arc"
)

// BenchmarkCheck judges a message of 10 KB from beginning to end, as a door does: iprev, SPF of both identities, DKIM
// (RSA of 2048 bits), ARC, DMARC and the field. The resolver knows everything at once, so that what is measured is CPU
// time, of the whole process: msgs/cpu-s is what one core can do.
//
// x-bare is that time over the time of the cryptography that no verifier can do without, one RSA-2048 verification and
// SHA-256 over the body, whatever more the message has: each ARC set brings two verifications. The two take turns, so
// that both meet the same machine, and the medians over all turns are what is told.
func BenchmarkCheck(b *testing.B) {
	for _, c := range []struct {
		name       string
		signatures int
		sets       int
	}{{"dkim", 1, 0}, {"dkim+arc", 1, 1}, {"dkim*2", 2, 0}, {"dkim*2+arc*2", 2, 2}} {
		b.Run(c.name, func(b *testing.B) {
			z := checkBenchZone()
			section, body := checkBenchMessage(b, c.signatures, c.sets)
			checker := &Checker{ID: "mx.example.net", Resolver: knownZone{z}}
			message := func() {
				k := checker.Begin(b.Context(), Envelope{
					Client: netip.MustParseAddr("192.0.2.1"), Helo: "mail.example.com", MailFrom: "a@example.com",
				})
				k.Header(section)
				k.Write(body)
				r := k.Finish(b.Context())
				if field, err := r.Fields(section); r.DMARC.Status != StatusAccept || len(field) == 0 || err != nil ||
					r.DKIM[0].Value != "pass" || c.sets > 0 && r.ARC.Value != arc.Pass {
					b.Fatalf("%s %v", field, err)
				}
			}
			bare := checkBenchBare(b, body)
			const turn = 50
			for range turn {
				message()
			}
			var each, ratio []float64 // of each turn
			b.ReportAllocs()
			b.ResetTimer()
			for n := b.N; n > 0; n -= turn {
				runs := min(n, turn)
				cpu := cpuOf(b, runs, message)
				b.StopTimer()
				each, ratio = append(each, cpu), append(ratio, cpu/cpuOf(b, turn, bare))
				b.StartTimer()
			}
			b.ReportMetric(1/median(each), "msgs/cpu-s")
			b.ReportMetric(median(each)*1e6, "cpu-µs/msg")
			b.ReportMetric(median(ratio), "x-bare")
		})
	}
}

// checkBenchBare is what cannot be saved.
func checkBenchBare(b *testing.B, body []byte) func() {
	key := dkimRSA2048()
	sum := sha256.Sum256(body)
	signature, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		b.Fatal(err)
	}
	return func() {
		sum := sha256.Sum256(body)
		if rsa.VerifyPKCS1v15(key.Public().(*rsa.PublicKey), crypto.SHA256, sum[:], signature) != nil {
			b.Fatal("does not verify")
		}
	}
}

// cpuOf is what each of so many calls takes of CPU time, by all threads of this process, in seconds.
func cpuOf(tb testing.TB, calls int, f func()) float64 {
	start := cpuTime(tb)
	for range calls {
		f()
	}
	return (cpuTime(tb) - start).Seconds() / float64(calls)
}

func cpuTime(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func median(list []float64) float64 {
	slices.Sort(list)
	return list[len(list)/2]
}

// knownZone is a zone that is remembered.
type knownZone struct{ *zone }

func (z knownZone) Known() Resolver { return z.zone }

func checkBenchZone() *zone {
	z := dkimZone(nil, "")
	z.txt["s1._domainkey.relay.example"] = z.txt["s1._domainkey.example.com"]
	z.txt["example.com"] = []string{"v=spf1 ip4:198.51.100.0/24 include:spf.example.com -all", "some-verification=1"}
	z.txt["spf.example.com"] = []string{"v=spf1 ip4:203.0.113.0/24 ip4:192.0.2.0/24 ~all"}
	z.txt["mail.example.com"] = []string{"v=spf1 a -all"}
	z.txt["_dmarc.example.com"] = []string{"v=DMARC1; p=reject; adkim=r; aspf=r; rua=mailto:dmarc@example.com"}
	z.addrs = map[string][]netip.Addr{"mail.example.com": {netip.MustParseAddr("192.0.2.1")}}
	z.ptr = map[string][]string{"192.0.2.1": {"mail.example.com."}}
	return z
}

// checkBenchMessage makes a message with a header as mail has it, and a body of 10 KB.
func checkBenchMessage(b *testing.B, signatures, sets int) (section, body []byte) {
	const line = "Some words of a line that is as long as lines of mail are, more or less.\r\n"
	message := strings.Repeat("Received: from mail.example.com (mail.example.com [192.0.2.1])\r\n"+
		"\tby mx.example.net (Postfix) with ESMTPS id 4TZ9Qk1XyZz9sVp\r\n"+
		"\tfor <b@example.net>; Tue, 14 Nov 2023 22:13:20 +0000 (UTC)\r\n", 3) +
		"Date: Tue, 14 Nov 2023 22:13:20 +0000\r\nFrom: \"A. N. Author\" <a@example.com>\r\n" +
		"To: \"B. Reader\" <b@example.net>\r\nSubject: Some words about what was said the other day\r\n" +
		"Message-ID: <20231114221320.1234@mail.example.com>\r\nMIME-Version: 1.0\r\n" +
		"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 7bit\r\n" +
		"User-Agent: Some Agent 1.0\r\nX-Mailer: Some Mailer\r\n\r\n" + strings.Repeat(line, 10<<10/len(line))
	for i := range signatures {
		domain := []string{"example.com", "list.example.net"}[i%2]
		message = dkimSigner{
			domain: domain, headers: "from:to:subject:date:message-id:mime-version:content-type:content-transfer-encoding",
		}.sign(b, message)
	}
	header, text, _ := strings.Cut(message, "\r\n\r\n")
	section, body = []byte(header+"\r\n"), []byte(text)
	zone := checkBenchZone()
	sealer := &arc.Sealer{Domain: "relay.example", Selector: "s1", Key: dkimRSA2048()}
	for range sets {
		headers, err := arc.SplitHeader(section)
		if err != nil {
			b.Fatal(err)
		}
		hash := arc.NewBodyHash(arc.Relaxed)
		hash.Write(body)
		v := arc.NewVerifier(b.Context(), headers, func(ctx context.Context, s, d string) ([]string, error) {
			return zone.LookupTXT(ctx, s+"._domainkey."+d)
		}, time.Now())
		v.Write(body)
		set, err := sealer.Seal(headers, hash, v.Close(context.Background()),
			[]byte(" relay.example; dkim=pass header.d=example.com; spf=pass smtp.mailfrom=example.com;\r\n\tdmarc=pass"))
		if err != nil {
			b.Fatal(err)
		}
		section = slices.Concat(set, section)
	}
	return section, body
}

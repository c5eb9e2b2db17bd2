package auth

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"math/big"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"slipstream/auth/arc"
)

// dkimFakeKey looks like a key of so many bits, and is the product of nothing.
func dkimFakeKey(bits int) *rsa.PublicKey {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), uint(bits-1)))
	if err != nil {
		panic(err)
	}
	n.SetBit(n, bits-1, 1)
	return &rsa.PublicKey{N: n.SetBit(n, 0, 1), E: 65537}
}

// TestDKIMManySignatures: 500 signatures cost 10 look-ups at most.
func TestDKIMManySignatures(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	one := dkimSigner{}.sign(t, dkimPlain)
	field, _, _ := strings.Cut(one, "From:")
	z := dkimZone(nil, "")
	got := dkimVerify(t, z, strings.Repeat(field, 499)+one, 0)
	if len(got) != maxSignatures+1 || got[0].Value != "pass" || z.asked.Load() != 1 {
		t.Fatalf("%d results, %d look-ups, want 11 and 1", len(got), z.asked.Load())
	}
	want := DKIMResult{Value: "policy", Reason: "490 more signatures, which were not looked at"}
	if got[maxSignatures] != want {
		t.Errorf("%+v, want %+v", got[maxSignatures], want)
	}
	var b strings.Builder
	for i := range 500 {
		b.WriteString(strings.Replace(field, "s=s1;", fmt.Sprintf("s=s%d;", i), 1))
	}
	z = &zone{}
	got = dkimVerify(t, z, b.String()+dkimPlain, 0)
	if len(got) != maxSignatures+1 || z.asked.Load() != maxSignatures {
		t.Errorf("%d results, %d look-ups, want 11 and 10", len(got), z.asked.Load())
	}
}

// TestDKIMHugeHeader: a header that is too large is refused before it gets here; the largest that is not costs little.
func TestDKIMHugeHeader(t *testing.T) {
	huge := strings.Repeat("X-Pad: "+strings.Repeat("x", 990)+"\r\n", 20000)
	if fields, err := arc.SplitHeader([]byte(huge)); err != arc.ErrHeaderSize || fields != nil {
		t.Fatalf("20 MB of header: %d fields, %v", len(fields), err)
	}
	// As many names to pick as fit, and as many fields to pick them from.
	names := "from" + strings.Repeat(":x", 7000)
	message := strings.Repeat("x: y\r\n", arc.MaxFields-20) + dkimPlain
	for range maxSignatures {
		message = dkimSigner{headers: names}.sign(t, message)
	}
	start := time.Now()
	got := dkimVerify(t, dkimZone(nil, ""), message, 0)
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	for _, r := range got {
		if r.Value != "pass" {
			t.Errorf("%+v, want pass", r)
		}
	}
}

// TestDKIMBlankBody: a body of empty lines alone, or a long stretch of them inside, neither fills the memory nor takes
// long.
func TestDKIMBlankBody(t *testing.T) {
	for name, body := range map[string]string{
		"at the end": "x\r\n" + strings.Repeat("\r\n", 1<<20),
		"inside":     strings.Repeat("\r\n", 1<<20) + "x\r\n",
		"spaces":     strings.Repeat(" \r\n", 1<<20) + "x\r\n",
		"one line":   strings.Repeat("\t ", 1<<20) + "x\r\n",
	} {
		message := "From: a@example.com\r\nTo: b\r\nSubject: c\r\n\r\n" + body
		signed := dkimSigner{canon: "simple/simple"}.sign(t, message)
		message = strings.Repeat(strings.TrimSuffix(signed, message), maxSignatures) + message
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		start := time.Now()
		got := dkimVerify(t, dkimZone(nil, ""), message, 1000)
		took := time.Since(start)
		runtime.ReadMemStats(&after)
		for i, r := range got {
			want, reason := "policy", "too many empty lines in one place"
			if i >= maxLibrary {
				want, reason = "pass", ""
			}
			if r.Value != want || r.Reason != reason {
				t.Errorf("%s: %+v, want %s", name, r, want)
			}
		}
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 32<<20 || took > 10*time.Second {
			t.Errorf("%s: %d octets allocated, took %v", name, grown, took)
		}
		// Our own arithmetic keeps nothing, and so needs no such limit.
		own := dkimSigner{tags: "i=@Example.com;"}.sign(t, "From: a@example.com\r\n\r\n"+body)
		if got := dkimVerify(t, dkimZone(nil, ""), own, 0); got[0].Value != "pass" {
			t.Errorf("%s: %+v, want pass", name, got)
		}
	}
}

// TestDKIMMalformedHeader: where a line is no field, nothing that was signed can be believed.
func TestDKIMMalformedHeader(t *testing.T) {
	signed := dkimSigner{}.sign(t, dkimPlain)
	for _, line := range []string{"garbage\r\n", ": x\r\n", "a b: x\r\n", "\x00: x\r\n", "Sub\xc5\xbfect: x\r\n"} {
		got := dkimVerify(t, dkimZone(nil, ""), strings.Replace(signed, "To:", line+"To:", 1), 0)
		if got[0].Value != "policy" {
			t.Errorf("%q: %+v, want policy", line, got)
		}
	}
}

// TestDKIMNameTricks: a field whose name only looks like one that is signed is not that one.
func TestDKIMNameTricks(t *testing.T) {
	signed := dkimSigner{headers: "from:keywords"}.sign(t, "Keywords: good\r\n"+dkimPlain)
	tricked := strings.Replace(signed, "Keywords: good", "\u212aeywords: good", 1)
	if got := dkimVerify(t, dkimZone(nil, ""), tricked, 0); got[0].Value == "pass" {
		t.Errorf("%+v", got)
	}
	sneaky := strings.Replace(signed, "DKIM-Signature", "D\u212aIM-Signature", 1)
	if got := dkimVerify(t, dkimZone(nil, ""), sneaky, 0); got != nil {
		t.Errorf("%+v, want no signature", got)
	}
}

// TestDKIMKeyTricks: keys that make no sense end in a result.
func TestDKIMKeyTricks(t *testing.T) {
	signed := dkimSigner{}.sign(t, dkimPlain)
	even := dkimFakeKey(2048)
	even.N.SetBit(even.N, 0, 0)
	one := dkimFakeKey(2048)
	one.E = 1
	for name, z := range map[string]*zone{
		"even modulus": dkimKeyZone(dkimText(even, "")),
		"exponent 1":   dkimKeyZone(dkimText(one, "")),
		"wrong key":    dkimKeyZone(dkimText(dkimFakeKey(2048), "")),
		"NUL":          dkimKeyZone("v=DKIM1; p=\x00"),
		"CR LF":        dkimKeyZone("v=DKIM1;\r\nX: y; p=AAAA"),
		"1 MiB":        dkimKeyZone("v=DKIM1; p=" + strings.Repeat("A", 1<<20)),
		"1 MiB tags":   dkimKeyZone(strings.Repeat("a=;", 1<<19)),
		"1000 records": dkimKeyZone(strings.Split(strings.Repeat("v=DKIM1; p=AAAA|", 1000), "|")...),
		"alias loop": {cname: map[string][]string{
			"s1._domainkey.example.com": {"loop.example.com"}, "loop.example.com": {"s1._domainkey.example.com"},
		}},
		"empty": dkimKeyZone(""),
	} {
		got := dkimOne(t, z, signed)
		if got.Value == "pass" || got.Value == "" || strings.ContainsAny(got.Reason, "\r\n;\x00\"") {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// TestDKIMStuckResolver: a resolver that never answers costs what the caller allows, and the verdict is temperror. The
// body keeps flowing as far as the queue reaches.
func TestDKIMStuckResolver(t *testing.T) {
	signed := dkimSigner{}.sign(t, dkimPlain)
	header, _, _ := strings.Cut(signed, "\r\n\r\n")
	synctest.Test(t, func(t *testing.T) {
		fields, err := arc.SplitHeader([]byte(header))
		if err != nil {
			t.Fatal(err)
		}
		z := dkimZone(nil, "")
		z.wait = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		begun := time.Now()
		v := NewDKIM(t.Context(), fields, z, begun)
		v.Write(make([]byte, maxQueued))
		if waited := time.Since(begun); waited != 0 {
			t.Errorf("the first 128 KiB waited %v", waited)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		got := v.Close(ctx)
		if waited := time.Since(begun); waited != 5*time.Second || got[0].Value != "temperror" {
			t.Errorf("%v, %+v; want 5s, temperror", waited, got)
		}

		// The deadline of the look-ups ends the wait of the writer, too.
		lookups, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		begun = time.Now()
		v = NewDKIM(lookups, fields, z, begun)
		v.Write(make([]byte, 10*maxQueued))
		if waited := time.Since(begun); waited != 3*time.Second {
			t.Errorf("10 × 128 KiB waited %v, want 3s", waited)
		}
		if got := v.Close(t.Context()); got[0].Value != "temperror" {
			t.Errorf("%+v, want temperror", got)
		}
		v = NewDKIM(t.Context(), fields, z, time.Now())
		begun = time.Now()
		if got := v.Close(t.Context()); got[0].Value != "temperror" || time.Since(begun) != maxKeyWait {
			t.Errorf("%+v after %v, want temperror after %v", got, time.Since(begun), maxKeyWait)
		}
	})
}

// TestDKIMNoWait: with answers that take 50 ms and a body that takes 100 ms, the verdict is there at the end of the
// body.
func TestDKIMNoWait(t *testing.T) {
	message := dkimSigner{}.sign(t, dkimPlain)
	message = dkimSigner{domain: "list.example.net"}.sign(t, message)
	header, body, _ := strings.Cut(message, "\r\n\r\n")
	synctest.Test(t, func(t *testing.T) {
		fields, err := arc.SplitHeader([]byte(header))
		if err != nil {
			t.Fatal(err)
		}
		z := dkimZone(nil, "")
		z.wait = func(ctx context.Context) error { time.Sleep(50 * time.Millisecond); return nil }
		begun := time.Now()
		v := NewDKIM(t.Context(), fields, z, time.Now())
		v.Write([]byte(body[:10]))
		time.Sleep(100 * time.Millisecond)
		v.Write([]byte(body[10:]))
		got := v.Close(t.Context())
		if waited := time.Since(begun); waited != 100*time.Millisecond {
			t.Errorf("%v, want 100ms", waited)
		}
		for _, r := range got {
			if r.Value != "pass" {
				t.Errorf("%+v, want pass", r)
			}
		}
	})
}

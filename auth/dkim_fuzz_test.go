package auth

import (
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"slipstream/auth/arc"
)

// dkimValues are the results that RFC 8601 knows, but for none.
const dkimValues = " pass fail policy neutral temperror permerror "

// FuzzDKIMSignature: whatever stands in a signature, it is read without harm, and nothing in the result could break a
// field.
func FuzzDKIMSignature(f *testing.F) {
	for _, s := range []string{
		"v=1; a=rsa-sha256; d=example.com; s=s1; h=from; i=joe=40x@Example.com; bh=" + dkimSum + "; b=AAAA",
		"v=1; a=ed25519-sha256; c=relaxed; d=bücher.example; s=s1; h=from:to; z=|b=c; bh=" + dkimSum + "; b = AA A;",
		"i=@;d=", "i==40=; b=b=;b=", "t=1; x=0; l=1",
	} {
		f.Add(s, "v=DKIM1; t=s; p=AAAA")
	}
	f.Fuzz(func(t *testing.T, value, record string) {
		h := arc.Header{Name: "DKIM-Signature", Raw: []byte("DKIM-Signature:" + value + "\r\n")}
		s := readDKIM(h, time.Unix(1e9, 0))
		if s.open() {
			s.useKey(t.Context(), &dkimKey{records: []string{record}})
		}
		checkDKIMResult(t, s.result, !s.open())
		blanksOnlyB(h)
		if local, domain, ok := parseIdentity(value); ok {
			again, same, ok := parseIdentity(local + "@" + domain)
			if !ok || same != domain || again != local && !strings.Contains(local, "=") {
				t.Errorf("%q: %q and %q, then %q and %q", value, local, domain, again, same)
			}
		}
	})
}

func checkDKIMResult(t *testing.T, r DKIMResult, decided bool) {
	t.Helper()
	if decided && !strings.Contains(dkimValues, " "+r.Value+" ") || (r.Value == "pass") == (r.Reason != "") && decided {
		t.Errorf("%+v: unknown value, or a reason that should (not) be there", r)
	}
	for _, s := range []string{r.Domain, r.Identity, r.Selector, r.Algorithm, r.B, r.Reason} {
		if strings.ContainsAny(s, "\r\n\x00\";()\\<>") || len(s) > 400 {
			t.Errorf("%+v: %q would break a field", r, s)
		}
	}
	for _, s := range []string{r.Domain, r.Selector} {
		if plain, ok := CanonicalDomain(s); s != "" && (!ok || plain != s) {
			t.Errorf("%+v: %q is no name", r, s)
		}
	}
}

// FuzzDKIM verifies whole messages, cut in any way: the verdict does not depend on the cuts, our own arithmetic agrees
// with the library, and nothing is left behind.
func FuzzDKIM(f *testing.F) {
	add := func(s dkimSigner, message string) { f.Add([]byte(s.sign(f, message)), 3, 10) }
	// Ed25519: the RSA keys of the tests are others in each process.
	add(dkimSigner{key: dkimEd25519()}, dkimPlain)
	add(dkimSigner{key: dkimEd25519(), canon: "simple/simple"}, dkimPlain)
	add(dkimSigner{key: dkimEd25519(), tags: "i=@Example.com;"}, "From: a\r\n\r\n\r\n \r\n\r\nx\r\n\t\r\n")
	signed := dkimSigner{key: dkimEd25519()}.sign(f, dkimPlain)
	add(dkimSigner{key: dkimEd25519(), headers: "from:dkim-signature"}, signed)
	f.Add([]byte(dkimCRLF(dkimRFC8463)), 1, 100)
	f.Add([]byte(dkimCRLF(dkimRFC6376)), 50, 1)
	z := dkimVectors()
	for name, records := range dkimZone(nil, "").txt {
		z.txt[name] = append(records, dkimText(dkimEd25519().Public(), ""))
	}
	others := sync.OnceValue(func() goleak.Option { return goleak.IgnoreCurrent() }) // those of the fuzzer
	f.Fuzz(func(t *testing.T, message []byte, first, second int) {
		ignore := others()
		fields, err := arc.SplitHeader(message)
		if fields == nil && err != nil {
			return
		}
		size := 0
		for _, h := range fields {
			size += len(h.Raw)
		}
		body := strings.TrimPrefix(string(message[min(size, len(message)):]), "\r\n")
		now := time.Unix(1e9, 0)
		whole := NewDKIM(t.Context(), fields, z, now)
		whole.Write([]byte(body))
		want := whole.Close(t.Context())
		parts := NewDKIM(t.Context(), fields, z, now)
		for rest, n := body, 0; rest != ""; n++ {
			step := []int{first, second}[n%2]
			step = max(1, min(step, len(rest)))
			parts.Write([]byte(rest[:step]))
			rest = rest[step:]
		}
		got := parts.Close(t.Context())
		if len(got) != len(want) || len(got) > maxSignatures+1 {
			t.Fatalf("%d results, then %d", len(want), len(got))
		}
		for i := range got {
			checkDKIMResult(t, got[i], true)
			if got[i] != want[i] {
				t.Errorf("%+v, and in parts %+v", want[i], got[i])
			}
		}
		if !strings.ContainsAny(strings.ReplaceAll(body, "\r\n", ""), "\r\n") {
			compareDKIM(t, fields, z, body, now, want)
		}
		if err := goleak.Find(ignore); err != nil {
			t.Error(err)
		}
	})
}

// compareDKIM holds the verdicts against our own arithmetic.
func compareDKIM(t *testing.T, fields []arc.Header, z *zone, body string, now time.Time, verdicts []DKIMResult) {
	own := newDKIM(fields, now)
	for _, s := range own.signatures {
		s.own = true
	}
	own.start(t.Context(), nil, z)
	own.Write([]byte(body))
	for i, r := range own.Close(t.Context()) {
		if r != verdicts[i] && verdicts[i].Reason != "too many empty lines in one place" {
			t.Errorf("%+v, and by ourselves %+v", verdicts[i], r)
		}
	}
}

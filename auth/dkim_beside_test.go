package auth

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"slipstream/auth/arc"
)

// dkimSealed puts an ARC set on top of message.
func dkimSealed(t *testing.T, message string) string {
	t.Helper()
	section, body, _ := strings.Cut(message, "\r\n\r\n")
	headers, err := arc.SplitHeader([]byte(section))
	if err != nil {
		t.Fatal(err)
	}
	hash := arc.NewBodyHash(arc.Relaxed)
	hash.Write([]byte(body))
	sealer := &arc.Sealer{Domain: "example.com", Selector: "s1", Key: dkimRSA2048()}
	set, err := sealer.Seal(headers, hash, arc.Result{Value: arc.None}, []byte(" example.com; none"))
	if err != nil {
		t.Fatal(err)
	}
	return string(set) + message
}

// dkimBesideChain verifies both, the chain first to be closed or last.
func dkimBesideChain(t *testing.T, z *zone, message string, chainFirst bool) (dkim []DKIMResult, chain arc.Result) {
	t.Helper()
	section, body, _ := strings.Cut(message, "\r\n\r\n")
	headers, err := arc.SplitHeader([]byte(section))
	if err != nil {
		t.Fatal(err)
	}
	lookup := func(ctx context.Context, selector, domain string) ([]string, error) {
		return z.LookupTXT(ctx, selector+"._domainkey."+domain)
	}
	c := arc.NewVerifier(t.Context(), headers, lookup, time.Now())
	v := NewDKIMBeside(t.Context(), c, headers, z, time.Now())
	for piece := range slices.Chunk([]byte(body), 1000) {
		c.Write(piece)
		v.Write(piece)
	}
	if chainFirst {
		chain = c.Close(t.Context())
	}
	dkim = v.Close(t.Context())
	if !chainFirst {
		chain = c.Close(t.Context())
	}
	return dkim, chain
}

// TestDKIMBesideChain: what DKIM says does not depend on whether the chain of the message is verified too, nor does
// what the chain says.
func TestDKIMBesideChain(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	z := dkimZone(nil, "")
	for _, canon := range []string{"relaxed/relaxed", "simple/simple", "simple/relaxed"} {
		for _, size := range []int{0, 1, 100_000} {
			message := "From:  A <a@example.com>\r\nTo: b\r\nSubject: x\r\n\r\n" + strings.Repeat("x \t y.\r\n", size/8)
			signed := dkimSigner{canon: canon}.sign(t, message)
			signed = dkimSigner{canon: "relaxed/simple", headers: "from:dkim-signature"}.sign(t, signed)
			sealed := dkimSealed(t, signed)
			for name, changed := range map[string]string{
				"sound":           sealed,
				"body":            sealed + "more\r\n",
				"header":          strings.Replace(sealed, "To: b", "To: c", 1),
				"chain":           strings.Replace(sealed, "cv=none", "cv=pass", 1),
				"message sealed":  strings.Replace(sealed, "a=rsa-sha256", "a=rsa-sha257", 1),
				"no DKIM":         strings.ReplaceAll(sealed, "DKIM-Signature:", "X-Signature:"),
				"broken DKIM":     strings.ReplaceAll(sealed, "v=1; a=rsa-sha256", "v=2; a=rsa-sha256"),
				"second From":     strings.Replace(sealed, "To: b", "From: e@example.net", 1),
				"more signatures": strings.Repeat("DKIM-Signature: garbage\r\n", maxSignatures) + sealed,
			} {
				t.Run(fmt.Sprintf("%s,%d,%s", canon, size, name), func(t *testing.T) {
					want := dkimVerify(t, z, changed, 0)
					intact := name == "sound" || name == "chain" || name == "message sealed"
					if pass := len(want) > 1 && want[0].Value == "pass" && want[1].Value == "pass"; pass != intact {
						t.Errorf("%+v", want)
					}
					for _, chainFirst := range []bool{false, true} {
						got, chain := dkimBesideChain(t, z, changed, chainFirst)
						if !slices.Equal(got, want) {
							t.Errorf("beside a chain %+v, want %+v", got, want)
						}
						if name == "sound" && chain.Value != arc.Pass {
							t.Errorf("the chain: %s %s", chain.Value, chain.Reason)
						}
					}
				})
			}
		}
	}
}

// knowingZone remembers some names.
type knowingZone struct {
	*zone
	known *zone
}

func (z knowingZone) Known() Resolver { return z.known }

// TestDKIMKnown: a key that is remembered is not asked for, and any other is.
func TestDKIMKnown(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	const name = "s1._domainkey.example.com"
	signed := dkimSigner{}.sign(t, dkimPlain)
	for _, c := range []struct {
		about string
		known *zone
		asked int64
		value string
	}{
		{"known", dkimZone(nil, ""), 0, "pass"},
		{"not known", &zone{down: map[string][]string{name: {"*"}}}, 1, "pass"},
		{"known not to exist", &zone{}, 0, "permerror"},
	} {
		z := knowingZone{dkimZone(nil, ""), c.known}
		if got := dkimOne(t, z, signed); got.Value != c.value || z.asked.Load() != c.asked {
			t.Errorf("%s: %+v after %d questions, want %s after %d", c.about, got, z.asked.Load(), c.value, c.asked)
		}
	}
}

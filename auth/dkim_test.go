package auth

import (
	"context"
	"crypto"
	_ "embed"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"slipstream/auth/arc"
)

// dkimRFC6376 is the message of https://www.rfc-editor.org/rfc/rfc6376#appendix-A.2
const dkimRFC6376 = `DKIM-Signature: v=1; a=rsa-sha256; s=brisbane; d=example.com;
      c=simple/simple; q=dns/txt; i=joe@football.example.com;
      h=Received : From : To : Subject : Date : Message-ID;
      bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
      b=AuUoFEfDxTDkHlLXSZEpZj79LICEps6eda7W3deTVFOk4yAUoqOB
      4nujc7YopdG5dWLSdNg6xNAZpOPr+kHxt1IrE+NahM6L/LbvaHut
      KVdkLLkpVaVVQPzeRDI009SO2Il5Lu7rDNH6mZckBdrIx0orEtZV
      4bmp/YzhwvcubU4=;
Received: from client1.football.example.com  [192.0.2.1]
      by submitserver.example.com with SUBMISSION;
      Fri, 11 Jul 2003 21:01:54 -0700 (PDT)
From: Joe SixPack <joe@football.example.com>
To: Suzie Q <suzie@shopping.example.net>
Subject: Is dinner ready?
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)
Message-ID: <20030712040037.46341.5F8J@football.example.com>

Hi.

We lost the game. Are you hungry yet?

Joe.
`

// dkimRFC8463 is the message of https://www.rfc-editor.org/rfc/rfc8463#appendix-A.3
//
//go:embed arc/testdata/rfc8463.eml
var dkimRFC8463 string

// dkimVectors has the keys of both, and those of the suite.
func dkimVectors() *zone {
	const test = "v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhd" +
		"R6wy5bdOKb2jLQiY/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9Pzox" +
		"ZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB"
	z := &zone{txt: make(map[string][]string)}
	for name, record := range map[string]string{
		// https://www.rfc-editor.org/rfc/rfc6376#appendix-C
		"brisbane._domainkey.example.com": "v=DKIM1; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDwIRP/UC3SBsEmGqZ9Z" +
			"JW3/DkMoGeLnQg1fWn7/zYtIxN2SnFCjxOCKG9v3b4jYfcTNh5ijSsq631uBItLa7od+v/RtdC2UzJ1lWT947qR+Rcac2gbto/N" +
			"MqJ0fzfVjH4OuKhitdY9tf6mcwGjaNBcWToIMmPSPDdQPNUYckcQ2QIDAQAB",
		// https://www.rfc-editor.org/rfc/rfc8463#appendix-A.2
		"brisbane._domainkey.football.example.com": "k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
		"test._domainkey.football.example.com":     test,
		"test._domainkey.example.com":              test,
	} {
		z.txt[name] = []string{record}
	}
	return z
}

func TestDKIMVectors(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	for _, c := range []struct {
		name, message string
		want          []DKIMResult
	}{
		{"RFC 6376 A", dkimRFC6376, []DKIMResult{{
			Value: "pass", Domain: "example.com", Identity: "joe@football.example.com", Selector: "brisbane",
			Algorithm: "rsa-sha256", B: "AuUoFEfD",
		}}},
		{"RFC 8463 A.3", dkimRFC8463, []DKIMResult{{
			Value: "pass", Domain: "football.example.com", Identity: "@football.example.com", Selector: "brisbane",
			Algorithm: "ed25519-sha256", B: "/gCrinpc",
		}, {
			Value: "pass", Domain: "football.example.com", Identity: "@football.example.com", Selector: "test",
			Algorithm: "rsa-sha256", B: "F45dVWDf",
		}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for piece := range 40 {
				got := dkimVerify(t, dkimVectors(), dkimCRLF(c.message), piece)
				if len(got) != len(c.want) {
					t.Fatalf("%d results, want %d", len(got), len(c.want))
				}
				for i := range got {
					if got[i] != c.want[i] {
						t.Errorf("in pieces of %d: %+v, want %+v", piece, got[i], c.want[i])
					}
				}
			}
			changed := strings.Replace(c.message, "hungry", "Hungry", 1)
			for _, got := range dkimVerify(t, dkimVectors(), dkimCRLF(changed), 0) {
				if got.Value != "fail" || got.Reason != arc.ErrBodyHash.Error() {
					t.Errorf("changed body: %+v, want fail", got)
				}
			}
			changed = strings.Replace(c.message, "dinner", "lunch", 1)
			for _, got := range dkimVerify(t, dkimVectors(), dkimCRLF(changed), 0) {
				if got.Value != "fail" || got.Reason != arc.ErrMismatch.Error() {
					t.Errorf("changed Subject: %+v, want fail", got)
				}
			}
		})
	}
}

// dkimRepair is a signature and what it is worth.
type dkimRepair struct {
	name   string
	signer dkimSigner
	key    string // more tags of the key record
	zone   *zone  // instead of that key
	value  string
	reason string
}

// dkimRepairs has a case for each thing that the library gets wrong by itself, and their neighbours.
func dkimRepairs() []dkimRepair {
	const (
		otherDomain = "i= is of another domain than d="
		noSubdomain = "the key is not for subdomains, and i= names one"
		expired     = "the signature has expired"
	)
	noKey, down := &zone{}, &zone{down: map[string][]string{"s1._domainkey.example.com": {"TXT"}}}
	text, other := dkimText(dkimRSA2048().Public(), ""), dkimText(dkimRSA1024().Public(), "")
	cases := []dkimRepair{
		{name: "plain", value: "pass"},
		{name: "simple", signer: dkimSigner{canon: "simple/simple"}, value: "pass"},
		{name: "simple header, relaxed body", signer: dkimSigner{canon: "simple/relaxed"}, value: "pass"},
		{name: "Ed25519", signer: dkimSigner{key: dkimEd25519()}, value: "pass"},
		{name: "1024 bits", signer: dkimSigner{key: dkimRSA1024()}, value: "pass"},

		{name: "case of i=", signer: dkimSigner{tags: "i=joe@Example.COM;"}, value: "pass"},
		{name: "case of d=", signer: dkimSigner{domain: "Example.com", tags: "i=joe@example.com;"}, value: "pass"},
		{name: "i= below d=, in another case", signer: dkimSigner{tags: "i=@LIST.Example.com;"}, value: "pass"},
		{name: "QP i=", signer: dkimSigner{tags: "i=joe=2Bx=40example.com;"}, value: "pass"},
		{name: "QP i= with white space", signer: dkimSigner{tags: "i=joe=\r\n\t2Bx@exam\r\n\tple.com;"}, value: "pass"},
		{name: "i= with = as it is", signer: dkimSigner{tags: "i=bounce+a=b.org@example.com;"}, value: "pass"},
		{name: "U-label d=, A-label i=", value: "pass",
			signer: dkimSigner{domain: "bücher.example", tags: "i=@xn--bcher-kva.example;"}},
		{name: "i= elsewhere", signer: dkimSigner{tags: "i=@example.org;"}, value: "permerror", reason: otherDomain},
		{name: "i= that only ends like d=", signer: dkimSigner{tags: "i=@badexample.com;"}, value: "permerror",
			reason: otherDomain},
		{name: "i= above d=", signer: dkimSigner{domain: "sub.example.com", tags: "i=@example.com;"},
			value: "permerror", reason: otherDomain},
		{name: "i= without @", signer: dkimSigner{tags: "i=sub.example.com;"}, value: "neutral",
			reason: "i= is no identity"},

		{name: "t=s", signer: dkimSigner{tags: "i=@sub.example.com;"}, key: "t=s; ", value: "permerror",
			reason: noSubdomain},
		{name: "t=y:s", signer: dkimSigner{tags: "i=@sub.example.com;"}, key: "t=y : s; ", value: "permerror",
			reason: noSubdomain},
		{name: "t=s, same domain", signer: dkimSigner{tags: "i=joe@EXAMPLE.com;"}, key: "t=s; ", value: "pass"},
		{name: "subdomain, no t=s", signer: dkimSigner{tags: "i=@sub.example.com;"}, value: "pass"},

		{name: "b= in z=", signer: dkimSigner{tags: "z=From:a|Sub=b=7C;"}, value: "pass"},
		{name: "tag that ends in b", signer: dkimSigner{tags: "xb=1;"}, value: "pass"},
		{name: "tag that ends in b, simple", signer: dkimSigner{tags: "xb=1;", canon: "simple/simple"}, value: "pass"},
		{name: "white space behind b=", signer: dkimSigner{tail: " \r\n\t ;"}, value: "pass"},
		{name: "tags behind b=", signer: dkimSigner{tail: "; r=y; n="}, value: "pass"},

		{name: "l=", signer: dkimSigner{tags: "l=5;"}, value: "policy", reason: "l= leaves part of the body unsigned"},
		{name: "l= to the end", signer: dkimSigner{tags: fmt.Sprintf("l=%d;", dkimPlainSize)}, value: "pass"},
		{name: "l= beyond it", signer: dkimSigner{tags: fmt.Sprintf("l=%d;", dkimPlainSize+1)}, value: "fail",
			reason: "the body is not what was signed"},
		{name: "expired", signer: dkimSigner{tags: "t=1000; x=2000;"}, value: "permerror", reason: expired},
		{name: "x= before t=", signer: dkimSigner{tags: "t=9999999999; x=9999999998;"}, value: "neutral",
			reason: "malformed signature: x= is no time, or not behind t="},
		{name: "signs no From", signer: dkimSigner{headers: "to:subject"}, value: "permerror",
			reason: "From is not signed"},
		{name: "signs the next From", signer: dkimSigner{headers: "from:from:to"}, value: "pass"},
		{name: "signs fields that are not there", signer: dkimSigner{headers: "from:x-none:to:list-id"}, value: "pass"},
		{name: "spaced out h=", signer: dkimSigner{headers: "from :\r\n\tTO: subject"}, value: "pass"},

		{name: "no key", zone: noKey, value: "permerror", reason: "no key"},
		{name: "DNS down", zone: down, value: "temperror",
			reason: "no answer from the DNS"},
		{name: "key revoked", zone: dkimKeyZone("v=DKIM1; p="), value: "permerror", reason: "key revoked"},
		{name: "key of another version", zone: dkimKeyZone("v=DKIM2; p=AAAA"), value: "permerror",
			reason: "malformed key record: v= is not DKIM1, or not first"},
		{name: "key for another use", key: "s=tlsrpt; ", value: "permerror", reason: "key is for another use"},
		{name: "key for another hash", key: "h=sha1; ", value: "permerror", reason: "key is for another use"},
		{name: "key for all of it", key: "h=sha1 : sha256; s=email:*; n=a b c; ", value: "pass"},
		{name: "key of another kind", zone: dkimZone(dkimEd25519(), ""), value: "permerror",
			reason: "no key: the key is for another algorithm"},
		{name: "tabs in the key", zone: dkimKeyZone(strings.Replace(text, "MIIB", "M\tI I\tB", 1)), value: "pass"},
		{name: "two keys", zone: dkimKeyZone(text, other), value: "permerror", reason: "several keys at one name"},
		{name: "a key and something else", zone: dkimKeyZone("v=spf1 -all", text), value: "pass"},
	}
	for i, c := range cases {
		if c.zone == nil {
			cases[i].zone = dkimZone(c.signer.key, c.key)
		}
	}
	return cases
}

func TestDKIMRepairs(t *testing.T) {
	for _, c := range dkimRepairs() {
		t.Run(c.name, func(t *testing.T) {
			got := dkimOne(t, c.zone, c.signer.sign(t, dkimPlain))
			if got.Value != c.value || got.Reason != c.reason {
				t.Errorf("%+v, want %s %q", got, c.value, c.reason)
			}
		})
	}
}

func dkimKeyZone(records ...string) *zone {
	return &zone{txt: map[string][]string{"s1._domainkey.example.com": records}}
}

// TestDKIMNoBlankLine: a message may be nothing but a header, and the blank line may be missing.
func TestDKIMNoBlankLine(t *testing.T) {
	const header = "From: a@example.com\r\nTo: b@example.net\r\nSubject: none\r\n"
	for _, canon := range []string{"simple/simple", "relaxed/relaxed", "relaxed"} {
		signed := dkimSigner{canon: canon}.sign(t, header+"\r\n")
		got := dkimVerifyParts(t, dkimZone(nil, ""), strings.TrimSuffix(signed, "\r\n"), "", 0)
		if got[0].Value != "pass" {
			t.Errorf("%s: %+v", canon, got)
		}
	}
}

// TestDKIMBroken: signatures without meaning say so, and show no more than what has one.
func TestDKIMBroken(t *testing.T) {
	const rest = "\r\nFrom: a@example.com\r\n\r\nx\r\n"
	const start, end = "v=1; a=rsa-sha256; d=example.com; s=s1; h=from; ", "bh=" + dkimSum + "; b=AAAA"
	for field, want := range map[string]string{ // the value, and the domain if one is shown
		"": "neutral ", "garbage": "neutral ", "v=1": "neutral ", "v=1; v=1": "neutral ",
		"v=2; a=rsa-sha256; d=example.com; s=s1; h=from; " + end:                 "neutral example.com",
		"v=1; a=rsa-sha1; d=example.com; s=s1; h=from; " + end:                   "permerror example.com",
		"v=1; a=x; d=a\r\n\tb; s=é; h=from; b=<script>":                          "neutral ",
		"v=1; a=rsa-sha256; d=example.com\x00; s=s1; h=from; " + end:             "neutral ",
		"v=1; a=rsa-sha256; d=example.com(x); s=s1; h=from; " + end:              "neutral ",
		"v=1; a=rsa-sha256; d=\"example.com\"; s=s1; h=from; " + end:             "neutral ",
		"v=1; a=rsa-sha256; d=com; s=s1; h=from; " + end:                         "neutral ",
		"v=1; a=rsa-sha256; d=1.2.3.4; s=s1; h=from; i=@example.com; " + end:     "neutral ",
		"v=1; a=rsa-sha256; d=example.com; s=" + dkimSum + "; h=from; " + end:    "neutral example.com",
		start + "q=dns/x; " + end:                                                "neutral example.com",
		start + "c=nofws; " + end:                                                "neutral example.com",
		start + "t=-1; " + end:                                                   "neutral example.com",
		start + "x=99999999999999999999; " + end:                                 "neutral example.com",
		start + "bh=AAAA; b=AAAA":                                                "neutral example.com",
		start + "bh=" + dkimSum + "; b=!":                                        "neutral example.com",
		start + "i=@example.com\x01; " + end:                                     "neutral ",
		start + "i=a@b@c=0D=0A.org; " + end:                                      "neutral example.com",
		start + strings.Repeat("x", 20000) + "=1; " + end:                        "neutral ",
		start + "i=" + strings.Repeat("=0D", 1000) + "@Example.com; l=1; " + end: "policy example.com",
	} {
		got := dkimOne(t, dkimZone(nil, ""), "DKIM-Signature: "+field+rest)
		if got.Value+" "+got.Domain != want || got.Reason == "" || strings.ContainsAny(got.Reason, "\r\n;\x00") {
			t.Errorf("%.200q: %+v, want %s", field, got, want)
		}
	}
}

const dkimSum = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="

// TestDKIMTesting: t=y shows, and changes nothing.
func TestDKIMTesting(t *testing.T) {
	signed := dkimSigner{}.sign(t, dkimPlain)
	if got := dkimOne(t, dkimZone(nil, "t=y; "), signed); got.Value != "pass" || !got.Testing {
		t.Errorf("%+v, want pass, testing", got)
	}
}

// TestDKIMKeySizes: keys that prove nothing, and keys that only cost time, never pass.
func TestDKIMKeySizes(t *testing.T) {
	signed := dkimSigner{}.sign(t, dkimPlain)
	for _, bits := range []int{512, 1023, 16384, 65536} {
		z := dkimKeyZone(dkimText(dkimFakeKey(bits), ""))
		got := dkimOne(t, z, signed)
		if got.Value != "policy" && got.Value != "permerror" {
			t.Errorf("%d bits: %+v, want policy", bits, got)
		}
	}
}

// TestDKIMSeveral: signatures are told apart, judged one by one, and may sign each other.
func TestDKIMSeveral(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	message := dkimSigner{canon: "simple/simple"}.sign(t, dkimPlain)
	message = "DKIM-Signature: garbage\r\n" + message
	message = dkimSigner{domain: "list.example.net", headers: "from:dkim-signature:dkim-signature"}.sign(t, message)
	message = dkimSigner{tags: "i=@EXAMPLE.com;", headers: "dkim-signature:from"}.sign(t, message)
	got := dkimVerify(t, dkimZone(nil, ""), message, 7)
	for i, want := range []string{"pass example.com", "pass list.example.net", "neutral ", "pass example.com"} {
		if s := got[i].Value + " " + got[i].Domain; s != want {
			t.Errorf("signature %d: %+v, want %s", i, got[i], want)
		}
	}
	// The same signature twice: what shows of b= ends somewhere.
	one := dkimSigner{}.sign(t, dkimPlain)
	field, _, _ := strings.Cut(one, "From:")
	got = dkimVerify(t, dkimZone(nil, ""), field+one, 0)
	if len(got) != 2 || got[0] != got[1] || got[0].Value != "pass" || len(got[0].B) != maxShownB {
		t.Errorf("%+v, want two that pass", got)
	}
	if one := dkimOne(t, dkimZone(nil, ""), one); len(one.B) != minShownB {
		t.Errorf("%+v, want 8 characters of b=", one)
	}
}

// TestDKIMSecondFrom: a From that nobody signed is not spoken for by the one that was.
func TestDKIMSecondFrom(t *testing.T) {
	const evil = "From: evil@example.org\r\n"
	signed := dkimSigner{}.sign(t, dkimPlain)
	if got := dkimOne(t, dkimZone(nil, ""), evil+signed); got.Value != "policy" {
		t.Errorf("on top: %+v, want policy", got)
	}
	all := dkimSigner{headers: "from:from:to"}
	if got := dkimOne(t, dkimZone(nil, ""), all.sign(t, evil+dkimPlain)); got.Value != "pass" {
		t.Errorf("both signed: %+v, want pass", got)
	}
	if got := dkimOne(t, dkimZone(nil, ""), evil+all.sign(t, dkimPlain)); got.Value != "fail" {
		t.Errorf("signed as alone: %+v, want fail", got)
	}
}

// TestDKIMUnsigned: nothing to do, nothing asked, nothing said.
func TestDKIMUnsigned(t *testing.T) {
	z := &zone{}
	if got := dkimVerify(t, z, dkimPlain, 0); got != nil || z.asked.Load() != 0 {
		t.Errorf("%+v, %d look-ups; want none", got, z.asked.Load())
	}
	NewDKIM(t.Context(), nil, z, time.Now()).Abort()
}

// TestDKIMBothWays: whatever the library says of a sound message, our own arithmetic says, too, however it is cut.
func TestDKIMBothWays(t *testing.T) {
	bodies := []string{
		"", "\r\n", "\r\n\r\n\r\n", " \r\n", "\t\r\n \r\n", "x", "x\r\n", "x \t y \r\n",
		"x\r\n\r\n\r\ny\r\n\r\n", " x\r\n \r\n\r\n \r\ny ",
		strings.Repeat("\r\n", 3000) + "x" + strings.Repeat(" \r\n", 2000), strings.Repeat("word ", 30000) + "\r\n",
	}
	for _, canon := range []string{"simple/simple", "relaxed/relaxed", "relaxed/simple", "simple/relaxed"} {
		for _, key := range []crypto.Signer{dkimRSA2048(), dkimEd25519()} {
			for _, body := range bodies {
				message := "From:  A \t B\r\n  <a@example.com> \r\nTO : b\r\nsubject:\r\n\r\n" + body
				for _, tags := range []string{"", "i=@Example.com;"} { // the library; ours
					signed := dkimSigner{key: key, canon: canon, tags: tags}.sign(t, message)
					for _, piece := range []int{0, 1, 3, 1000} {
						if len(body) > 10000 && piece == 1 {
							continue
						}
						if got := dkimVerify(t, dkimZone(key, ""), signed, piece); got[0].Value != "pass" {
							t.Errorf("%s %.40q in pieces of %d, %q: %+v", canon, body, piece, tags, got)
						}
					}
				}
			}
		}
	}
}

// TestDKIMAbort: an aborted message leaves nothing behind, at whatever point.
func TestDKIMAbort(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	message := dkimSigner{}.sign(t, dkimPlain)
	message = dkimSigner{domain: "list.example.net"}.sign(t, message)
	header, body, _ := strings.Cut(message, "\r\n\r\n")
	fields, err := arc.SplitHeader([]byte(header))
	if err != nil {
		t.Fatal(err)
	}
	stuck := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for _, wait := range []func(context.Context) error{nil, stuck} {
		for n := range 4 {
			z := dkimZone(nil, "")
			z.wait = wait
			v := NewDKIM(t.Context(), fields, z, time.Now())
			for range n {
				v.Write([]byte(body))
			}
			v.Abort()
			v.Abort()
			v.Write([]byte(body))
		}
	}
}

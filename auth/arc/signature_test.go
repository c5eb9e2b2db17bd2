package arc

import (
	"crypto/sha256"
	_ "embed"
	"strings"
	"testing"
)

func sum256(p []byte) []byte { s := sha256.Sum256(p); return s[:] }

// rfc8463 is the message of https://www.rfc-editor.org/rfc/rfc8463#appendix-A.3
//
//go:embed testdata/rfc8463.eml
var rfc8463 string

// Its keys: https://www.rfc-editor.org/rfc/rfc8463#appendix-A.2
const (
	rfc8463Ed  = "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
	rfc8463RSA = "v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3id" +
		"Y6Wk08a5qhdR6wy5bdOKb2jLQiY/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lx" +
		"j+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB"
)

func TestSignatureRFC8463(t *testing.T) {
	headers, text := split(t, crlfs(rfc8463))
	fields := NewFields(headers)
	for i, record := range []string{rfc8463Ed, rfc8463RSA} {
		s, err := ParseSignature(headers[i])
		if err != nil {
			t.Fatal(err)
		}
		k, err := ChooseKey([]string{record}, s.Algorithm)
		if err != nil {
			t.Fatal(err)
		}
		body := NewBodyHash(s.Body)
		body.Write([]byte(text))
		if err := s.CheckBody(body); err != nil {
			t.Errorf("%s: %v", s.Algorithm, err)
		}
		if err := s.Verify(fields, k); err != nil {
			t.Errorf("%s: %v", s.Algorithm, err)
		}
		changed, _ := split(t, strings.Replace(crlfs(rfc8463), "dinner", "lunch", 1))
		if s, err = ParseSignature(changed[i]); err != nil {
			t.Fatal(err)
		}
		wantError(t, s.Verify(NewFields(changed), k), ErrMismatch)
	}
}

// A name in h= chooses from the bottom up, nothing when all are used, never the
// signature itself and never a line without a name.
func TestDigestChoice(t *testing.T) {
	const header = "From: 1\r\nTo: a\r\nDKIM-Signature: h=%;b=x;c=1\r\nfrom: 2\r\nDKIM-Signature: other\r\nstray\r\n"
	for _, test := range []struct{ h, want string }{
		{"from", "from:2\r\n"},
		{"FROM:from", "from:2\r\nfrom:1\r\n"},
		{"from:from:from", "from:2\r\nfrom:1\r\n"},
		{"from:to:from", "from:2\r\nto:a\r\nfrom:1\r\n"},
		{"to::from", "to:a\r\nfrom:2\r\n"},
		{"dkim-signature:dkim-signature:dkim-signature", "dkim-signature:other\r\n"},
		{"x", ""}, {"", ""},
	} {
		headers, _ := SplitHeader([]byte(strings.Replace(header, "%", test.h, 1)))
		tags, err := ParseTags(headers[2].Value())
		if err != nil {
			t.Fatal(err)
		}
		s := Signature{Tags: tags, Header: Relaxed, Headers: strings.Split(test.h, ":"), raw: headers[2].Raw}
		want := sum256([]byte(test.want + "dkim-signature:h=" + test.h + ";b=;c=1"))
		if got := s.Digest(NewFields(headers)); string(got) != string(want) {
			t.Errorf("h=%s is not %q", test.h, test.want)
		}
	}
}

// Only the value of b= is left out, wherever it stands.
func TestUnsigned(t *testing.T) {
	for _, test := range []struct{ raw, simple, relaxed string }{
		{"S: b=x; a=1\r\n", "S: b=; a=1", "s:b=; a=1"},
		{"S: a=1; b=\r\n x\r\n y \r\n", "S: a=1; b=", "s:a=1; b="},
		{"S: a=1; b = x ;\r\n", "S: a=1; b =;", "s:a=1; b =;"},
		{"S: z=a/b=c; bh=y; b=x; db=1\r\n", "S: z=a/b=c; bh=y; b=; db=1", "s:z=a/b=c; bh=y; b=; db=1"},
	} {
		h := Header{Name: "S", Raw: []byte(test.raw)}
		tags, err := ParseTags(h.Value())
		if err != nil {
			t.Fatal(err)
		}
		s := Signature{Tags: tags, raw: h.Raw}
		if got := string(s.unsigned(Simple)); got != test.simple {
			t.Errorf("%q: simple %q, want %q", test.raw, got, test.simple)
		}
		if got := string(s.unsigned(Relaxed)); got != test.relaxed {
			t.Errorf("%q: relaxed %q, want %q", test.raw, got, test.relaxed)
		}
	}
}

// The results of a set, and its instance, may have comments around them
// (https://www.rfc-editor.org/rfc/rfc8617#section-4.1.1).
func TestParseResults(t *testing.T) {
	for _, test := range []struct {
		value    string
		instance int
		payload  string
	}{
		{" i=1; a; none", 1, "a; none"},
		{"i=50;a\r\n\tb\r\n ", 50, "a\r\n\tb"},
		{"\r\n (c (d) \\) e)\r\n i (x) = () 07 (;) ; a", 7, "a"},
		{"i=1;", 1, ""},
		{"i=0; a", 0, ""}, {"i=51; a", 0, ""}, {"i=001; a", 0, ""}, {"i=; a", 0, ""}, {"i=1 a", 0, ""}, {"i=1", 0, ""},
		{"a; i=1", 0, ""}, {"i 1; a", 0, ""}, {"(i=1; a", 0, ""}, {"i=1(; a", 0, ""}, {"(\\", 0, ""},
		{"", 0, ""}, {"ii=1; a", 0, ""},
	} {
		instance, payload, ok := parseResults([]byte(test.value))
		if instance != test.instance || string(payload) != test.payload || ok != (test.instance > 0) {
			t.Errorf("%q: %d %q %v", test.value, instance, payload, ok)
		}
	}
}

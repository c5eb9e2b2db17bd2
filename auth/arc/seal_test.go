package arc

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

func base64Of(p []byte) string { return base64.StdEncoding.EncodeToString(p) }

// What stands in a set, by the letter.
func TestSealFields(t *testing.T) {
	message := seal(t, rsaSealer(), letter)
	headers, _ := split(t, message)
	for i, name := range []string{fieldSeal, fieldMessage, fieldResults} {
		if headers[i].Name != name {
			t.Errorf("field %d is %s, want %s", i, headers[i].Name, name)
		}
	}
	for line := range strings.SplitSeq(message[:strings.Index(message, fieldResults)], "\r\n") {
		if len(line) > foldAt {
			t.Errorf("a line of %d: %q", len(line), line)
		}
	}
	as, err := ParseTags(headers[0].Value())
	if err != nil {
		t.Fatal(err)
	}
	ams, err := ParseTags(headers[1].Value())
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		tags       Tags
		name, want string
	}{
		{as, "i", "1"}, {as, "a", "rsa-sha256"}, {as, "cv", "none"}, {as, "d", "relay.example"}, {as, "s", "r"},
		{as, "t", "1790000000"}, {as, "h", ""}, {as, "bh", ""}, {as, "c", ""},
		{ams, "i", "1"}, {ams, "a", "rsa-sha256"}, {ams, "c", "relaxed/relaxed"}, {ams, "d", "relay.example"},
		{ams, "s", "r"}, {ams, "t", "1790000000"}, {ams, "v", ""}, {ams, "l", ""}, {ams, "cv", ""},
		{ams, "h", "From:From:Subject:Date:To:Message-ID:DKIM-Signature:DKIM-Signature"},
	} {
		got, _ := test.tags.Get(test.name)
		if got = strings.ReplaceAll(got, "\t", ""); got != test.want {
			t.Errorf("%s=%q, want %q", test.name, got, test.want)
		}
	}
	if as[0].Name != "i" || ams[0].Name != "i" {
		t.Error("i= is not first")
	}
}

func TestSealHeaders(t *testing.T) {
	for _, test := range []struct {
		name              string
		headers, oversign []string
		want              string
	}{
		{"a list", []string{"subject", "X-Missing", "Received"}, nil,
			"subject:Received:From:From:DKIM-Signature:DKIM-Signature"},
		{"nothing oversigned", []string{"Subject"}, []string{}, "Subject:From:DKIM-Signature:DKIM-Signature"},
		{"more oversigned", []string{"From"}, []string{"from", "Cc"}, "From:From:Cc:DKIM-Signature:DKIM-Signature"},
		{"a name twice", []string{"To", "TO"}, []string{}, "To:From:DKIM-Signature:DKIM-Signature"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := rsaSealer()
			s.Headers, s.Oversign = test.headers, test.oversign
			message := seal(t, s, letter)
			headers, _ := split(t, message)
			ams, err := ParseSignature(headers[1])
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(ams.Headers, ":"); got != test.want {
				t.Errorf("h=%s, want %s", got, test.want)
			}
			wantChain(t, verifyAt(t, message, testKeys(t), noon), Pass, "")
		})
	}
}

// A chain that breaks is sealed as broken once, over the new set alone.
func TestSealFailed(t *testing.T) {
	for name, broken := range map[string]string{
		"body":     sealed(t, 2) + "PS\r\n",
		"gap":      replace1(t, sealed(t, 2), field(t, sealed(t, 2), fieldSeal, 1), ""),
		"all i":    strings.ReplaceAll(sealed(t, 1), "i=1;", "i=x;"),
		"a stray":  strings.Replace(field(t, sealed(t, 1), fieldSeal, 1), "i=1", "i=7", 1) + letter,
		"repeated": field(t, sealed(t, 1), fieldSeal, 1) + sealed(t, 1),
	} {
		t.Run(name, func(t *testing.T) {
			before := verifyAt(t, broken, testKeys(t), noon)
			wantChain(t, before, Fail, "")
			message, err := trySeal(t, edSealer(), broken, testKeys(t))
			if err != nil {
				t.Fatal(err)
			}
			after := verifyAt(t, message, testKeys(t), noon)
			wantChain(t, after, Fail, "already sealed as failed")
			if after.Instance != before.Instance+1 {
				t.Errorf("instance %d above %d", after.Instance, before.Instance)
			}
			// The seal is good as if the set stood alone.
			headers, _ := split(t, message)
			as, err := ParseTags(headers[0].Value())
			if err != nil {
				t.Fatal(err)
			}
			s, err := parseSeal(as, headers[0].Raw)
			if err != nil {
				t.Fatal(err)
			}
			k, err := ParseKey(record(t, edKey()))
			if err != nil {
				t.Fatal(err)
			}
			alone := NewFields(headers[:3])
			text := bytes.Join([][]byte{alone.canonical(2, Relaxed), alone.canonical(1, Relaxed), s.unsigned(Relaxed)}, nil)
			if err := s.verify(sum256(text), k); err != nil {
				t.Errorf("the seal: %v", err)
			}
			_, err = trySeal(t, rsaSealer(), message, testKeys(t))
			wantError(t, err, ErrSealedFailed)
		})
	}
}

func TestSealFull(t *testing.T) {
	full := sealed(t, MaxSets)
	_, err := trySeal(t, rsaSealer(), full, testKeys(t))
	wantError(t, err, ErrSealedFull)
	_, err = trySeal(t, rsaSealer(), full+"PS\r\n", testKeys(t))
	wantError(t, err, ErrSealedFull)
}

// failingSigner is a key that cannot be reached.
type failingSigner struct{ crypto.Signer }

var errSigner = errors.New("no hardware")

func (failingSigner) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errSigner
}

func TestSealRefusals(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	one := sealed(t, 1)
	pass := verifyAt(t, one, testKeys(t), noon)
	none := Result{Value: None}
	with := func(edit func(*Sealer)) *Sealer {
		s := rsaSealer()
		edit(s)
		return s
	}
	for _, test := range []struct {
		name     string
		sealer   *Sealer
		message  string
		verified Result
		results  string
		err      error
	}{
		{"good", rsaSealer(), one, pass, letterResults, nil},
		{"good and folded", rsaSealer(), letter, none, " relay.example;\r\n\tspf=pass;\r\n arc=none\r\n", nil},
		{"no key", with(func(s *Sealer) { s.Key = nil }), letter, none, letterResults, ErrSealer},
		{"ECDSA", with(func(s *Sealer) { s.Key = ec }), letter, none, letterResults, ErrSealer},
		{"no domain", with(func(s *Sealer) { s.Domain = "" }), letter, none, letterResults, ErrSealer},
		{"no selector", with(func(s *Sealer) { s.Selector = "" }), letter, none, letterResults, ErrSealer},
		{"broken selector", with(func(s *Sealer) { s.Selector = "a\r\nb" }), letter, none, letterResults, ErrSealer},
		{"ARC-Seal", with(func(s *Sealer) { s.Headers = []string{"arc-seal"} }), letter, none, letterResults, ErrSealer},
		{"signature", with(func(s *Sealer) { s.Oversign = []string{"ARC-Message-Signature"} }), letter, none,
			letterResults, ErrSealer},
		{"results of a set", with(func(s *Sealer) { s.Headers = []string{"ARC-Authentication-Results"} }), letter,
			none, letterResults, ErrSealer},
		{"results", with(func(s *Sealer) { s.Headers = []string{"Authentication-results"} }), letter, none,
			letterResults, ErrSealer},
		{"two names in one", with(func(s *Sealer) { s.Headers = []string{"From:To"} }), letter, none,
			letterResults, ErrSealer},
		{"no name", with(func(s *Sealer) { s.Headers = []string{""} }), letter, none, letterResults, ErrSealer},
		{"key fails", with(func(s *Sealer) { s.Key = failingSigner{s.Key} }), letter, none, letterResults, errSigner},
		{"not verified", rsaSealer(), letter, Result{}, letterResults, ErrSealInput},
		{"another chain", rsaSealer(), one, none, letterResults, ErrSealInput},
		{"no chain", rsaSealer(), letter, pass, letterResults, ErrSealInput},
		{"no chain to fail", rsaSealer(), letter, Result{Value: Fail}, letterResults, ErrSealInput},
		{"passed without being sound", rsaSealer(), replace1(t, one, "cv=none", "cv=pass"), pass,
			letterResults, ErrSealInput},
		{"a malformed line", rsaSealer(), "hello\r\n" + letter, none, letterResults, ErrSealInput},
		{"no results", rsaSealer(), letter, none, " \r\n", ErrSealInput},
		{"results with a field", rsaSealer(), letter, none, "a; none\r\nEvil: x", ErrSealInput},
		{"results with a blank line", rsaSealer(), letter, none, "a;\r\n \r\n none", ErrSealInput},
		{"results with a bare LF", rsaSealer(), letter, none, "a;\n none", ErrSealInput},
		{"results with a bare CR", rsaSealer(), letter, none, "a;\r none", ErrSealInput},
		{"results with NUL", rsaSealer(), letter, none, "a;\x00none", ErrSealInput},
		{"results not UTF-8", rsaSealer(), letter, none, "a;\xff", ErrSealInput},
		{"results in a long line", rsaSealer(), letter, none, "a;" + strings.Repeat("x", maxLine), ErrSealInput},
		{"results too long", rsaSealer(), letter, none, "a" + strings.Repeat(";\r\n x", MaxResults/4), ErrSealInput},
		{"too much to sign", rsaSealer(), strings.Repeat("DKIM-Signature: x\r\n", 1500) + letter, none,
			letterResults, ErrSealInput},
	} {
		t.Run(test.name, func(t *testing.T) {
			headers, _ := SplitHeader([]byte(test.message))
			set, err := test.sealer.Seal(headers, bodyOf("x\r\n"), test.verified, []byte(test.results))
			wantError(t, err, test.err)
			if (set == nil) != (err != nil) {
				t.Errorf("%q and %v", set, err)
			}
		})
	}
	headers, _ := split(t, letter)
	for _, body := range []*BodyHash{nil, NewBodyHash(Simple)} {
		_, err := rsaSealer().Seal(headers, body, none, []byte(letterResults))
		wantError(t, err, ErrSealInput)
	}
}

// Without a clock, the machine's is read.
func TestSealClock(t *testing.T) {
	s := edSealer()
	s.Now = nil
	headers, _ := split(t, seal(t, s, letter))
	ams, err := ParseSignature(headers[1])
	if err != nil || time.Since(ams.Signed).Abs() > time.Minute {
		t.Errorf("t=%v, %v", ams.Signed, err)
	}
}

package arc

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestVerifyPass(t *testing.T) {
	for _, sets := range []int{1, 2, 5, MaxSets} {
		got := verifyAt(t, sealed(t, sets), testKeys(t), noon)
		wantChain(t, got, Pass, "")
		if got.Instance != sets || got.OldestPass != 0 || len(got.Sets) != sets {
			t.Errorf("%d sets: %+v", sets, got)
		}
		for i, s := range got.Sets {
			want := SetInfo{Instance: i + 1, Domain: "relay.example", Selector: []string{"r", "e"}[i%2], CV: Pass,
				Results: []byte(letterResults), Message: Pass, MessageDomain: "relay.example"}
			if i == 0 {
				want.CV = None
			}
			if diff := cmp.Diff(want, s); diff != "" {
				t.Errorf("set %d: %s", i+1, diff)
			}
		}
	}
	wantChain(t, verifyAt(t, letter, testKeys(t), noon), None, "")
}

// Each rule that a chain can break, one at a time.
func TestVerifyFail(t *testing.T) {
	two := sealed(t, 2)
	aar, ams, as := func(i int) string { return field(t, two, fieldResults, i) },
		func(i int) string { return field(t, two, fieldMessage, i) },
		func(i int) string { return field(t, two, fieldSeal, i) }
	edit := func(whole, old, new string) string {
		return replace1(t, two, whole, replace1(t, whole, old, new))
	}
	for _, test := range []struct{ name, message, reason string }{
		{"newest seal says fail", edit(as(2), "cv=pass", "cv=fail"), "already sealed as failed"},
		{"older seal says fail", edit(as(1), "cv=none", "cv=fail"), "cv= of seal 1"},
		{"first seal says pass", edit(as(1), "cv=none", "cv=pass"), "cv= of seal 1"},
		{"second seal says none", edit(as(2), "cv=pass", "cv=none"), "cv= of seal 2"},
		{"unknown cv", edit(as(2), "cv=pass", "cv=passed"), "cv= of seal 2"},
		{"half a cv", edit(as(2), "cv=pass", "cv=pas"), "cv= of seal 2"},
		{"cv in capitals", edit(as(2), "cv=pass", "cv=Pass"), "cv= of seal 2"},
		{"no cv", edit(as(2), " cv=pass;", ""), "cv= of seal 2"},
		{"no results", replace1(t, two, aar(1), ""), "set 1 is not whole"},
		{"no signature", replace1(t, two, ams(2), ""), "set 2 is not whole"},
		{"no seal", replace1(t, two, as(1), ""), "set 1 is not whole"},
		{"no first set", replace1(t, replace1(t, replace1(t, two, aar(1), ""), ams(1), ""), as(1), ""),
			"set 1 is not whole"},
		{"two results", aar(2) + two, "two results of set 2"},
		{"two signatures", ams(1) + two, "two signatures of set 1"},
		{"two seals", as(1) + two, "two seals of set 1"},
		{"a lone seal", strings.Replace(as(2), "i=2", "i=4", 1) + two, "set 3 is not whole"},
		{"i=0", edit(as(1), "i=1", "i=0"), "a bad i="},
		{"i=51", strings.Replace(as(2), "i=2", "i=51", 1) + two, "a bad i="},
		{"i=001", edit(as(1), "i=1", "i=001"), "a bad i="},
		{"i=-1", edit(as(1), "i=1", "i=-1"), "a bad i="},
		{"no i", edit(as(1), " i=1;", ""), "a bad i="},
		{"results without i", edit(aar(1), "i=1; ", ""), "without i="},
		{"results with a large I", edit(aar(1), "i=1;", "I=1;"), "without i="},
		{"seal with h", edit(as(2), "cv=pass", "h=from; cv=pass"), "a seal with h="},
		{"signature of a seal", edit(ams(2), "h=From", "h=ARC-Seal:From"), "covers what it must not"},
		{"signature of results", edit(ams(2), "h=From", "h= Authentication-RESULTS :From"), "covers what it must not"},
		{"seal by SHA-1", edit(as(1), "rsa-sha256", "rsa-sha1"), "unknown a="},
		{"no d", edit(as(1), " d=relay.example;", ""), "no name"},
		{"d of one label", edit(as(1), "d=relay.example", "d=relay"), "no name"},
		{"d with an empty label", edit(as(1), "d=relay.example", "d=relay..example"), "no name"},
		{"d with a dash", edit(as(1), "d=relay.example", "d=-relay.example"), "no name"},
		{"long s", edit(as(1), "s=r;", "s="+strings.Repeat("s", 64)+";"), "no name"},
		{"long name", edit(as(1), "s=r;", "s="+strings.Repeat("s.", 120)+"s;"), "no name"},
		{"t is a word", edit(as(1), "t=1790000000", "t=now"), "t= is no time"},
		{"a tag twice", edit(as(1), "s=r;", "s=r; s=r;"), "twice"},
		{"no list", "ARC-Seal:\r\n" + two, "malformed tag list"},
		{"a malformed line", "hello\r\n" + two, "malformed header field"},
		{"too many fields", strings.Repeat(as(1), 3*MaxSets) + two, "two seals"},
		{"a header too large", "X: " + strings.Repeat("x", MaxHeaderSize) + "\r\n" + two, "malformed header field"},
		{"body changed", two + "PS\r\n", "message signature 2: the body"},
		{"field changed", edit("Subject: a letter\r\n", "letter", "spam"),
			"message signature 2: the signature does not verify"},
		{"a From added above", "From: x@x.example\r\n" + two,
			"message signature 2: the signature does not verify"},
		{"a DKIM-Signature gone", strings.Replace(two, "dkim-signature: v=1; a", "X: a", 1),
			"message signature 2: the signature does not verify"},
		{"older results changed", edit(aar(1), "spf=pass", "spf=fail"), "seal 2: the signature does not verify"},
		{"newest results changed", edit(aar(2), "spf=pass", "spf=fail"), "seal 2: the signature does not verify"},
		{"older signature changed", edit(ams(1), "s=r", "s=e"), "seal 2: the signature does not verify"},
		{"older seal changed", edit(as(1), "s=r", "s=e"), "seal 2: the signature does not verify"},
		{"no key for the signature", edit(ams(2), "s=e", "s=x"), "message signature 2: the key cannot be looked up"},
		{"no key for the seal", edit(as(2), "s=e", "s=x"), "seal 2: the key cannot be looked up"},
		{"key for another algorithm", edit(as(2), "s=e", "s=r"), "seal 2: no key: the key is for another algorithm"},
	} {
		t.Run(test.name, func(t *testing.T) {
			headers, body, _ := strings.Cut(test.message, "\r\n\r\n")
			fields, err := SplitHeader([]byte(headers + "\r\n"))
			if err == ErrHeaderSize { // a caller who does not use SplitHeader
				big, rest, _ := strings.Cut(headers, "\r\n")
				if fields, err = SplitHeader([]byte(rest + "\r\n")); err != nil {
					t.Fatal(err)
				}
				fields = append(fields, Header{Name: "X", Raw: []byte(big + "\r\n")})
			}
			v := NewVerifier(t.Context(), fields, testKeys(t), noon)
			v.Write([]byte(body))
			wantChain(t, v.Close(t.Context()), Fail, test.reason)
		})
	}
}

// What a chain may suffer and still pass.
func TestVerifyTolerance(t *testing.T) {
	two := sealed(t, 2)
	_, body, _ := strings.Cut(two, "\r\n\r\n")
	for _, test := range []struct {
		name, message string
		oldest        int
	}{
		{"fields of ours above", "Authentication-Results: x; none\r\nReceived: x\r\nX-Y: z\r\n" + two, 0},
		{"folded anew", strings.ReplaceAll(two, "\r\n\t", "\r\n    "), 0},
		{"names in capitals", strings.ReplaceAll(two, "ARC-Seal:", "ARC-SEAL :"), 0},
		{"empty lines at the end", two + "\r\n\r\n", 0},
		{"older signature broken", func() string {
			return list(t, edSealer(), sealed(t, 1))
		}(), 2},
		{"both older signatures broken", func() string {
			return list(t, rsaSealer(), sealed(t, 2))
		}(), 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := verifyAt(t, test.message, testKeys(t), noon)
			wantChain(t, got, Pass, "")
			if got.OldestPass != test.oldest {
				t.Errorf("oldest-pass %d, want %d", got.OldestPass, test.oldest)
			}
		})
	}
	// Some servers sort the fields: only those of one name keep their order.
	headers, _ := split(t, two)
	for range 20 {
		order := rand.Perm(len(headers))
		shuffled := make([]Header, 0, len(headers))
		next := make(map[string]int)
		for _, i := range order {
			name := lower(headers[i].Name)
			if !strings.HasPrefix(name, "arc-") {
				for j := next[name]; ; j++ {
					if lower(headers[j].Name) == name {
						i, next[name] = j, j+1
						break
					}
				}
			}
			shuffled = append(shuffled, headers[i])
		}
		v := NewVerifier(t.Context(), shuffled, testKeys(t), noon)
		v.Write([]byte(body))
		wantChain(t, v.Close(t.Context()), Pass, "")
	}
}

// list is a mailing list: it verifies a message, edits it and seals it.
func list(t *testing.T, s *Sealer, message string) string {
	t.Helper()
	verified := verifyAt(t, message, testKeys(t), noon)
	message = replace1(t, message, "a letter", "[list] a letter")
	headers, body := split(t, message)
	set, err := s.Seal(headers, bodyOf(body), verified, []byte(letterResults))
	if err != nil {
		t.Fatal(err)
	}
	return string(set) + message
}

// signWith makes the letter's set with an ARC-Message-Signature whose tags are
// edited before it is signed.
func signWith(t *testing.T, edit func([]Tag) []Tag) string {
	t.Helper()
	headers, body := split(t, letter)
	n := newSet{Sealer: edSealer(), instance: 1, now: noon}
	n.results = []byte(fieldResults + ": i=1; " + letterResults + "\r\n")
	sum := bodyOf(body).Sum()
	tags := edit(append(n.tags(), Tag{Name: "c", Value: "relaxed/relaxed"}, Tag{Name: "h", Value: "From"},
		Tag{Name: "bh", Value: base64Of(sum[:])}))
	fields := NewFields(headers)
	var err error
	n.message, err = n.sign(fieldMessage, tags, func(s *Signature) []byte { return s.Digest(fields) })
	if err != nil {
		t.Fatal(err)
	}
	if err := n.signSeal(fields, new(chain), None); err != nil {
		t.Fatal(err)
	}
	return string(slices.Concat(n.seal, n.message, n.results)) + letter
}

func TestVerifyMessageTags(t *testing.T) {
	size := bodyOf(letter[strings.Index(letter, "Dear"):]).Size()
	with := func(extra ...Tag) func([]Tag) []Tag {
		return func(tags []Tag) []Tag { return append(tags, extra...) }
	}
	for _, test := range []struct {
		name   string
		edit   func([]Tag) []Tag
		value  string
		reason string
	}{
		{"as it is", with(), Pass, ""},
		{"v= is ignored", with(Tag{Name: "v", Value: "7"}), Pass, ""},
		{"not yet expired", with(Tag{Name: "x", Value: fmt.Sprint(noon.Unix() + 1)}), Pass, ""},
		{"expired", func(tags []Tag) []Tag {
			for i := range tags {
				if tags[i].Name == "t" {
					tags[i].Value = "1"
				}
			}
			return append(tags, Tag{Name: "x", Value: fmt.Sprint(noon.Unix() - 1)})
		}, Fail, "expired"},
		{"expires before it was made", with(Tag{Name: "x", Value: "1"}), Fail, "x= is no time"},
		{"x is a word", with(Tag{Name: "x", Value: "never"}), Fail, "x= is no time"},
		{"l= of the whole body", with(Tag{Name: "l", Value: fmt.Sprint(size)}), Pass, ""},
		{"l= of a part", with(Tag{Name: "l", Value: fmt.Sprint(size - 1)}), Fail, "not signed to its end"},
		{"l= of nothing", with(Tag{Name: "l", Value: "0"}), Fail, "not signed to its end"},
		{"l= of more", with(Tag{Name: "l", Value: fmt.Sprint(size + 1)}), Fail, "not what was signed"},
		{"l= is a word", with(Tag{Name: "l", Value: "all"}), Fail, "l= is no number"},
		{"q=", with(Tag{Name: "q", Value: "dns/txt : x"}), Pass, ""},
		{"another q=", with(Tag{Name: "q", Value: "http"}), Fail, "unknown q="},
		{"t in the future", func(tags []Tag) []Tag {
			tags[4].Value = fmt.Sprint(noon.Unix() + 1e6)
			return tags
		}, Pass, ""},
		{"another canonicalisation", func(tags []Tag) []Tag {
			tags[5].Value = "relaxed/nowsp"
			return tags
		}, Fail, "unknown c="},
	} {
		t.Run(test.name, func(t *testing.T) {
			wantChain(t, verifyAt(t, signWith(t, test.edit), testKeys(t), noon), test.value, test.reason)
		})
	}
}

// ownNames gives every signature of a chain a domain of its own: m1.example for
// the message signature of the first set, s1.example for its seal.
func ownNames(t *testing.T, message string, sets int) string {
	t.Helper()
	for i := 1; i <= sets; i++ {
		for letter, name := range map[string]string{"m": fieldMessage, "s": fieldSeal} {
			f := field(t, message, name, i)
			own := fmt.Sprintf("%s%d.example", letter, i)
			message = replace1(t, message, f, strings.Replace(f, "relay.example", own, 1))
		}
	}
	return message
}

// The keys of a chain are asked for at once, by name, newest first, and while
// the body arrives.
func TestVerifyLookups(t *testing.T) {
	message := ownNames(t, sealed(t, 3), 3)
	headers, body := split(t, message)
	synctest.Test(t, func(t *testing.T) {
		var asked []string
		start := time.Now()
		asks := make(chan string, 10)
		v := NewVerifier(t.Context(), headers, func(ctx context.Context, selector, domain string) ([]string, error) {
			asks <- domain
			time.Sleep(50 * time.Millisecond)
			return []string{"v=DKIM1; p="}, nil
		}, noon)
		v.Write([]byte(body))
		time.Sleep(60 * time.Millisecond)
		got := v.Close(t.Context())
		wantChain(t, got, Fail, "message signature 3: key revoked")
		if took := time.Since(start); took != 60*time.Millisecond {
			t.Errorf("took %v", took)
		}
		close(asks)
		for a := range asks {
			asked = append(asked, a)
		}
		slices.Sort(asked)
		want := []string{"m1.example", "m2.example", "m3.example", "s1.example", "s2.example", "s3.example"}
		if !slices.Equal(asked, want) {
			t.Errorf("asked for %q", asked)
		}
	})
}

// At most MaxParallel are under way, and one name is asked for once.
func TestVerifyLookupBounds(t *testing.T) {
	many := sealed(t, MaxSets)
	one, _ := split(t, many)
	all, _ := split(t, ownNames(t, many, MaxSets))
	for _, test := range []struct {
		name    string
		headers []Header
		asked   int64
		took    time.Duration
	}{
		{"two names", one, 2, time.Second},
		{"a hundred names", all, MaxLookups, (MaxLookups + MaxParallel - 1) / MaxParallel * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked, now atomic.Int64
				start := time.Now()
				v := NewVerifier(t.Context(), test.headers, func(context.Context, string, string) ([]string, error) {
					asked.Add(1)
					if n := now.Add(1); n > MaxParallel {
						t.Errorf("%d at once", n)
					}
					time.Sleep(time.Second)
					now.Add(-1)
					return nil, nil
				}, noon)
				v.askers.Wait()
				if got := time.Since(start); asked.Load() != test.asked || got != test.took {
					t.Errorf("%d were asked for in %v, want %d in %v", asked.Load(), got, test.asked, test.took)
				}
				wantChain(t, v.Close(t.Context()), Fail, "the body is not what was signed")
			})
		})
	}
}

// A dead resolver holds a message no longer than the caller's deadline, and
// leaves nothing behind. A failure that would pass is a failure.
func TestVerifyDeadResolver(t *testing.T) {
	headers, body := split(t, sealed(t, 2))
	dead := func(ctx context.Context, _, _ string) ([]string, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		v := NewVerifier(context.Background(), headers, dead, noon)
		v.Write([]byte(body))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		wantChain(t, v.Close(ctx), Fail, "message signature 2: no time left")
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("took %v", took)
		}
		wantChain(t, v.Close(ctx), Fail, "message signature 2: no time left")

		// The message is given up, or its connection is lost.
		v = NewVerifier(context.Background(), headers, dead, noon)
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		wantChain(t, v.Close(gone), Fail, "no")
		v = NewVerifier(gone, headers, dead, noon)
		wantChain(t, v.Close(t.Context()), Fail, "")
	})
	v := NewVerifier(t.Context(), headers, func(context.Context, string, string) ([]string, error) {
		return nil, &net.DNSError{Err: "server misbehaving", IsTemporary: true}
	}, noon)
	v.Write([]byte(body))
	wantChain(t, v.Close(t.Context()), Fail, "message signature 2: the key cannot be looked up")
}

// Nobody is asked for a chain that is broken already, or not there.
func TestVerifyAsksNobody(t *testing.T) {
	two := sealed(t, 2)
	for _, message := range []string{
		letter, replace1(t, two, "cv=pass", "cv=fail"), replace1(t, two, "cv=none", "cv=pass"),
	} {
		headers, body := split(t, message)
		v := NewVerifier(t.Context(), headers, func(context.Context, string, string) ([]string, error) {
			t.Error("asked")
			return nil, errors.New("no")
		}, noon)
		if v.NeedsBody() {
			t.Error("the body is wanted")
		}
		v.Write([]byte(body))
		v.Close(t.Context())
	}
}

// Names in other alphabets are asked for in A-labels
// (https://www.rfc-editor.org/rfc/rfc8616#section-4).
func TestKeyName(t *testing.T) {
	for _, test := range []struct{ selector, domain, s, d string }{
		{"S1", "Example.ORG", "s1", "example.org"},
		{"a._b", "x_y.example", "a._b", "x_y.example"},
		{"späth", "bücher.example", "xn--spth-moa", "xn--bcher-kva.example"},
		{"", "a.example", "", ""}, {"s", "", "", ""}, {"s", "a.example.", "", ""}, {"s", ".a", "", ""},
		{"s", "a b.example", "", ""}, {"s", "a\x00.example", "", ""}, {"s", "a;b.example", "", ""},
		{"s", "\xff.example", "", ""}, {"s", strings.Repeat("a.", 130) + "b", "", ""}, {"s-", "a.example", "", ""},
		{strings.Repeat("s", 60) + "." + strings.Repeat("s", 60), strings.Repeat("d.", 70) + "d", "", ""},
	} {
		s, d, err := KeyName(test.selector, test.domain)
		if s != test.s || d != test.d || (err != nil) != (test.s == "") {
			t.Errorf("%q %q: %q %q %v, want %q %q", test.selector, test.domain, s, d, err, test.s, test.d)
		}
	}
}

// FuzzVerify gives any message, in any parts, the result that it has as a whole.
func FuzzVerify(f *testing.F) {
	f.Add([]byte(sealed(f, 1)), uint16(3))
	f.Add([]byte(sealed(f, 3)), uint16(100))
	f.Add([]byte(strings.Replace(sealed(f, 2), "relaxed/relaxed", "simple/simple", 1)), uint16(1))
	f.Add([]byte("ARC-Seal: i=1; cv=none\r\nARC-Authentication-Results: (x) i = 1 (y) ; a\r\n\r\n"), uint16(0))
	lookup := testKeys(f)
	f.Fuzz(func(t *testing.T, message []byte, part uint16) {
		end := strings.Index(string(message), "\r\n\r\n")
		if end < 0 {
			end = max(len(message)-4, 0)
		}
		headers, _ := SplitHeader(message[:end])
		body := message[min(end+4, len(message)):]
		whole := NewVerifier(t.Context(), headers, lookup, noon)
		whole.Write(body)
		want := whole.Close(t.Context())
		parts := NewVerifier(t.Context(), headers, lookup, noon)
		for len(body) > 0 {
			n := min(int(part)+1, len(body))
			parts.Write(body[:n])
			body = body[n:]
		}
		if diff := cmp.Diff(want, parts.Close(t.Context())); diff != "" {
			t.Fatalf("in parts of %d: %s", part+1, diff)
		}
		switch {
		case want.Value == None && (want.Instance != 0 || want.Sets != nil || want.Reason != ""),
			want.Value == Fail && want.Reason == "",
			want.Value == Pass && (want.Reason != "" || want.Instance != len(want.Sets) || want.Instance == 0),
			want.Value != None && want.Value != Fail && want.Value != Pass:
			t.Fatalf("%+v", want)
		}
	})
}

// A chain that fails for want of an answer says so; one without a key does not.
func TestVerifyUnsure(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		want bool
	}{
		"no such key":      {&net.DNSError{Err: "no such host", IsNotFound: true}, false},
		"no answer":        {&net.DNSError{Err: "i/o timeout", IsTimeout: true}, true},
		"a broken answer":  {&net.DNSError{Err: "nonsense"}, false},
		"a broken server":  {fmt.Errorf("lookup: %w", &net.DNSError{Err: "server failure", IsTemporary: true}), true},
		"no time":          {context.DeadlineExceeded, true},
		"something unseen": {errors.New("x"), false},
	} {
		message, err := trySeal(t, edSealer(), letter, testKeys(t))
		if err != nil {
			t.Fatal(err)
		}
		headers, body := split(t, message)
		v := NewVerifier(t.Context(), headers, func(context.Context, string, string) ([]string, error) { return nil, tt.err }, noon)
		v.Write([]byte(body))
		if r := v.Close(t.Context()); r.Value != Fail || r.Unsure != tt.want {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

package arc

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// suite reads a file of the ARC project's test suite, or skips.
func suite(t *testing.T, name string) []map[string]any {
	t.Helper()
	dir := os.Getenv("SLIPSTREAM_SUITES")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "suites")
	}
	text, err := os.ReadFile(filepath.Join(dir, "arc", name))
	if err != nil {
		t.Skipf("no ARC test suite: set SLIPSTREAM_SUITES to a directory that has arc/%s", name)
	}
	var docs []map[string]any
	for doc := range strings.SplitSeq("\n"+string(text), "\n---") {
		lines := strings.Split(doc, "\n")
		m, _ := yamlMap(lines[1:], 0)
		docs = append(docs, m)
	}
	return docs
}

// yamlMap reads the little YAML that the suite is written in: maps by
// indentation, plain words, "|" and ">-". It returns the lines that are left.
func yamlMap(lines []string, indent int) (map[string]any, []string) {
	m := make(map[string]any)
	for len(lines) > 0 {
		line := lines[0]
		if strings.TrimSpace(line) == "" {
			lines = lines[1:]
			continue
		}
		if yamlIndent(line) < indent {
			return m, lines
		}
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.TrimSpace(value)
		lines = lines[1:]
		switch value {
		case "":
			m[key], lines = yamlMap(lines, indent+2)
		case "|", ">-":
			var block []string
			block, lines = yamlBlock(lines, indent)
			if value == "|" {
				m[key] = strings.TrimRight(strings.Join(block, "\n"), "\n") + "\n"
			} else {
				m[key] = strings.TrimSpace(strings.Join(block, " "))
			}
			if m[key] == "\n" {
				m[key] = ""
			}
		default:
			m[key] = value
		}
	}
	return m, nil
}

func yamlBlock(lines []string, indent int) (block, rest []string) {
	inner := -1
	for len(lines) > 0 {
		line := lines[0]
		if strings.TrimSpace(line) != "" {
			if yamlIndent(line) <= indent {
				break
			}
			if inner < 0 {
				inner = yamlIndent(line)
			}
		}
		block = append(block, line)
		lines = lines[1:]
	}
	for i, line := range block {
		block[i] = line[min(len(line), max(inner, 0)):]
	}
	return block, lines
}

func yamlIndent(line string) int { return len(line) - len(strings.TrimLeft(line, " ")) }

// zone is a KeyLookup over a table of names.
func zone(records map[string]any) KeyLookup {
	return func(_ context.Context, selector, domain string) ([]string, error) {
		name := selector + "._domainkey." + domain
		if text, ok := records[name].(string); ok {
			return []string{strings.ReplaceAll(text, "\n", " ")}, nil
		}
		return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	}
}

// split takes a message apart, as the caller of this package does.
func split(t testing.TB, message string) (headers []Header, body string) {
	t.Helper()
	section, body, ok := strings.Cut("\r\n"+message, "\r\n\r\n")
	if ok {
		section += "\r\n"
	}
	headers, err := SplitHeader([]byte(strings.TrimPrefix(section, "\r\n")))
	if err != nil {
		t.Fatalf("SplitHeader: %v", err)
	}
	return headers, body
}

// verify verifies a whole message.
func verify(t testing.TB, message string, lookup KeyLookup) Result {
	t.Helper()
	headers, body := split(t, message)
	v := NewVerifier(t.Context(), headers, lookup, time.Unix(12345, 0))
	v.Write([]byte(body))
	return v.Close(t.Context())
}

func crlfs(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

func TestSuiteValidation(t *testing.T) {
	cases := 0
	for _, doc := range suite(t, "arc-draft-validation-tests.yml") {
		lookup := zone(doc["txt-records"].(map[string]any))
		for id, test := range doc["tests"].(map[string]any) {
			test := test.(map[string]any)
			cases++
			// A chain that already says cv=fail has no value in the suite.
			want := strings.TrimSpace(strings.ToLower(test["cv"].(string)))
			if want == "" {
				want = Fail
			}
			got := verify(t, crlfs(test["message"].(string)), lookup)
			if got.Value != want {
				t.Errorf("%s: %s (%s), want %s: %v", id, got.Value, got.Reason, want, test["description"])
			}
			if (got.Reason != "") != (got.Value == Fail) {
				t.Errorf("%s: %s for the reason %q", id, got.Value, got.Reason)
			}
		}
	}
	if t.Logf("%d cases", cases); cases != 171 {
		t.Errorf("%d cases were read of 171", cases)
	}
}

// The signing half of the suite. Its signatures are compared octet for octet:
// RSA makes the same one every time, once the tags stand in the order that the
// suite has them in, and in one line. That order is the one thing in it that
// RFC 8617 does not allow: there, i= comes first.
func TestSuiteSigning(t *testing.T) {
	cases := 0
	for _, doc := range suite(t, "arc-draft-sign-tests.yml") {
		block, _ := pem.Decode([]byte(doc["privatekey"].(string)))
		key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		for id, test := range doc["tests"].(map[string]any) {
			cases++
			t.Run(id, func(t *testing.T) {
				testSuiteSigning(t, doc, test.(map[string]any), key)
			})
		}
	}
	if t.Logf("%d cases", cases); cases != 17 {
		t.Errorf("%d cases were read of 17", cases)
	}
}

func testSuiteSigning(t *testing.T, doc, test map[string]any, key *rsa.PrivateKey) {
	message := crlfs(test["message"].(string))
	lookup := zone(doc["txt-records"].(map[string]any))
	seconds, err := strconv.ParseInt(test["t"].(string), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	s := &Sealer{
		Domain: doc["domain"].(string), Selector: doc["sel"].(string), Key: key,
		Headers: strings.Split(test["sig-headers"].(string), ":"), Oversign: []string{},
		Now: func() time.Time { return time.Unix(seconds, 0) },
		layout: layout{
			order: []string{"a", "b", "bh", "c", "cv", "d", "h", "i", "s", "t"},
			width: MaxTagList,
		},
	}
	headers, text := split(t, message)
	body := NewBodyHash(Relaxed)
	body.Write([]byte(text))
	verified := verify(t, message, lookup)
	// What is in the set is the caller's to say: the suite's is taken.
	aar := test["AAR"].(string)
	_, results, _ := strings.Cut(aar, ";")
	results = strings.ReplaceAll(strings.TrimSpace(results), "\n", "\r\n ")
	got, err := s.Seal(headers, body, verified, []byte(results))
	if aar == "" {
		if err == nil || got != nil {
			t.Fatalf("sealed, although the suite does not:\n%s", got)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	set, _ := split(t, string(got))
	for i, name := range []string{"AS", "AMS", "AAR"} {
		want, got := squeeze(test[name].(string)), squeeze(string(set[i].Value()))
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n got %q\nwant %q", name, got, want)
		}
	}
}

// squeeze is how the suite compares fields: tags in any order, no white space.
func squeeze(field string) []string {
	tags := strings.Split(strings.Join(strings.Fields(field), ""), ";")
	slices.Sort(tags)
	return tags
}

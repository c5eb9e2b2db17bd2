package auth

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// reader is a consumer: Python's own mail parsers, old and new, and python3-authres behind each, also with encoded
// words decoded before it. It says, for each message, what ids it found and what results under each of them.
const reader = `
import base64, email, email.header, email.policy, json, sys
import authres, authres.arc, authres.dkim_b, authres.dmarc
context = authres.FeatureContext(authres.dkim_b, authres.dmarc, authres.arc)
out = []
for text in json.load(sys.stdin):
    found = []
    for policy in (email.policy.compat32, email.policy.default, email.policy.SMTPUTF8):
        message = email.message_from_bytes(base64.b64decode(text), policy=policy)
        try:
            fields = message.items()
        except Exception: # the new parser gives up on some fields, and so on the message
            fields = []
        for name, value in fields:
            if name.strip().lower() != 'authentication-results':
                continue
            values = [''.join(str(value).splitlines())]
            try:
                decoded = str(email.header.make_header(email.header.decode_header(values[0])))
            except (email.errors.HeaderParseError, LookupError, ValueError):
                decoded = values[0]
            if decoded != values[0]: # what is in an encoded word may end lines, too
                values += [decoded, ''.join(decoded.splitlines())]
            for value in values:
                try:
                    r = context.parse('Authentication-Results: ' + value)
                except (authres.AuthResError, AttributeError, RecursionError): # it fails on some fields so
                    continue
                found.append({'id': r.authserv_id, 'results': [{'method': x.method, 'value': x.result,
                    'reason': x.reason, 'properties': {p.type + '.' + p.name: p.value for p in x.properties}}
                    for x in r.results if hasattr(x, 'method')]})
    out.append(found)
json.dump(out, sys.stdout)
`

type readField struct {
	ID      string
	Results []readResult
}

type readResult struct {
	Method, Value string
	Reason        *string
	Properties    map[string]string
}

// read has python3-authres read messages, or skips the test where there is none.
func read(t *testing.T, messages [][]byte) [][]readField {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3 here")
	}
	env := os.Environ()
	trees, err := filepath.Abs("../.peers")
	if err != nil {
		t.Fatal(err)
	}
	const packages = "/usr/lib/python3/dist-packages"
	env = append(env, "PYTHONPATH="+trees+"/authres"+packages+":"+trees+"/dkimpy"+packages)
	probe := exec.Command(python, "-c", "import authres")
	probe.Env = env
	if probe.Run() != nil {
		t.Skip("no python3-authres here, and none in .peers/authres or .peers/dkimpy")
	}
	in, err := json.Marshal(messages) // []byte is base64 there
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, "-c", reader)
	cmd.Env, cmd.Stdin = env, bytes.NewReader(in)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.Bytes())
	}
	var found [][]readField
	if err := json.Unmarshal(out, &found); err != nil {
		t.Fatal(err)
	}
	return found
}

// isOurs is what a consumer may take for our id: not more than case and the dots at the end are of no account to it.
func isOurs(id string) bool {
	return slices.Contains([]string{"mx.example.org", "example.com", "bücher.example", "xn--bcher-kva.example"},
		strings.TrimRight(strings.ToLower(id), "."))
}

// TestStripOwnReader: in none of the disguises a consumer still finds our id, and it finds all others that it found.
func TestStripOwnReader(t *testing.T) {
	all := slices.Concat(disguises(), lookAlikes())
	var before, after [][]byte
	for _, d := range all {
		section := []byte("Received: y\r\n" + d.field + "\r\nSubject: x\r\n\r\nbody\r\n")
		kept, _ := StripOwn(section, ours, false)
		before, after = append(before, section), append(after, kept)
	}
	found, left := read(t, before), read(t, after)
	deceived := 0
	for i, d := range all {
		for _, f := range left[i] {
			if isOurs(f.ID) {
				t.Errorf("%s: the reader still finds %q", d.name, f.ID)
			}
		}
		fell := slices.ContainsFunc(found[i], func(f readField) bool { return isOurs(f.ID) })
		if fell {
			deceived++
		}
		if i >= len(disguises()) && len(found[i]) != len(left[i]) {
			t.Errorf("%s: the reader found %v, and then %v", d.name, found[i], left[i])
		}
	}
	t.Logf("%d disguises, of which %d deceive the reader before, 0 after; %d look-alikes kept", len(disguises()),
		deceived, len(lookAlikes()))
	if deceived == 0 {
		t.Error("the reader finds nothing at all")
	}
}

// TestResultsReader: python3-authres reads what we write, and so does our parser, with the same result.
func TestResultsReader(t *testing.T) {
	second := Results{ID: "bücher.example", List: []Result{
		{Method: MethodDKIM, Value: ResultFail, Reason: `key "k1"; not (yet) found, which takes some words to say here`,
			Comment: `a (b) \ c`, Properties: []Property{
				NewProperty(PropHeaderD, "bücher.example"), NewProperty(PropHeaderI, "@bücher.example"),
				NewProperty(PropHeaderS, "k1"), NewProperty(PropHeaderA, "ed25519-sha256"),
				NewProperty(PropHeaderB, "ab+/cd==")}},
		{Method: MethodSPF, Value: ResultSoftfail, Properties: []Property{
			NewProperty(PropMailFrom, "very.long.local.part.of.a.mailing.list+with=verp@sender.example"),
			NewProperty(PropHelo, "[IPv6:2001:db8::25]")}},
		{Method: MethodAuth, Value: ResultPass, Properties: []Property{NewProperty(PropAuth, "user@example.org")}},
		{Method: MethodARC, Value: ResultPass, Properties: []Property{
			NewProperty(PropRemoteIP, "2001:db8::25"), NewProperty(PropOldestPass, "0")}},
		{Method: MethodDMARC, Value: ResultFail, Comment: "a sealer is trusted", Properties: []Property{
			NewProperty(PropPolicyDMARC, "reject"), NewProperty(PropHeaderFrom, "sender.example")}},
	}}
	none := Results{ID: "mx.example.org"}
	var messages [][]byte
	written := []Results{model(), second, none}
	for _, r := range written {
		messages = append(messages, append(r.Field(), "Subject: x\r\n\r\n"...))
	}
	for i, found := range read(t, messages) {
		ours, err := ParseResults(written[i].Field()[len("Authentication-Results:"):])
		if err != nil {
			t.Fatal(err)
		}
		if len(found) == 0 {
			t.Errorf("the reader finds nothing in %q", messages[i])
		}
		for _, f := range found {
			if f.ID != ours.ID || len(f.Results) != len(ours.List) {
				t.Errorf("the reader finds %+v in %q", f, messages[i])
				continue
			}
			for j, result := range f.Results {
				compareRead(t, ours.List[j], result)
			}
		}
	}
}

func compareRead(t *testing.T, ours Result, theirs readResult) {
	t.Helper()
	reason := ""
	if theirs.Reason != nil {
		reason = strings.ReplaceAll(*theirs.Reason, `\`, "") // it keeps the backslashes of quoted pairs
	}
	if ours.Method != theirs.Method || ours.Value != theirs.Value || ours.Reason != reason ||
		len(ours.Properties) != len(theirs.Properties) {
		t.Errorf("we read %+v, the reader %+v (%q)", ours, theirs, reason)
	}
	for _, p := range ours.Properties {
		if got := theirs.Properties[p.Type+"."+p.Name]; got != p.Value {
			t.Errorf("%s.%s: we read %q, the reader %q", p.Type, p.Name, p.Value, got)
		}
	}
}

package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// dkimpyVerdicts is a program for dkimpy: of each message it says, signature by signature, whether it verifies.
const dkimpyVerdicts = `
import base64, dkim, json, sys
def judge(case):
    def txt(name, timeout=5):
        records = case["keys"].get(name.decode("utf-8").rstrip(".").lower(), [])
        return records[0] if records else None
    message = base64.b64decode(case["message"])
    out = []
    for i in range(case["signatures"]):
        try:
            out.append(bool(dkim.DKIM(message).verify(idx=i, dnsfunc=txt)))
        except Exception:
            out.append(False)
    return out
json.dump([judge(c) for c in json.load(sys.stdin)], sys.stdout)
`

// dkimpyPath finds dkimpy: installed, or from Debian's packages, unpacked into a directory that goes away again.
func dkimpyPath(t *testing.T) (python, path string) {
	t.Helper()
	const python3 = "/usr/bin/python3" // Debian's own, for which its packages are made
	works := func(path string) bool {
		cmd := exec.Command(python3, "-c", "import dkim, nacl.signing")
		cmd.Env = append(os.Environ(), "PYTHONPATH="+path)
		return cmd.Run() == nil
	}
	if works("") {
		return python3, ""
	}
	if testing.Short() {
		t.Skip("dkimpy is not installed, and -short fetches nothing")
	}
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "apt-get", "-q", "-o", "APT::Sandbox::User=root", "download",
		"python3-dkim", "python3-dnspython", "python3-nacl")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("dkimpy is neither installed nor to be had: %v: %s", err, bytes.TrimSpace(out))
	}
	debs, _ := filepath.Glob(filepath.Join(dir, "*.deb"))
	for _, deb := range debs {
		if out, err := exec.CommandContext(ctx, "dpkg", "-x", deb, dir).CombinedOutput(); err != nil {
			t.Skipf("dkimpy cannot be unpacked: %v: %s", err, bytes.TrimSpace(out))
		}
	}
	path = filepath.Join(dir, "usr/lib/python3/dist-packages")
	if !works(path) {
		t.Skip("dkimpy does not run here")
	}
	return python3, path
}

// dkimpyCase is a message for both.
type dkimpyCase struct {
	name       string
	message    []byte
	zone       *zone
	signatures int
	differs    string // why the two are meant to disagree
}

// TestDKIMAgreesWithDkimpy has dkimpy judge the messages of its own suite, sound and damaged, and those of our other
// tests.
func TestDKIMAgreesWithDkimpy(t *testing.T) {
	cases := dkimSuiteCases(t)
	for _, r := range dkimRepairs() {
		cases = append(cases, dkimpyCase{
			name: r.name, message: []byte(r.signer.sign(t, dkimPlain)), zone: r.zone, signatures: 1,
			differs: map[string]string{
				"l=":                       "we take no signature that leaves something out",
				"l= beyond it":             "dkimpy takes what there is",
				"QP i=":                    "dkimpy decodes nothing",
				"QP i= with white space":   "dkimpy decodes nothing",
				"U-label d=, A-label i=":   "dkimpy compares what is written",
				"t=s":                      "dkimpy does not look at t=",
				"t=y:s":                    "dkimpy does not look at t=",
				"i= without @":             "dkimpy looks at the end alone",
				"b= in z=":                 "dkimpy empties that one, too",
				"key for another use":      "dkimpy takes tlsrpt keys for what they are not",
				"key for another hash":     "dkimpy does not look at h= of a key",
				"two keys":                 "dkimpy is given the first",
				"a key and something else": "dkimpy is given the first",
				"white space behind b=":    "dkimpy keeps white space behind the value",
				"signs no From":            "dkimpy does not ask for it",
				"key for all of it":        "dkimpy reads s= as one word",
			}[r.name],
		})
	}
	python, path := dkimpyPath(t)
	type input struct {
		Message    []byte              `json:"message"`
		Keys       map[string][]string `json:"keys"`
		Signatures int                 `json:"signatures"`
	}
	var in []input
	for _, c := range cases {
		in = append(in, input{c.message, c.zone.txt, c.signatures})
	}
	stdin, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), python, "-c", dkimpyVerdicts)
	cmd.Env = append(os.Environ(), "PYTHONPATH="+path)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(stdin), os.Stderr
	stdout, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var theirs [][]bool
	if err := json.Unmarshal(stdout, &theirs); err != nil {
		t.Fatal(err)
	}
	var judged, agreed int
	for i, c := range cases {
		ours := dkimVerify(t, c.zone, string(c.message), 0)
		if len(ours) != c.signatures {
			t.Errorf("%s: %d results, want %d", c.name, len(ours), c.signatures)
			continue
		}
		for j, r := range ours {
			judged++
			switch same := theirs[i][j] == (r.Value == "pass"); {
			case same:
				agreed++
			case c.differs == "":
				t.Errorf("%s, signature %d: dkimpy says %v, we say %+v", c.name, j, theirs[i][j], r)
			default:
				t.Logf("%s: dkimpy says %v, we say %s: %s", c.name, theirs[i][j], r.Value, c.differs)
			}
		}
	}
	t.Logf("%d signatures, the same verdict on %d", judged, agreed)
}

// dkimSuiteCases reads the signed messages of dkimpy's suite, and makes some that are damaged.
func dkimSuiteCases(t *testing.T) []dkimpyCase {
	read := func(name string) string {
		text, err := os.ReadFile(suiteFile(t, "dkim/"+name))
		if err != nil {
			t.Fatal(err)
		}
		return dkimCRLF(string(text))
	}
	zone := func(change map[string]string) *zone {
		z := dkimVectors()
		z.txt["20120113._domainkey.gmail.com"] = []string{"k=rsa; p=" +
			"MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA1Kd87/UeJjenpabgbFwh+eBCsSTrqmwIYYvywlbhbqoo2D" +
			"ymndFkbjOVIPIldNs/m40KF+yzMn1skyoxcTUGCQs8g3FgD2Ap3ZB5DekAo5wMmk4wimDO+U8QzI3SD07y2+07wlNW" +
			"wIt8svnxgdxGkVbbhzY8i+RQ9DpSVpPbF7ykQxtKXkv/ahW3KjViiAH+ghvvIhkx4xYSIc9oSwVmAl5OctMEeWUwg8" +
			"Istjqz8BZeTWbf41fbNhte7Y+YqZOwq1Sd0DbvYAD9NOZK9vlfuac0598HY+vtSBczUiKERHv1yRbcaQtZFh5wtiRr" +
			"N04BLUTD21MycBX5jYchHjPY/wIDAQAB"}
		z.txt["sed._domainkey.test.ex"] = []string{strings.TrimSpace(read("eximtest.dns"))}
		for name, file := range change {
			z.txt[name] = []string{strings.TrimSpace(read(file))}
		}
		return z
	}
	var cases []dkimpyCase
	for _, file := range []string{
		"rfc6376.signed.msg", "rfc6376.signed.rsa.msg", "ed25519test2.msg", "message.mbox", "test2.message",
	} {
		message := read(file)
		n := strings.Count(message, "DKIM-Signature:")
		cases = append(cases, dkimpyCase{name: file, message: []byte(message), zone: zone(nil), signatures: n})
		damaged := func(what, changed string) {
			cases = append(cases, dkimpyCase{
				name: file + ", " + what, message: []byte(changed), zone: zone(nil), signatures: n,
			})
		}
		damaged("another body", message+"x\r\n")
		damaged("empty lines at the end", message+"\r\n\r\n")
		damaged("another From", strings.Replace(message, "From: ", "From: X ", 1))
		damaged("a field on top", "X-New: field\r\n"+message)
		damaged("a second From", "From: evil@example.org\r\n"+message)
		damaged("spaces", strings.Replace(message, "Subject: ", "Subject:   ", 1))
		header, body, _ := strings.Cut(message, "\r\n\r\n")
		damaged("spaces in the body", header+"\r\n\r\n"+strings.ReplaceAll(body, "\r\n", "  \r\n"))
	}
	for _, file := range []string{"test.txt", "badversion.txt", "badk.txt"} {
		cases = append(cases, dkimpyCase{
			name: "key " + file, message: []byte(read("rfc6376.signed.rsa.msg")), signatures: 1,
			zone: zone(map[string]string{"test._domainkey.football.example.com": file}),
		})
	}
	for name, vector := range map[string]string{"RFC 6376": dkimRFC6376, "RFC 8463": dkimRFC8463} {
		cases = append(cases, dkimpyCase{
			name: name, message: []byte(dkimCRLF(vector)), zone: zone(nil),
			signatures: strings.Count(vector, "DKIM-Signature:"),
		})
	}
	return cases
}

package arc

import (
	"bufio"
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// dkimpy is another implementation of ARC, at work in a process of its own.
type dkimpy struct {
	in  io.Writer
	out *bufio.Scanner
}

type dkimpyQuestion struct {
	Do       string            `json:"do"`
	Message  []byte            `json:"message"`
	Keys     map[string]string `json:"keys,omitempty"`
	Selector string            `json:"selector,omitempty"`
	Domain   string            `json:"domain,omitempty"`
	Key      string            `json:"key,omitempty"`
	ID       string            `json:"id,omitempty"`
	Time     string            `json:"time,omitempty"`

	Algorithm string `json:"algorithm,omitempty"`
	Canon     string `json:"canon,omitempty"`
}

type dkimpyAnswer struct {
	Set      []byte          `json:"set"`
	Value    string          `json:"value"`
	Reason   string          `json:"reason"`
	Messages map[string]bool `json:"messages"`
	Error    string          `json:"error"`
}

// startDkimpy starts dkimpy from .peers or from this machine, or skips.
func startDkimpy(t *testing.T) *dkimpy {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3 here, so no dkimpy")
	}
	tree, err := filepath.Abs(filepath.Join("..", "..", ".peers", "dkimpy", "usr", "lib", "python3", "dist-packages"))
	if err != nil {
		t.Fatal(err)
	}
	env := append(os.Environ(), "PYTHONPATH="+tree, "PYTHONDONTWRITEBYTECODE=1")
	probe := exec.CommandContext(t.Context(), python, "-c", "import dkim, authres, nacl.signing")
	probe.Env = env
	if out, err := probe.CombinedOutput(); err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		t.Skipf("no dkimpy in .peers/dkimpy or on this machine (make peers fetches it): %s", lines[len(lines)-1])
	}
	cmd := exec.CommandContext(t.Context(), python, filepath.Join("testdata", "dkimpy.py"))
	cmd.Env = env
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil && t.Context().Err() == nil {
			t.Errorf("dkimpy: %v\n%s", err, complaints.String())
		}
	})
	scanner := bufio.NewScanner(out)
	scanner.Buffer(nil, 1<<20)
	return &dkimpy{in: in, out: scanner}
}

func (d *dkimpy) ask(t *testing.T, q dkimpyQuestion) dkimpyAnswer {
	t.Helper()
	line, err := json.Marshal(q)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.in.Write(append(line, '\n')); err != nil {
		t.Fatal(err)
	}
	var a dkimpyAnswer
	if !d.out.Scan() {
		t.Fatalf("dkimpy says nothing more: %v", d.out.Err())
	}
	if err := json.Unmarshal(d.out.Bytes(), &a); err != nil {
		t.Fatal(err)
	}
	return a
}

// dkimpyKeys are the keys of testKeys, as dkimpy asks for them.
func dkimpyKeys(t *testing.T) map[string]string {
	return map[string]string{
		"r._domainkey.relay.example": record(t, rsaKey()), "e._domainkey.relay.example": record(t, edKey()),
	}
}

// agree verifies a message with both and compares: the value, and which message
// signatures verify, from the newest down to the first that does not.
func (d *dkimpy) agree(t *testing.T, message, want string) Result {
	t.Helper()
	ours := verifyAt(t, message, testKeys(t), noon)
	theirs := d.ask(t, dkimpyQuestion{Do: "verify", Message: []byte(message), Keys: dkimpyKeys(t)})
	value := theirs.Value
	if value == "marked" { // dkimpy's word for a chain that was sealed as failed
		value = Fail
	}
	if ours.Value != want || value != want {
		t.Fatalf("we say %s (%s), dkimpy says %s (%s%s), want %s of\n%s",
			ours.Value, ours.Reason, theirs.Value, theirs.Reason, theirs.Error, want, message)
	}
	if want == Pass {
		for i := len(ours.Sets); i >= max(ours.OldestPass-1, 1); i-- {
			if got := ours.Sets[i-1].Message == Pass; got != theirs.Messages[strconv.Itoa(i)] {
				t.Errorf("message signature %d: we say %v, dkimpy does not", i, got)
			}
		}
	}
	return ours
}

// hop is one relay: it verifies, adds its results, perhaps edits, and seals.
func (d *dkimpy) hop(t *testing.T, who byte, message string, verified Result, edit func(string) string) string {
	t.Helper()
	id := fmt.Sprintf("hop%d.example", verified.Instance+1)
	results := fmt.Sprintf("%s; arc=%s; spf=pass smtp.mailfrom=a.example", id, verified.Value)
	message = "Authentication-Results: " + results + "\r\n" + edit(message)
	switch who {
	case 'd':
		a := d.ask(t, dkimpyQuestion{Do: "seal", Message: []byte(message), Selector: "r", Domain: "relay.example",
			Key: rsaPEM(), ID: id, Time: strconv.FormatInt(noon.Unix(), 10)})
		if len(a.Set) == 0 {
			t.Fatalf("dkimpy does not seal: %s", a.Error)
		}
		return string(a.Set) + message
	case 'r':
		headers, body := split(t, message)
		set, err := rsaSealer().Seal(headers, bodyOf(body), verified, []byte(results))
		if err != nil {
			t.Fatal(err)
		}
		return string(set) + message
	}
	panic("nobody")
}

func rsaPEM() string {
	der := x509.MarshalPKCS1PrivateKey(rsaKey())
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: der}))
}

func same(s string) string { return s }

// footer is what mailing lists do.
func footer(s string) string {
	return strings.Replace(s, "Subject: ", "Subject: [list] ", 1) + "-- \r\nthe list\r\n"
}

// Three hops and five, each by us ("r") or by dkimpy ("d"): after every one, both
// verify the whole chain and agree. dkimpy's ARC has RSA alone.
func TestDkimpyHops(t *testing.T) {
	d := startDkimpy(t)
	for _, who := range []string{
		"rrr", "rrd", "rdr", "rdd", "drr", "drd", "ddr", "ddd", "rdrdr", "drdrd", "rrddr", "ddddd", "rrrrr",
	} {
		for name, edit := range map[string]func(string) string{"same": same, "edited": footer} {
			t.Run(who+","+name, func(t *testing.T) {
				message := letter
				verified := d.agree(t, message, None)
				for i := range len(who) {
					change := same
					if i == 1 || i == 3 {
						change = edit
					}
					message = d.hop(t, who[i], message, verified, change)
					verified = d.agree(t, message, Pass)
					if verified.Instance != i+1 {
						t.Fatalf("instance %d behind hop %d", verified.Instance, i+1)
					}
				}
				oldest := 0
				if name == "edited" {
					oldest = min(len(who)-1, 4)
					if len(who) == 3 {
						oldest = 2
					}
				}
				if verified.OldestPass != oldest {
					t.Errorf("oldest-pass %d, want %d", verified.OldestPass, oldest)
				}
			})
		}
	}
}

// A chain that broke on the way is sealed as failed by either, and neither
// believes it afterwards.
func TestDkimpyFailed(t *testing.T) {
	d := startDkimpy(t)
	for _, who := range []string{"rd", "dr", "rr", "dd"} {
		t.Run(who, func(t *testing.T) {
			message := footer(d.hop(t, who[0], letter, Result{Value: None}, same))
			broken := d.agree(t, message, Fail)
			marked := d.hop(t, who[1], message, broken, same)
			wantChain(t, d.agree(t, marked, Fail), Fail, "already sealed as failed")
		})
	}
}

// Both take the same changes to a chain for harm.
func TestDkimpyHarm(t *testing.T) {
	d := startDkimpy(t)
	message := d.hop(t, 'd', letter, Result{Value: None}, same)
	message = d.hop(t, 'r', message, d.agree(t, message, Pass), same)
	results := field(t, message, fieldResults, 1)
	for name, harmed := range map[string]string{
		"body":         replace1(t, message, "Dear Bob", "Dear Bib"),
		"subject":      replace1(t, message, "a letter", "a litter"),
		"a From":       "From: x@x.example\r\n" + message,
		"results":      replace1(t, message, results, replace1(t, results, "spf=pass", "spf=fail")),
		"first cv":     replace1(t, message, "cv=none", "cv=pass"),
		"second cv":    replace1(t, message, "cv=pass", "cv=none"),
		"no seal":      replace1(t, message, field(t, message, fieldSeal, 1), ""),
		"no signature": replace1(t, message, field(t, message, fieldMessage, 2), ""),
		"no results":   replace1(t, message, results, ""),
		"two seals":    field(t, message, fieldSeal, 2) + message,
	} {
		t.Run(name, func(t *testing.T) { d.agree(t, harmed, Fail) })
	}
}

// What dkimpy signs by DKIM, with either algorithm and in every form, verifies
// by the arithmetic of this package, and not when it was changed.
func TestDkimpyDKIM(t *testing.T) {
	d := startDkimpy(t)
	seed := base64.StdEncoding.EncodeToString(edKey().Seed())
	for _, algorithm := range []string{RSASHA256, Ed25519SHA256} {
		key, text := rsaPEM(), record(t, rsaKey())
		if algorithm == Ed25519SHA256 {
			key, text = seed, record(t, edKey())
		}
		k, err := ChooseKey([]string{text}, algorithm)
		if err != nil {
			t.Fatal(err)
		}
		for _, canon := range []string{"simple/simple", "simple/relaxed", "relaxed/simple", "relaxed/relaxed"} {
			t.Run(algorithm+","+canon, func(t *testing.T) {
				a := d.ask(t, dkimpyQuestion{Do: "sign", Message: []byte(letter), Selector: "s", Domain: "a.example",
					Key: key, Algorithm: algorithm, Canon: canon})
				if a.Error != "" {
					t.Fatal(a.Error)
				}
				for message, want := range map[string]error{
					letter: nil,
					replace1(t, letter, "a letter", "a litter"): ErrMismatch,
					replace1(t, letter, "Dear", "dear"):         ErrBodyHash,
				} {
					headers, text := split(t, string(a.Set)+message)
					s, err := ParseSignature(headers[0])
					if err != nil {
						t.Fatal(err)
					}
					body := NewBodyHash(s.Body)
					body.Write([]byte(text))
					if err = s.CheckBody(body); err == nil {
						err = s.Verify(NewFields(headers), k)
					}
					wantError(t, err, want)
				}
			})
		}
	}
}

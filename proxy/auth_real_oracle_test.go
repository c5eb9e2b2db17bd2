package proxy_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A chainOracle signs, judges and reads mail: see testdata/authreal/oracle.py.
type chainOracle struct {
	in  io.Writer
	out *bufio.Scanner
}

type chainQuestion struct {
	Do      string            `json:"do"`
	Message []byte            `json:"message,omitempty"`
	Keys    map[string]string `json:"keys,omitempty"`
	Steps   []chainStep       `json:"steps,omitempty"`
	IP      string            `json:"ip,omitempty"`
	Helo    string            `json:"helo,omitempty"`
	From    string            `json:"from"`
}

type chainAnswer struct {
	Error   string `json:"error"`
	Message []byte `json:"message"`

	// Of "judge".
	SPF   chainWord   `json:"spf"`
	HELO  chainWord   `json:"helo"`
	DKIM  []chainWord `json:"dkim"`
	ARC   chainWord   `json:"arc"`
	IPRev string      `json:"iprev"`

	Fields []chainRead `json:"fields"` // of "read"
}

type chainWord struct {
	Value    string `json:"value"`
	Why      string `json:"why"`
	Domain   string `json:"domain"`
	Selector string `json:"selector"`
	Oldest   int    `json:"oldest"`
}

// A chainRead is one Authentication-Results field.
type chainRead struct {
	ID      string        `json:"id"`
	Results []chainResult `json:"results"`
}

type chainResult struct {
	Method, Value, Reason string
	Properties            map[string]string
}

func startChainOracle(t *testing.T, names netip.AddrPort) *chainOracle {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3 here, which dkimpy, pyspf and authres want")
	}
	peers := chainPeers(t)
	const packages = "/usr/lib/python3/dist-packages"
	env := append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1",
		"PYTHONPATH="+peers+"/dkimpy"+packages+":"+peers+"/pyspf"+packages)
	const imports = "import dkim, nacl.signing, spf, authres.arc, authres.dmarc, dns.resolver"
	probe := exec.CommandContext(t.Context(), python, "-c", imports)
	probe.Env = env
	if out, err := probe.CombinedOutput(); err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		t.Skipf("no dkimpy, pyspf or authres in .peers or on this machine (make peers fetches them): %s", lines[len(lines)-1])
	}
	// It ends with its standard input, which also a test that is killed closes.
	cmd := exec.Command(python, filepath.Join("testdata", "authreal", "oracle.py"), names.Addr().String(),
		fmt.Sprint(names.Port()))
	cmd.Env = env
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	in, errIn := cmd.StdinPipe()
	out, errOut := cmd.StdoutPipe()
	if err := errors.Join(errIn, errOut); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("oracle: %v\n%s", err, complaints.String())
		}
	})
	scanner := bufio.NewScanner(out)
	scanner.Buffer(nil, 16<<20)
	return &chainOracle{in: in, out: scanner}
}

func (o *chainOracle) ask(t *testing.T, q chainQuestion) chainAnswer {
	t.Helper()
	line, err := json.Marshal(q)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.in.Write(append(line, '\n')); err != nil {
		t.Fatal(err)
	}
	var a chainAnswer
	if !o.out.Scan() {
		t.Fatalf("the oracle says nothing more: %v", o.out.Err())
	}
	if err := json.Unmarshal(o.out.Bytes(), &a); err != nil {
		t.Fatal(err)
	}
	if a.Error != "" {
		t.Fatalf("%s: %s", q.Do, a.Error)
	}
	return a
}

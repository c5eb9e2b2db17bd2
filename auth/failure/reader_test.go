package failure

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"testing"
)

// A reading is what Python's email package finds in a report.
type reading struct {
	Faults  []string
	To      string
	From    string
	Subject string
	Text    string
	Fields  [][2]string
	Header  []byte
}

// field returns the values of a field of the second part.
func (r reading) field(name string) (values []string) {
	for _, f := range r.Fields {
		if f[0] == name {
			values = append(values, f[1])
		}
	}
	return values
}

// read has reports read by another implementation, or skips.
func read(t *testing.T, reports ...[]byte) []reading {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3 here, so nobody else who reads reports")
	}
	var in bytes.Buffer
	for _, r := range reports {
		in.WriteString(base64.StdEncoding.EncodeToString(r) + "\n")
	}
	cmd := exec.CommandContext(t.Context(), python, filepath.Join("testdata", "arf.py"))
	cmd.Stdin = &in
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, complaints.Bytes())
	}
	var readings []reading
	for answers := json.NewDecoder(bytes.NewReader(out)); answers.More(); {
		var r reading
		if err := answers.Decode(&r); err != nil {
			t.Fatal(err)
		}
		readings = append(readings, r)
	}
	if len(readings) != len(reports) {
		t.Fatalf("%d of %d reports were read", len(readings), len(reports))
	}
	return readings
}

package aggregate

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// updateEnv has expected output written anew.
const updateEnv = "SLIPSTREAM_UPDATE"

// richDay has records with all that a report may have in it.
func richDay() []Record {
	quiet := sample("example.com", 1)
	quiet.Row.Signatures, quiet.Row.SPFDomain, quiet.Row.Reasons, quiet.Row.MailFrom = nil, "", nil, nullPath
	quiet.Row.Disposition, quiet.Row.DKIM, quiet.Row.SPF = "pass", true, true
	six := sample("example.com", 2)
	six.Row.IP, six.Row.MailFrom, six.Row.HeaderFrom = "2001:db8::25", "", "news.example.com"
	six.Row.Disposition, six.Row.SPFResult = "reject", "temperror"
	six.Row.Reasons = []Reason{{reasonTestMode, ""}, {reasonOther, `<&"'>`}, {reasonMailingList, "x"},
		{reasonTrustedForwarder, "network"}}
	six.Row.Signatures = append(six.Row.Signatures, Signature{"example.net", "s1", "policy", "key too short"},
		Signature{"example.net", "s2", "neutral", ""}, Signature{"example.net", "s3", "temperror", ""},
		Signature{"example.net", "s4", "permerror", ""}, Signature{"example.net", "s5", "none", ""})
	psl := sample("example.com", 3)
	psl.Published.Method, psl.Published.Testing, psl.Published.FO, psl.Published.NP = "psl", true, "1:d:s", "quarantine"
	psl.Published.ADKIM = "s"
	return []Record{quiet, six, quiet, sample("xn--bcher-kva.example", 4), psl, quiet}
}

func TestReports(t *testing.T) {
	day := mustDay(t, "2026-05-31")
	dir := written(t, day, richDay()...)
	// The identifier of the directory is in the identifiers of reports.
	if err := os.WriteFile(filepath.Join(dir, idName), []byte(strings.Repeat("5a", installationSize)), 0o600); err != nil {
		t.Fatal(err)
	}
	reports, sum := made(t, dir, day, testConfig())
	if sum.Messages != 6 || sum.Domains != 2 || sum.LeftOut != 0 || sum.Skipped != 0 || len(reports) != 3 {
		t.Fatalf("%d reports of %+v", len(reports), sum)
	}
	var got bytes.Buffer
	for _, r := range reports {
		fmt.Fprintf(&got, "== %s, %d messages in %d rows, for %v\n", r.Filename(), r.Messages, r.Rows, r.Addresses[0].Mailbox)
		before := got.Len()
		if err := r.WriteXML(&got); err != nil {
			t.Fatal(err)
		}
		if n := int64(got.Len() - before); n != r.Octets {
			t.Errorf("the document has %d octets, said to be %d", n, r.Octets)
		}
		got.WriteByte('\n')
	}
	golden := filepath.Join("testdata", "reports.txt")
	if os.Getenv(updateEnv) != "" {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("reports differ from %s (%s=1 rewrites it):\n%s", golden, updateEnv, diff)
	}
	again, _ := made(t, dir, day, testConfig())
	for i := range again {
		if again[i].ID != reports[i].ID || !bytes.Equal(again[i].Compressed, reports[i].Compressed) {
			t.Errorf("report %d is another one when it is made again", i)
		}
	}
}

// TestSchema: reports are what the RFC says they are, as xmllint reads our own wording of it, and the RFC's own schema
// where that is at hand.
func TestSchema(t *testing.T) {
	day := mustDay(t, "2026-05-31")
	reports, _ := made(t, written(t, day, richDay()...), day, testConfig())
	var files []string
	for i, r := range reports {
		file := filepath.Join(t.TempDir(), fmt.Sprint(i, ".xml"))
		var b bytes.Buffer
		if err := r.WriteXML(&b); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	lint := func(t *testing.T, schema ...string) func(file string) ([]byte, error) {
		program := peerFile(t, "xml/usr/bin/xmllint")
		return func(file string) ([]byte, error) {
			cmd := exec.CommandContext(t.Context(), program, append(append([]string{"--nonet", "--noout"}, schema...), file)...)
			cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+libraries(filepath.Join(filepath.Dir(program), "..", "..")))
			return cmd.CombinedOutput()
		}
	}
	check := func(t *testing.T, valid func(string) ([]byte, error)) {
		for _, file := range files {
			if out, err := valid(file); err != nil {
				text, _ := os.ReadFile(file)
				t.Errorf("%v: %s\n%s", err, out, text)
			}
		}
		// What is no report is told from one.
		text, err := os.ReadFile(files[0])
		if err != nil {
			t.Fatal(err)
		}
		for _, change := range [][2]string{
			{"<disposition>pass<", "<disposition>accept<"}, {"<scope>mfrom<", "<scope>helo<"},
			{"<p>reject</p>", ""}, {Namespace, "http://dmarc.org/dmarc-xml/0.1"},
			{"<header_from>example.com</header_from>", ""},
		} {
			broken := filepath.Join(t.TempDir(), "broken.xml")
			if !bytes.Contains(text, []byte(change[0])) {
				t.Errorf("%s is not there", change[0])
			}
			if err := os.WriteFile(broken, bytes.ReplaceAll(text, []byte(change[0]), []byte(change[1])), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := valid(broken); err == nil {
				t.Errorf("with %s for %s it is valid: %s", change[1], change[0], out)
			}
		}
	}
	t.Run("own", func(t *testing.T) { check(t, lint(t, "--relaxng", filepath.Join("testdata", "report.rng"))) })
	t.Run("RFC", func(t *testing.T) {
		const name = "dmarc/dmarc-2.0.xsd"
		schema := filepath.Join(os.Getenv("SLIPSTREAM_SUITES"), name)
		if _, err := os.Stat(schema); err != nil {
			t.Skipf("SLIPSTREAM_SUITES names no directory with %s, the schema of RFC 9990, appendix A: %v", name, err)
		}
		check(t, lint(t, "--schema", schema))
	})
}

// libraries are the directories of a tree that have shared libraries.
func libraries(tree string) string {
	list, _ := filepath.Glob(filepath.Join(tree, "usr", "lib", "*-linux-gnu")) // the pattern is good
	return strings.Join(list, ":")
}

// TestMessage reads a message as whoever gets it does.
func TestMessage(t *testing.T) {
	day := mustDay(t, "2026-05-31")
	long := strings.Repeat("a", 60)
	domain := long + "." + long + "." + long + "." + long + ".example"
	c := testConfig()
	c.Submitter = long + "." + long + "." + long + "." + long + ".test"
	c.OrgName = strings.Repeat("ö", 500)
	record := sample(domain, 1)
	record.Row.MailFrom, record.Row.SPFDomain = domain, domain
	reports, _ := made(t, written(t, day, record), day, c)
	if len(reports) != 1 {
		t.Fatalf("%d reports", len(reports))
	}
	r := reports[0]
	raw := r.Message("rua@example.com", someTime)
	for line := range strings.SplitSeq(strings.TrimSuffix(string(raw), "\r\n"), "\r\n") {
		if len(line) > 998 || strings.ContainsFunc(line, func(c rune) bool { return c < ' ' || c > '~' }) {
			t.Errorf("the line %.80q… of %d octets cannot be sent", line, len(line))
		}
	}
	if overhead := len(raw) - base64Size(len(r.Compressed)); overhead > r.overhead() {
		t.Errorf("%d octets besides the document, thought to be at most %d", overhead, r.overhead())
	}
	m, err := mail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	// https://www.rfc-editor.org/rfc/rfc9990#section-3.5.2
	subject := regexp.MustCompile(`^Report Domain: (\S+)\s+Submitter: (\S+)\s+Report-ID: <([0-9A-Za-z]+)>$`)
	if got := subject.FindStringSubmatch(m.Header.Get("Subject")); got == nil || got[1] != domain ||
		got[2] != c.Submitter || got[3] != r.ID {
		t.Errorf("subject %q", m.Header.Get("Subject"))
	}
	from, err := m.Header.AddressList("From")
	if err != nil || from[0].Address != "postmaster@"+c.Submitter || from[0].Name != strings.Repeat("ö", maxWords/2) {
		t.Errorf("from %v: %v", from, err)
	}
	if date, err := m.Header.Date(); err != nil || !date.Equal(someTime) {
		t.Errorf("date %v: %v", date, err)
	}
	if id := m.Header.Get("Message-ID"); id != "<"+r.ID+"@"+c.Submitter+">" {
		t.Errorf("Message-ID %s", id)
	}
	parts := messageParts(t, m)
	if len(parts) != 2 {
		t.Fatalf("%d parts", len(parts))
	}
	kind, params, err := mime.ParseMediaType(parts[1].header.Get("Content-Disposition"))
	name := fmt.Sprintf("%s!%s!%d!%d!%s.xml.gz", c.Submitter, domain, 1780185600, 1780271999, r.ID)
	if err != nil || kind != "attachment" || params["filename"] != name {
		t.Errorf("attachment %s %v: %v; want %s", kind, params, err, name)
	}
	if kind, _, err := mime.ParseMediaType(parts[1].header.Get("Content-Type")); err != nil || kind != "application/gzip" {
		t.Errorf("media type %s: %v", kind, err)
	}
	if !bytes.Equal(parts[1].body, r.Compressed) {
		t.Error("the attachment is not the report")
	}
	z, err := gzip.NewReader(bytes.NewReader(parts[1].body))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil || !bytes.Contains(text, []byte("<report_id>"+r.ID+"<")) {
		t.Errorf("%s: %v", text, err)
	}
}

type messagePart struct {
	header mail.Header
	body   []byte
}

func messageParts(t testing.TB, m *mail.Message) (parts []messagePart) {
	t.Helper()
	_, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	for r := multipart.NewReader(m.Body, params["boundary"]); ; {
		p, err := r.NextRawPart()
		if errors.Is(err, io.EOF) {
			return parts
		}
		if err != nil {
			t.Fatal(err)
		}
		var body io.Reader = p
		if p.Header.Get("Content-Transfer-Encoding") == "base64" {
			body = base64.NewDecoder(base64.StdEncoding, p)
		}
		data, err := io.ReadAll(body)
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, messagePart{mail.Header(p.Header), data})
	}
}

// TestForeignReader has Python's own mail and XML libraries read a message.
func TestForeignReader(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3 here")
	}
	day := mustDay(t, "2026-05-31")
	reports, _ := made(t, written(t, day, richDay()...), day, testConfig())
	cmd := exec.CommandContext(t.Context(), python, filepath.Join("testdata", "read.py"))
	cmd.Stdin = bytes.NewReader(reports[0].Message("rua@example.com", someTime))
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, &complaints)
	}
	// The identifier of the directory is in the identifiers of reports.
	got := strings.ReplaceAll(string(out), reports[0].ID, "ID")
	golden := filepath.Join("testdata", "read.txt")
	if os.Getenv(updateEnv) != "" {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Error(diff)
	}
}

func TestConfig(t *testing.T) {
	for _, c := range []Config{
		{}, {Submitter: "a b"}, {Submitter: "mx.example.org", Email: "nobody"},
		{Submitter: "mx.example.org", Email: "@a.example"},
		{Submitter: "mx.example.org", Email: "a\r\nBcc: x@a.example"}, {Submitter: "mx.example.org", Email: "é@a.example"},
	} {
		if _, err := c.complete(); err == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
	c, err := Config{Submitter: "MX.Bücher.example.", OrgName: "a\r\nb\x00\xff" + strings.Repeat("ß", 200)}.complete()
	if err != nil || c.Submitter != "mx.xn--bcher-kva.example" || c.Email != "postmaster@mx.xn--bcher-kva.example" ||
		!strings.HasPrefix(c.OrgName, "abß") || len(c.OrgName) != maxWords {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestRecipients(t *testing.T) {
	r := &Report{Published: Published{Domain: "example.com", RUA: []string{"mailto:a@example.com", "mailto:b@example.net",
		"mailto:c@example.net", "mailto:d@example.org", "mailto:a@EXAMPLE.com", "mailto:e@example.info"}}}
	r.Addresses = r.Published.addresses()
	unknown := errors.New("no answer")
	d := asked{"b@example.net": {}, "c@example.net": {to: []string{"x@example.net", "a@example.com"}},
		"d@example.org": {err: unknown}}
	got := Recipients(context.Background(), d, r)
	want := []Recipient{{"a@example.com", "a@example.com", nil}, {"b@example.net", "", nil},
		{"c@example.net", "x@example.net", nil}, {"d@example.org", "", unknown}, {"e@example.info", "e@example.info", nil}}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	var many []string
	for i := range 3 * MaxRecipients {
		many = append(many, fmt.Sprintf("%d@example.com", i))
	}
	got = Recipients(context.Background(), asked{"a@example.com": {to: many}}, r)
	if n := len(got); n != MaxRecipients {
		t.Errorf("%d recipients", n)
	}
}

func TestDay(t *testing.T) {
	day := DayOf(time.Date(2026, 5, 31, 23, 59, 59, 999, time.UTC))
	if day.String() != "2026-05-31" || DayOf(day.End()) != day+1 || DayOf(day.Begin()) != day {
		t.Errorf("%s from %v to %v", day, day.Begin(), day.End())
	}
	for _, s := range []string{"", "2026-5-31", "2026-02-30", "1969-12-31", "20260531"} {
		if day, err := ParseDay(s); err == nil {
			t.Errorf("%q is %s", s, day)
		}
	}
}

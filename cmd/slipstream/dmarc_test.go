package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slipstream/auth/aggregate"
)

// dmarcWorld is a service that writes down what comes in, its configuration, and its DNS.
func dmarcWorld(t *testing.T, zone string) (config, dir string, journal *aggregate.Journal) {
	t.Helper()
	z, err := readMailZone(zone)
	if err != nil {
		t.Fatal(err)
	}
	server, stop, err := z.serve()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	state := t.TempDir()
	config, dir = filepath.Join(state, "slipstream.toml"), filepath.Join(state, "reports")
	text := fmt.Sprintf(`hostname = "mx.example.org"
state_dir = %q
[dns]
servers = [%q]
timeout = "2s"
[reports]
org_name = "Example Org"
email = "dmarc@example.org"
[[inbound]]
listen = ["127.0.0.1:0"]
backend = "127.0.0.1:1"
[inbound.auth]
aggregate_reports = true
`, state, server)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	journal, err = aggregate.Open(aggregate.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := journal.Close(); err != nil {
			t.Error(err)
		}
	})
	return config, dir, journal
}

func reportedRecord(domain string, rua ...string) aggregate.Record {
	return aggregate.Record{
		Published: aggregate.Published{
			Domain: domain, Method: "treewalk", P: "reject", SP: "reject", NP: "reject", ADKIM: "r", ASPF: "r", RUA: rua,
		},
		Row: aggregate.Row{IP: "192.0.2.1", Disposition: "pass", SPF: true, HeaderFrom: domain},
	}
}

// TestDmarcReport shows reports beside a service that goes on writing.
func TestDmarcReport(t *testing.T) {
	config, dir, journal := dmarcWorld(t, `
		_dmarc.example.com. 300 IN TXT "v=DMARC1; p=reject"
		example.com._report._dmarc.agg.example. 300 IN TXT "v=DMARC1"
		example.com._report._dmarc.moved.example. 300 IN TXT "v=DMARC1; rua=mailto:new@moved.example"
		example.com._report._dmarc.broken.example. SERVFAIL
	`)
	journal.Add(reportedRecord("example.com", "mailto:rua@example.com", "mailto:a@agg.example", "mailto:old@moved.example",
		"mailto:b@broken.example", "mailto:victim@example.net"), reportedRecord("example.edu", "mailto:rua@example.edu"))
	if err := journal.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	days, err := aggregate.Days(dir)
	if err != nil || len(days) != 1 {
		t.Fatal(days, err)
	}
	before := listing(t, dir)
	out := t.TempDir()
	var stdout bytes.Buffer
	c := dmarcReportCmd{configFlag: configFlag{config}, Day: days[0].String(), DryRun: true, XML: true, Out: out}
	if err := c.Run(console{&stdout, &stdout}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"example.com: 1 message, 1 row, ", "\n  to rua@example.com\n", "\n  to a@agg.example\n",
		"\n  to new@moved.example, instead of old@moved.example\n", "\n  not known whether to b@broken.example: ",
		"\n  not to victim@example.net: there is no good example.com._report._dmarc.example.net that says ",
		"\n  to rua@example.edu\n", "<org_name>Example Org</org_name>", "<email>dmarc@example.org</email>",
		days[0].String() + ": 2 reports on 2 domains, of 2 messages\n",
	} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("no %q in\n%s", want, &stdout)
		}
	}
	files, err := os.ReadDir(out)
	if err != nil || len(files) != 2 || !strings.HasPrefix(files[0].Name(), "mx.example.org!example.") {
		t.Errorf("%v, %v", files, err)
	}
	if after := listing(t, dir); after != before {
		t.Errorf("the directory was\n%s\nand is\n%s", before, after)
	}

	stdout.Reset()
	c = dmarcReportCmd{configFlag: configFlag{config}, Day: (days[0] - 1).String(), DryRun: true}
	if err := c.Run(console{&stdout, &stdout}); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("%s: nothing was written down, but on %s\n", days[0]-1, days[0]); stdout.String() != want {
		t.Errorf("%q, want %q", &stdout, want)
	}
}

// TestDmarcReportFiles: a document that cannot be written does not keep others from being written, and a long name is
// none of those.
func TestDmarcReportFiles(t *testing.T) {
	config, dir, journal := dmarcWorld(t, "")
	long := strings.Repeat(strings.Repeat("l", 60)+".", 4) + "example"
	longer := "x" + strings.Repeat("l", 59) + long[60:]
	domains := []string{"example.com", "example.edu", "example.net", long, longer}
	for _, domain := range domains {
		journal.Add(reportedRecord(domain, "mailto:rua@"+domain))
	}
	if err := journal.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	days, err := aggregate.Days(dir)
	if err != nil || len(days) != 1 {
		t.Fatal(days, err)
	}
	out := t.TempDir()
	var stdout bytes.Buffer
	c := dmarcReportCmd{configFlag: configFlag{config}, Day: days[0].String(), DryRun: true, Out: out}
	if err := c.Run(console{&stdout, &stdout}); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(out)
	if err != nil || len(files) != len(domains) {
		t.Fatalf("%d files, %v\n%s", len(files), err, &stdout)
	}
	blocked := ""
	for _, f := range files {
		if len(f.Name()) > maxFileName || !strings.HasSuffix(f.Name(), ".xml.gz") {
			t.Errorf("a file is called %s", f.Name())
		}
		if strings.Contains(f.Name(), "!example.edu!") {
			blocked = filepath.Join(out, f.Name())
		}
		if err := os.Remove(filepath.Join(out, f.Name())); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(blocked, 0o700); err != nil {
		t.Fatal(err)
	}
	stdout.Reset()
	err = c.Run(console{&stdout, &stdout})
	if err == nil || !strings.Contains(err.Error(), "1 document could not be written: ") {
		t.Errorf("the error is %v", err)
	}
	for _, want := range []string{"\n  not written: open ", ": 5 reports on 5 domains, of 5 messages\n"} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("no %q in\n%s", want, &stdout)
		}
	}
	again, err := os.ReadDir(out)
	if err != nil || len(again) != len(files) {
		t.Fatalf("%v, %v", again, err)
	}
	for i := range again {
		if again[i].Name() != files[i].Name() || again[i].IsDir() != (filepath.Join(out, again[i].Name()) == blocked) {
			t.Errorf("%s, and then %s", files[i], again[i])
		}
	}
}

func TestShortName(t *testing.T) {
	const end = "!1780185600!1780271999!20260531abcdefghijklmnopqrstuvwx.xml.gz"
	fits := "mx.example!" + strings.Repeat("a", maxFileName-len("mx.example!")-len(end))
	for name, want := range map[string]string{
		"mx.example!a.example" + end: "mx.example!a.example" + end,
		fits + end:                   fits + end,
		fits + "b" + end:             fits + end,
		fits + strings.Repeat(".example", 20) + end: fits + end,
	} {
		if got := shortName(name); got != want {
			t.Errorf("%s\nis %s,\nwant %s", name, got, want)
		}
	}
}

// listing is what is in a directory.
func listing(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&b, e.Name(), info.Size(), info.Mode(), info.ModTime())
	}
	return b.String()
}

func TestDmarcReportRefused(t *testing.T) {
	tests := []struct {
		name string
		c    dmarcReportCmd
		code int
		want string
	}{
		{"for real", dmarcReportCmd{}, exitUsage, "the running service sends reports"},
		{"no day", dmarcReportCmd{DryRun: true, Day: "tomorrow"}, exitUsage, "--day"},
		{"no configuration", dmarcReportCmd{DryRun: true, configFlag: configFlag{"missing.toml"}}, exitConfig,
			"missing.toml"},
	}
	for _, test := range tests {
		var exit *exitError
		if err := test.c.Run(console{}); !errors.As(err, &exit) || exit.code != test.code ||
			!strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	var stdout bytes.Buffer
	c := dmarcReportCmd{DryRun: true, Dir: filepath.Join(t.TempDir(), "missing")}
	if err := c.Run(console{&stdout, &stdout}); err != nil || !strings.Contains(stdout.String(), "nor on any other day") {
		t.Errorf("%v, %q", err, &stdout)
	}
}

func TestParseReportDay(t *testing.T) {
	now := time.Date(2026, 5, 31, 0, 30, 0, 0, time.UTC)
	for s, want := range map[string]string{"": "2026-05-30", "today": "2026-05-31", "2026-01-02": "2026-01-02"} {
		if day, err := parseReportDay(s, now); err != nil || day.String() != want {
			t.Errorf("%q is %s, %v; want %s", s, day, err, want)
		}
	}
}

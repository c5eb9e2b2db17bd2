package auth

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// database stands in for Perl's DBI and for the server behind it: it knows the few statements of opendmarc-import,
// gives out numbers for rows and notes each statement, a line of JSON, with what was filled in and the number of its row.
const database = `package DBI;
use strict;
use warnings;
use JSON::PP;
our $errstr = '';
my (%row, $last);
sub connect { open(my $log, '>', $ENV{DATABASE_LOG}) or die; return bless { log => $log }, 'DBI' }
sub prepare {
	my ($db, $sql) = @_;
	$sql =~ s/\s+/ /g;
	$sql =~ s/^ //;
	return bless { db => $db, sql => $sql }, 'DBI::st';
}
sub errstr { return '' }
sub disconnect { my $db = shift; close($db->{log}) or die }
package DBI::st;
sub execute {
	my ($st, @values) = @_;
	my $sql = $st->{sql};
	$st->{rows} = [];
	if ($sql =~ /^SELECT id FROM (\w+) WHERE (\w+) = \?( AND \w+ = \?)?$/) {
		my $id = $row{join("\0", $1, @values)};
		push @{$st->{rows}}, [$id] if defined $id;
		return 1;
	}
	if ($sql eq 'SELECT LAST_INSERT_ID()') { push @{$st->{rows}}, [$last]; return 1 }
	if ($sql eq 'SELECT locked FROM requests WHERE id = ?') { push @{$st->{rows}}, [0]; return 1 }
	my %note = (sql => $sql, values => \@values);
	if ($sql =~ /^INSERT INTO (\w+) ?\(/) {
		$last = 1 + ($row{"\0$1"} // 0);
		$row{"\0$1"} = $last;
		$row{join("\0", $1, @values)} = $last;
		%note = (%note, id => $last, table => $1);
	} elsif ($sql !~ /^UPDATE requests SET /) {
		die "a statement that nobody expects: $sql";
	}
	print { $st->{db}{log} } JSON::PP->new->canonical->encode(\%note), "\n";
	return 1;
}
sub fetchrow_arrayref { return shift @{$_[0]{rows}} }
sub finish { return 1 }
1;
`

// A statement is one that the importer gave to the database.
type statement struct {
	SQL    string
	Values []any // strings or numbers; nil for NULL
	ID     int
	Table  string
}

// importHistory runs Debian's opendmarc-import on a history file.
func importHistory(t *testing.T, history string) []statement {
	t.Helper()
	perl, err := exec.LookPath("perl")
	if err != nil {
		t.Skip("no perl here")
	}
	tree, err := filepath.Abs("../.peers/opendmarc/usr")
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(tree, "sbin/opendmarc-import")
	if _, err := os.Stat(script); err != nil {
		if script, err = exec.LookPath("opendmarc-import"); err != nil {
			t.Skip("no opendmarc-import here, and none in .peers/opendmarc")
		}
	}
	lib := t.TempDir()
	write := func(name, text string) {
		path := filepath.Join(lib, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("DBI.pm", database)
	write("DBD/mysql.pm", "package DBD::mysql;\n1;\n")
	write("history", history)
	log := filepath.Join(lib, "log")
	env := append(os.Environ(), "PERL5LIB="+lib+":"+filepath.Join(tree, "share/perl5"), "DATABASE_LOG="+log)
	probe := exec.Command(perl, "-MSwitch", "-MJSON", "-e1")
	probe.Env = env
	if out, err := probe.CombinedOutput(); err != nil {
		line, _, _ := strings.Cut(string(out), "(")
		t.Skip("what opendmarc-import needs is not all here: ", line)
	}
	cmd := exec.Command(perl, script, "--input="+filepath.Join(lib, "history"))
	cmd.Env = env
	out, err := cmd.CombinedOutput()
	if err != nil || len(out) != 0 {
		t.Fatalf("opendmarc-import: %v: %s", err, out)
	}
	var all []statement
	scanner := bufio.NewScanner(bytes.NewReader([]byte(contents(t, log))))
	for scanner.Scan() {
		var s statement
		if err := json.Unmarshal(scanner.Bytes(), &s); err != nil {
			t.Fatal(err)
		}
		if slices.Contains(s.Values, nil) {
			t.Errorf("a column is left empty: %s", scanner.Bytes())
		}
		all = append(all, s)
	}
	return all
}

// rows puts the names in place of the numbers of rows and returns what was inserted into the tables that count, and
// what was set on requests.
func rows(all []statement) (out []string) {
	name := make(map[string]string)
	resolve := func(table string, id any) string { return name[fmt.Sprint(table, " ", id)] }
	for _, s := range all {
		v := s.Values
		switch {
		case s.Table == "requests":
			name[fmt.Sprint(s.Table, " ", s.ID)] = resolve("domains", v[0])
		case s.Table == "messages":
			v[2], v[5] = resolve("reporters", v[2]), resolve("ipaddr", v[5])
			for i := 6; i <= 8; i++ {
				v[i] = resolve("domains", v[i])
			}
			name[fmt.Sprint(s.Table, " ", s.ID)] = fmt.Sprint(v[1])
			out = append(out, fmt.Sprint("messages: ", v))
		case s.Table == "signatures", s.Table == "arcseals":
			v[0], v[1], v[2] = resolve("messages", v[0]), resolve("domains", v[1]), resolve("selectors", v[2])
			out = append(out, fmt.Sprint(s.Table, ": ", v))
		case s.Table == "arcauthresults":
			v[0] = resolve("messages", v[0])
			out = append(out, fmt.Sprint(s.Table, ": ", v))
		case s.Table != "":
			name[fmt.Sprint(s.Table, " ", s.ID)] = fmt.Sprint(v[0])
		default:
			v[len(v)-1] = resolve("requests", v[len(v)-1])
			out = append(out, fmt.Sprint("requests: ", v))
		}
	}
	return out
}

// TestHistoryImport: Debian's opendmarc-import makes of our file the rows that it should make of it, in whatever order
// the records come.
func TestHistoryImport(t *testing.T) {
	wantPassed := []string{
		"messages: [1795000000 1vMxyz-000000001ab-0000 mx.example.org 15 2 192.0.2.7 bounce.sender.example " +
			"sender.example sender.example 0 4 4 1 11 1]",
		"signatures: [1vMxyz-000000001ab-0000 sender.example k1 0 0]",
		"requests: [mailto:reports@sender.example sender.example]",
		"requests: [114 114 114 0 100 sender.example]",
	}
	wantFailed := []string{
		"messages: [1795000001 a.b_c-2 mx.example.org 17 4 2001:db8::25 xn--bcher-kva.example " +
			"news.sender.example sender.example 2 5 5 2 0 2]",
		"signatures: [a.b_c-2 sender.example k1 4 1]",
		"signatures: [a.b_c-2 other.example 2026._x 7 0]",
		"arcauthresults: [a.b_c-2 2 2001:db8::1]",
		"arcauthresults: [a.b_c-2 1 ]",
		"arcseals: [a.b_c-2 list.example s2 2]",
		"arcseals: [a.b_c-2 first.example s1 1]",
		"requests: [mailto:a@b.example,https://r.example/?x=1 news.sender.example]",
		"requests: [115 115 110 113 100 news.sender.example]",
	}
	// A message without signatures or chain, from the null path of a client with no name.
	bare := passed()
	bare.Job, bare.MailFrom, bare.Helo, bare.DKIM, bare.SPF = "bare", "", "[192.0.2.7]", nil, ""
	bare.Verdict.Record = &DMARCRecord{P: PolicyNone, ADKIM: Relaxed, ASPF: Relaxed}
	wantBare := []string{
		"messages: [1795000000 bare mx.example.org 15 2 192.0.2.7 sender.example sender.example sender.example " +
			"6 4 4 0 11 1]",
		"requests: [sender.example]", // SET repuri = ''
		"requests: [114 114 110 0 100 sender.example]",
	}

	path := filepath.Join(t.TempDir(), "history")
	h := &HistoryFile{Path: path}
	defer h.Close()
	for _, r := range []HistoryRecord{passed(), failed(), bare, failed(), passed()} {
		if err := h.Write(r); err != nil {
			t.Fatal(err)
		}
	}
	want := slices.Concat(wantPassed, wantFailed, wantBare, wantFailed, wantPassed)
	if diff := cmp.Diff(want, rows(importHistory(t, contents(t, path)))); diff != "" {
		t.Error(diff)
	}
	// What a machine that went down left in the middle takes nothing else with it.
	torn := historyPassed + historyFailed[:strings.Index(historyFailed, "\nmfrom")+10] + "\n" + historyPassed
	if diff := cmp.Diff(slices.Concat(wantPassed, wantPassed), rows(importHistory(t, torn))); diff != "" {
		t.Error(diff)
	}
}

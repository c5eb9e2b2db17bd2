//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package auth

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// openDMARCDatabase is a database with the tables that OpenDMARC's package makes.
func openDMARCDatabase(t *testing.T) *mariadb {
	t.Helper()
	const schema = "usr/share/dbconfig-common/data/opendmarc/install/mysql"
	text, err := os.ReadFile(filepath.Join(peerTree(t, "opendmarc", schema), schema))
	if err != nil {
		t.Fatal(err)
	}
	return startMariaDB(t, string(text))
}

// tables selects all that is in the tables, with names in place of the numbers of rows, in the order of messages.
func tables(t *testing.T, m *mariadb) map[string][]string {
	t.Helper()
	all := make(map[string][]string)
	for name, sql := range map[string]string{
		"messages": `SELECT jobid, UNIX_TIMESTAMP(date), r.name, i.addr, f.name, e.name, p.name, policy, disp, spf,
			align_dkim, align_spf, sigcount, arc, arc_policy FROM messages m JOIN reporters r ON r.id = m.reporter
			JOIN ipaddr i ON i.id = m.ip JOIN domains f ON f.id = m.from_domain JOIN domains e ON e.id = m.env_domain
			JOIN domains p ON p.id = m.policy_domain ORDER BY m.id`,
		"signatures": `SELECT jobid, d.name, s.name, pass, error FROM signatures g JOIN messages m ON m.id = g.message
			JOIN domains d ON d.id = g.domain JOIN selectors s ON s.id = g.selector AND s.domain = g.domain
			ORDER BY g.id`,
		"arcseals": `SELECT jobid, d.name, s.name, instance FROM arcseals a JOIN messages m ON m.id = a.message
			JOIN domains d ON d.id = a.domain JOIN selectors s ON s.id = a.selector AND s.domain = a.domain
			ORDER BY a.id`,
		"arcauthresults": `SELECT jobid, instance, arc_client_addr FROM arcauthresults a
			JOIN messages m ON m.id = a.message ORDER BY a.id`,
		"requests": `SELECT d.name, repuri, adkim, aspf, policy, spolicy, pct, locked FROM requests r
			JOIN domains d ON d.id = r.domain ORDER BY d.name`,
		"domains":   `SELECT name FROM domains ORDER BY name`,
		"selectors": `SELECT d.name, s.name FROM selectors s JOIN domains d ON d.id = s.domain ORDER BY d.name, s.name`,
		"reporters": `SELECT name FROM reporters ORDER BY name`,
		"ipaddr":    `SELECT addr FROM ipaddr ORDER BY addr`,
		"rows": `SELECT (SELECT COUNT(*) FROM messages), (SELECT COUNT(*) FROM signatures),
			(SELECT COUNT(*) FROM arcseals), (SELECT COUNT(*) FROM arcauthresults), (SELECT COUNT(*) FROM requests)`,
	} {
		all[name] = m.rows(t, sql)
	}
	for _, name := range []string{"requests", "domains", "selectors", "reporters", "ipaddr"} {
		slices.Sort(all[name]) // the database has another order of letters
	}
	return all
}

// wantTables are what the tables must have in them after the records of a file.
func wantTables(entries []entry) map[string][]string {
	all := make(map[string][]string)
	sets := map[string]map[string]bool{"domains": {}, "selectors": {}, "reporters": {}, "ipaddr": {}}
	requests := make(map[string]string)
	row := func(table string, columns ...any) {
		all[table] = append(all[table], strings.TrimSuffix(fmt.Sprintln(columns...), "\n"))
	}
	for _, e := range entries {
		v := e.values
		job := v["job"]
		row("messages", job, v["received"], v["reporter"], v["ipaddr"], v["from"], v["mfrom"], v["pdomain"],
			v["policy"], v["action"], v["spf"], v["align_dkim"], v["align_spf"], len(e.dkim), v["arc"], v["arc_policy"])
		for _, name := range []string{v["from"], v["mfrom"], v["pdomain"]} {
			sets["domains"][name] = true
		}
		sets["reporters"][v["reporter"]], sets["ipaddr"][v["ipaddr"]] = true, true
		for _, d := range e.dkim {
			broken := 0
			if d[2] == "4" || d[2] == "5" {
				broken = 1
			}
			row("signatures", job, d[0], d[1], d[2], broken)
			sets["domains"][d[0]], sets["selectors"][d[0]+" "+d[1]] = true, true
		}
		for _, s := range e.seals {
			row("arcseals", job, s["d"], s["s"], s["i"])
			row("arcauthresults", job, s["i"], s["ip"])
			sets["domains"][s["d"].(string)], sets["selectors"][fmt.Sprint(s["d"], " ", s["s"])] = true, true
		}
		rua := strings.Join(e.rua, ",")
		if rua == "-" {
			rua = ""
		}
		requests[v["from"]] = fmt.Sprintf("%s %s %s %s %s %s %s 0", v["from"], rua, v["adkim"], v["aspf"], v["p"],
			v["sp"], v["pct"])
	}
	all["requests"] = slices.Sorted(maps.Values(requests))
	for table, set := range sets {
		all[table] = slices.Sorted(maps.Keys(set))
	}
	row("rows", len(all["messages"]), len(all["signatures"]), len(all["arcseals"]), len(all["arcauthresults"]),
		len(all["requests"]))
	return all
}

// bare is a message without signatures or chain, from the null path of a client with no name, for a domain that wants
// no reports.
func bare() HistoryRecord {
	r := passed()
	r.Job, r.MailFrom, r.Helo, r.DKIM, r.SPF = "bare", "", "[192.0.2.7]", nil, ""
	r.Verdict.Domain, r.Verdict.PolicyDomain = "bare.example", "bare.example"
	r.Verdict.Record = &DMARCRecord{P: PolicyNone, ADKIM: Relaxed, ASPF: Relaxed}
	return r
}

// rejected is one of a domain that does not exist, and whose policy is for such.
func rejected() HistoryRecord {
	r := passed()
	r.Job, r.SPF, r.Action, r.ARC = "Rejected.1", ResultPermerror, ActionReject, ResultFail
	r.DKIM = []HistoryDKIM{{"a.example", "one", ResultPermerror}, {"a.example", "two", ResultNeutral},
		{"b.example", "one", ResultPolicy}, {"b.example", "one", ResultNone}, {"c.example", "one", "pass\naction 2"}}
	r.Verdict = Verdict{Status: StatusReject, Result: ResultFail, Domain: "no.such.example", PolicyDomain: "example",
		Policy: PolicyReject, Record: &DMARCRecord{P: PolicyNone, SP: PolicyNone, ADKIM: Relaxed, ASPF: Strict,
			RUA: []ReportURI{{Text: `mailto:o'brien"\%60@a.example!10m`}, {Text: "mailto:b@b.example"},
				{Text: "mailto:c@c.example"}}}}
	return r
}

// TestHistoryImport: Debian's opendmarc-import makes of each kind of record the rows that it should make of it.
func TestHistoryImport(t *testing.T) {
	m := openDMARCDatabase(t)
	path := filepath.Join(t.TempDir(), "history")
	h := openHistory(t, path, HistoryOptions{})
	sealed := failed()
	sealed.Job, sealed.Verdict.Sealer = "sealed", "list.example"
	sealed.Received = time.Unix(1795000002, 0)
	for _, r := range []HistoryRecord{passed(), failed(), bare(), rejected(), sealed} {
		if err := h.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	flush(t, h)
	if complaints := m.importHistory(t, path); complaints != "" {
		t.Errorf("opendmarc-import: %s", complaints)
	}
	got := tables(t, m)
	want := map[string][]string{
		"messages": {
			"1vMxyz-000000001ab-0000 1795000000 mx.example.org 192.0.2.7 sender.example bounce.sender.example " +
				"sender.example 15 2 0 4 4 1 11 1",
			"a.b_c-2 1795000001 mx.example.org 2001:db8::25 news.sender.example xn--bcher-kva.example sender.example " +
				"17 4 2 5 5 2 0 2",
			"bare 1795000000 mx.example.org 192.0.2.7 bare.example bare.example bare.example 15 2 6 4 4 0 11 1",
			"Rejected.1 1795000000 mx.example.org 192.0.2.7 no.such.example bounce.sender.example example " +
				"16 0 5 5 5 5 7 1",
			"sealed 1795000002 mx.example.org 2001:db8::25 news.sender.example xn--bcher-kva.example sender.example " +
				"17 4 2 5 5 2 0 0",
		},
		"signatures": {
			"1vMxyz-000000001ab-0000 sender.example k1 0 0",
			"a.b_c-2 sender.example k1 4 1", "a.b_c-2 other.example 2026._x 7 0",
			"Rejected.1 a.example one 5 1", "Rejected.1 a.example two 3 0", "Rejected.1 b.example one 8 0",
			"Rejected.1 b.example one 6 0", "Rejected.1 c.example one 11 0",
			"sealed sender.example k1 4 1", "sealed other.example 2026._x 7 0",
		},
		"arcseals": {"a.b_c-2 list.example s2 2", "a.b_c-2 first.example s1 1",
			"sealed list.example s2 2", "sealed first.example s1 1"},
		"arcauthresults": {"a.b_c-2 2 2001:db8::1", "a.b_c-2 1 ", "sealed 2 2001:db8::1", "sealed 1 "},
		"requests": {
			"bare.example  114 114 110 0 100 0",
			"news.sender.example mailto:a@b.example,https://r.example/?x=1 115 115 110 113 100 0",
			`no.such.example mailto:o'brien"\%60@a.example!10m,mailto:b@b.example,mailto:c@c.example ` +
				"114 115 110 110 100 0",
			"sender.example mailto:reports@sender.example 114 114 114 0 100 0",
		},
		"domains": {"a.example", "b.example", "bare.example", "bounce.sender.example", "c.example", "example",
			"first.example", "list.example", "news.sender.example", "no.such.example", "other.example",
			"sender.example", "xn--bcher-kva.example"},
		"selectors": {"a.example one", "a.example two", "b.example one", "c.example one", "first.example s1",
			"list.example s2", "other.example 2026._x", "sender.example k1"},
		"reporters": {"mx.example.org"},
		"ipaddr":    {"192.0.2.7", "2001:db8::25"},
		"rows":      {"5 10 4 4 4"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	entries, err := readHistory(contents(t, path))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, wantTables(entries)); diff != "" {
		t.Errorf("and what is expected of a file: %s", diff)
	}
}

// TestHistoryImportRotated imports many records with whatever in them, in several files that are taken away while they
// are written, and compares every row with what went in.
func TestHistoryImportRotated(t *testing.T) {
	m := openDMARCDatabase(t)
	path := filepath.Join(t.TempDir(), "history")
	h := openHistory(t, path, HistoryOptions{})
	const records, files = 400, 4
	random := rand.New(rand.NewPCG(3, 4))
	var text []byte
	for i := range records {
		r := randomHistory(random, i)
		if err := h.Add(r); err != nil {
			t.Fatal(err)
		}
		text, _ = r.Append(text)
		if i%(records/files) == records/files-1 {
			if i == records-1 {
				flush(t, h)
			}
			taken := fmt.Sprint(path, i)
			if err := os.Rename(path, taken); err != nil {
				t.Fatal(err)
			}
			if complaints := m.importHistory(t, taken); complaints != "" {
				t.Fatalf("opendmarc-import: %s", complaints)
			}
		}
	}
	entries, err := readHistory(string(text))
	if err != nil || len(entries) != records {
		t.Fatalf("%d records, %v", len(entries), err)
	}
	got := tables(t, m)
	if diff := cmp.Diff(wantTables(entries), got); diff != "" {
		t.Error(diff)
	}
	t.Logf("messages, signatures, seals, their results, requests: %s; %d domains, %d selectors, %d addresses",
		got["rows"], len(got["domains"]), len(got["selectors"]), len(got["ipaddr"]))
}

// randomHistory is a record with whatever may be in one, and with what may not.
func randomHistory(random *rand.Rand, n int) HistoryRecord {
	pick := func(words ...string) string { return words[random.IntN(len(words))] }
	letters := func(most int) string {
		return strings.Repeat(pick("x", "q"), 1+random.IntN(most))
	}
	name := func() string {
		return pick("a.example", "B.Example.", "_x.c-d.example", "bücher.example", "xn--bcher-kva.example", "-", "",
			"null", "d'; DROP TABLE domains; --.example", "two words", "line\njob x", "json:", "1",
			letters(63)+".example", strings.Repeat(letters(62)+".", 3)+"example", fmt.Sprint("n", n, ".example"),
			"[192.0.2.1]", "%s\\.example", "\x00")
	}
	result := func() string {
		return pick(ResultPass, ResultFail, ResultSoftfail, ResultNeutral, ResultTemperror, ResultPermerror, ResultNone,
			ResultPolicy, "", "whatever\naction 0")
	}
	addr := func() netip.Addr {
		if random.IntN(2) == 0 {
			return netip.AddrFrom4([4]byte{192, 0, 2, byte(random.IntN(256))})
		}
		return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 14: byte(random.IntN(3)), 15: byte(random.IntN(256))})
	}
	policy := func() Policy { return Policy(pick("none", "quarantine", "reject", "", "other")) }
	mode := func() AlignmentMode { return AlignmentMode(pick(string(Relaxed), string(Strict), "")) }
	author := pick("a.example", "sub.a.example", "b.example", fmt.Sprint("author", n%17, ".example"), "münchen.example")
	r := HistoryRecord{
		Job: fmt.Sprint(pick("", "A.", "_", "-"), "job", n), Reporter: pick("mx1.example", "MX2.example"),
		Received: time.Unix(1795000000+int64(random.IntN(1e6)), 0), IP: addr(), MailFrom: name(), Helo: name(),
		SPF: result(), ARC: result(), Action: Action(pick(string(ActionAccept), string(ActionQuarantine),
			string(ActionReject), "")),
		Verdict: Verdict{Result: result(), Domain: author, PolicyDomain: pick(author, "example"), Policy: policy(),
			Sealer: pick("", "", "list.example"), SPFAligned: random.IntN(2) == 0, DKIMAligned: random.IntN(2) == 0,
			Record: &DMARCRecord{P: policy(), SP: policy(), ADKIM: mode(), ASPF: mode()}},
	}
	for range random.IntN(12) {
		r.DKIM = append(r.DKIM, HistoryDKIM{Domain: name(), Selector: name(), Result: result()})
	}
	for range random.IntN(6) {
		r.Seals = append(r.Seals, HistorySeal{Instance: random.IntN(8), Domain: name(), Selector: name(), IP: addr()})
	}
	for range random.IntN(4) {
		r.Verdict.Record.RUA = append(r.Verdict.Record.RUA, ReportURI{Text: pick("mailto:", "https://", "") +
			pick(`o'x"\%s@a.example`, "b@b.example!1m", "\n", "a b", "x,y", "-", "{curly}@c.example", letters(200))})
	}
	return r
}

// TestHistoryImportTorn: a record of which some lines are missing, since whoever wrote it was killed, takes nothing
// else with it.
func TestHistoryImportTorn(t *testing.T) {
	m := openDMARCDatabase(t)
	path := filepath.Join(t.TempDir(), "history")
	var text, want strings.Builder
	lines := strings.SplitAfter(historyFailed, "\n")
	whole := func(i int) {
		job := fmt.Sprint("whole", i)
		text.WriteString(strings.Replace(historyPassed, passed().Job, job, 1))
		want.WriteString(job + "\n")
	}
	for i := range len(lines) - 1 {
		whole(i)
		text.WriteString(strings.Join(lines[:i], ""))
	}
	whole(len(lines))
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	complaints := m.importHistory(t, path)
	for line := range strings.Lines(complaints) {
		if !strings.Contains(line, "failed to insert message") {
			t.Errorf("opendmarc-import: %s", line)
		}
	}
	if got := m.rows(t, "SELECT jobid FROM messages ORDER BY id"); !slices.Equal(got, strings.Fields(want.String())) {
		t.Errorf("%q", got)
	}
	for _, table := range []string{"arcseals", "arcauthresults"} {
		if got := m.rows(t, "SELECT COUNT(*) FROM "+table); !slices.Equal(got, []string{"0"}) {
			t.Errorf("%s: %s", table, got)
		}
	}
}

package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A peerCase is a message for us and for OpenDMARC, which knows the older way: one record, a list of suffixes.
type peerCase struct {
	Record string   `json:"record"`
	At     string   `json:"at"`
	From   string   `json:"from"`
	SPF    string   `json:"spf"`
	DKIM   []string `json:"dkim"`
}

type peerAnswer struct {
	Policy int  `json:"policy"` // DMARC_POLICY_* of dmarc.h
	SPF    bool `json:"spf"`
	DKIM   bool `json:"dkim"`
}

const peerSuffixes = "com\nuk\nco.uk\n*.mm\n!free.mm\n"

// TestOpenDMARC puts the same messages before us and before OpenDMARC. Both must say the same wherever both speak the
// older way, save for a mistake of OpenDMARC before 1.4.3 (its pull request 354): with a list of suffixes, strict
// alignment is relaxed there. Such cases must be right once we are asked with relaxed alignment.
func TestOpenDMARC(t *testing.T) {
	ask := openDMARC(t)
	const rounds = 4000
	random := rand.New(rand.NewPCG(1, 2))
	cases := make([]peerCase, rounds)
	for i := range cases {
		cases[i] = randomPeerCase(random, i)
	}
	outcomes, strict, different := make(map[int]int), 0, 0
	for i, theirs := range ask(cases) {
		c := cases[i]
		ours := askOurselves(t, c)
		outcomes[ours.Policy]++
		if ours == theirs {
			continue
		}
		c.Record = strings.NewReplacer("adkim=s", "adkim=r", "aspf=s", "aspf=r").Replace(c.Record)
		if c.Record != cases[i].Record && askOurselves(t, c) == theirs {
			strict++
			continue
		}
		if different++; different <= 10 {
			t.Errorf("%+v: we say %+v, OpenDMARC %+v", cases[i], ours, theirs)
		}
	}
	for _, outcome := range []int{14, 15, 16, 17, 18} {
		if outcomes[outcome] < rounds/100 {
			t.Errorf("outcome %d only %d times", outcome, outcomes[outcome])
		}
	}
	t.Logf("%d messages, %d differences, besides %d where OpenDMARC takes strict for relaxed", rounds, different,
		strict)
}

// TestOpenDMARCDiffers holds where we differ, and are meant to.
func TestOpenDMARCDiffers(t *testing.T) {
	ask := openDMARC(t)
	tests := []struct {
		record, at, from string
		ours, theirs     int
	}{
		// https://www.rfc-editor.org/rfc/rfc7489#section-6.6.3 and RFC 9989, section 4.10.1: as if it said p=none.
		{"v=DMARC1; p=bob; rua=mailto:a@b.com", "d1.com", "d1.com", 18, 14},
		{"v=DMARC1; sp=reject; rua=mailto:a@b.com", "d2.com", "d2.com", 18, 14},
		// Test mode is RFC 9989's.
		{"v=DMARC1; p=reject; t=y", "d3.com", "d3.com", 17, 16},
		// It knows neither wildcards nor the rule for names that no rule matches: its organizational domains differ.
		{"v=DMARC1; p=reject", "d4.x.mm", "a.d4.x.mm", 16, 14},
		{"v=DMARC1; p=reject", "d5.unlisted", "a.d5.unlisted", 16, 14},
	}
	var cases []peerCase
	for _, test := range tests {
		cases = append(cases, peerCase{Record: test.record, At: test.at, From: test.from})
	}
	for i, theirs := range ask(cases) {
		ours := askOurselves(t, cases[i])
		if ours.Policy != tests[i].ours || theirs.Policy != tests[i].theirs {
			t.Errorf("%q: we say %d, OpenDMARC %d", tests[i].record, ours.Policy, theirs.Policy)
		}
	}
}

// randomPeerCase is the nth message: its domains are nobody else's.
func randomPeerCase(random *rand.Rand, n int) peerCase {
	pick := func(words ...string) string { return words[random.IntN(len(words))] }
	base := fmt.Sprintf("n%d.%s", n, pick("com", "uk", "co.uk"))
	name := func() string { return pick("", "a.", "b.", "a.b.", "x.y.z.") + base }
	stranger := fmt.Sprintf("m%d.co.uk", n)
	policy := func() string { return pick("none", "quarantine", "reject", "Reject") }
	record := pick("v=DMARC1; ", "v=DMARC1;", "v = DMARC1 ; ") + "p=" + policy()
	for _, tag := range []string{"sp=" + policy(), "adkim=" + pick("r", "s"), "aspf=" + pick("r", "s"), "pct=100",
		"rua=mailto:a@" + base, "fo=1", "ri=3600"} {
		if random.IntN(2) == 0 {
			record += pick(";", "; ", " ; ") + tag
		}
	}
	c := peerCase{Record: record + pick("", ";"), At: pick(base, base, name()), From: name()}
	if random.IntN(3) > 0 {
		c.SPF = pick(name(), name(), stranger, c.From)
	}
	for range random.IntN(3) {
		c.DKIM = append(c.DKIM, pick(name(), name(), stranger, c.From))
	}
	return c
}

func askOurselves(t *testing.T, c peerCase) peerAnswer {
	list, err := ParseSuffixes(strings.NewReader(peerSuffixes))
	if err != nil {
		t.Fatal(err)
	}
	d := &DMARC{Resolver: &dmarcDNS{policies: map[string]string{c.At: c.Record}}, Discovery: PSL, Suffixes: list}
	v := d.Begin(context.Background(), Author{Domains: []string{c.From}}).Evaluate(context.Background(),
		Identifiers{SPF: c.SPF, DKIM: c.DKIM})
	policy := map[Status]int{StatusNoRecord: 14, StatusAccept: 15, StatusReject: 16, StatusQuarantine: 17,
		StatusNone: 18}
	return peerAnswer{Policy: policy[v.Status], SPF: v.SPFAligned, DKIM: v.DKIMAligned}
}

// openDMARC returns a function that asks OpenDMARC's library, which is fed its DNS. It skips the test where there is
// none.
func openDMARC(t *testing.T) func([]peerCase) []peerAnswer {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3 here, which is how OpenDMARC's library is called")
	}
	peers := os.Getenv("SLIPSTREAM_PEERS")
	if peers == "" {
		peers = filepath.Join("..", ".peers")
	}
	library, path := "libopendmarc.so.2", ""
	tree, _ := filepath.Glob(filepath.Join(peers, "opendmarc", "usr", "lib", "*", library))
	if len(tree) > 0 {
		if library, err = filepath.Abs(tree[0]); err != nil {
			t.Fatal(err)
		}
		path = filepath.Dir(library) + ":" + filepath.Dir(filepath.Dir(library))
	}
	run := func(input []byte) ([]byte, error) {
		suffixes := filepath.Join(t.TempDir(), "suffixes")
		if err := os.WriteFile(suffixes, []byte(peerSuffixes), 0o600); err != nil {
			return nil, err
		}
		cmd := exec.CommandContext(t.Context(), python, "-c", openDMARCScript, library, suffixes)
		cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+path)
		cmd.Stdin = bytes.NewReader(input)
		var complaint bytes.Buffer
		cmd.Stderr = &complaint
		out, err := cmd.Output()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, lastLine(complaint.String()))
		}
		return out, err
	}
	if _, err := run([]byte("[]")); err != nil {
		t.Skipf("no OpenDMARC in %s/opendmarc, nor on the machine (%v)", peers, err)
	}
	return func(cases []peerCase) []peerAnswer {
		input, err := json.Marshal(cases)
		if err != nil {
			t.Fatal(err)
		}
		out, err := run(input)
		if err != nil {
			t.Fatal(err)
		}
		var answers []peerAnswer
		if err := json.Unmarshal(out, &answers); err != nil || len(answers) != len(cases) {
			t.Fatalf("%d answers, %v", len(answers), err)
		}
		return answers
	}
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// openDMARCScript reads cases and writes answers. Its arguments are the library and the list of suffixes.
const openDMARCScript = `
import ctypes, json, sys
lib = ctypes.CDLL(sys.argv[1])
lib.opendmarc_policy_connect_init.restype = ctypes.c_void_p

class Init(ctypes.Structure):  # OPENDMARC_LIB_T
    _fields_ = [("type", ctypes.c_int), ("file", ctypes.c_char * 4096),
                ("count", ctypes.c_int), ("addresses", ctypes.c_char * 48)]

# The file name has 2048 octets or 4096, and what follows it is zero either way.
init = Init(1, sys.argv[2].encode(), 0)
assert lib.opendmarc_policy_library_init(ctypes.byref(init)) == 0
answers = []
cases = json.load(sys.stdin)
for c in cases:
    lib.opendmarc_dns_fake_record(("_dmarc." + c["at"]).encode(), c["record"].encode())
for c in cases:
    ctx = ctypes.c_void_p(lib.opendmarc_policy_connect_init(b"192.0.2.1", 4))
    lib.opendmarc_policy_store_from_domain(ctx, c["from"].encode())
    if c["spf"]:
        lib.opendmarc_policy_store_spf(ctx, c["spf"].encode(), 1, 1, b"pass")
    for d in c["dkim"] or []:
        lib.opendmarc_policy_store_dkim(ctx, d.encode(), b"s", 1, b"pass")
    lib.opendmarc_policy_query_dmarc(ctx, c["from"].encode())
    policy = lib.opendmarc_get_policy_to_enforce(ctx)
    dkim, spf = ctypes.c_int(), ctypes.c_int()
    lib.opendmarc_policy_fetch_alignment(ctx, ctypes.byref(dkim), ctypes.byref(spf))
    answers.append({"policy": policy, "dkim": dkim.value == 4, "spf": spf.value == 4})
json.dump(answers, sys.stdout)
`

package auth

import (
	"encoding/hex"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"blitiri.com.ar/go/spf"
)

// suiteFile finds a file of the test suites, which are not part of this tree: below $SLIPSTREAM_SUITES or
// ../shared/suites.
func suiteFile(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("SLIPSTREAM_SUITES")
	if dir == "" {
		dir = filepath.Join("..", "..", "shared", "suites")
	}
	path := filepath.Join(dir, filepath.FromSlash(name))
	if _, err := os.Stat(path); err != nil {
		t.Skipf("no test suite here (set SLIPSTREAM_SUITES): %v", err)
	}
	return path
}

// spfCase is one case of the suite with the zone of its scenario.
type spfCase struct {
	name, helo, from string
	ip               netip.Addr
	want             []string
	zone             *zone
}

func spfStrings(v any) []string {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		var list []string
		for _, s := range v {
			list = append(list, s.(string))
		}
		return list
	}
	return nil
}

// spfZone builds the zone of a scenario. SPF records stand for TXT records where a name has none of its own, and
// TIMEOUT for every type of which no record stands before it.
func spfZone(t *testing.T, data map[string]any) *zone {
	z := &zone{
		txt: map[string][]string{}, ptr: map[string][]string{}, cname: map[string][]string{},
		mx: map[string][]*net.MX{}, addrs: map[string][]netip.Addr{}, down: map[string][]string{},
	}
	for owner, v := range data {
		name := strings.ToLower(owner)
		if addr, ok := spfArpa(name); ok {
			name = addr.String()
		}
		var spfs, seen []string
		var noTXT bool
		list, _ := v.([]any)
		for _, item := range list {
			m, ok := item.(map[string]any)
			if !ok { // TIMEOUT
				for _, qtype := range []string{"TXT", "A", "MX", "PTR"} {
					if !slices.Contains(seen, qtype) {
						z.down[name] = append(z.down[name], qtype)
					}
				}
				continue
			}
			for qtype, value := range m {
				list := spfStrings(value)
				switch qtype {
				case "SPF":
					spfs = append(spfs, strings.Join(list, ""))
				case "TXT":
					noTXT = noTXT || list[0] == "NONE"
					if seen = append(seen, "TXT"); list[0] != "NONE" {
						z.txt[name] = append(z.txt[name], strings.Join(list, ""))
					} else {
						seen = seen[:len(seen)-1]
					}
				case "A", "AAAA":
					seen = append(seen, "A")
					z.addrs[name] = append(z.addrs[name], netip.MustParseAddr(list[0]))
				case "MX":
					pref, err := strconv.Atoi(list[0])
					if err != nil {
						t.Fatal(err)
					}
					seen = append(seen, "MX")
					z.mx[name] = append(z.mx[name], &net.MX{Host: list[1], Pref: uint16(pref)})
				case "PTR":
					seen = append(seen, "PTR")
					z.ptr[name] = append(z.ptr[name], list[0])
				case "CNAME":
					z.cname[name] = list
				default:
					t.Fatalf("%s: unknown record type %q", owner, qtype)
				}
			}
		}
		if len(z.txt[name]) == 0 && !noTXT {
			z.txt[name] = spfs
		}
	}
	return z
}

// spfArpa gives the address of a name below in-addr.arpa or ip6.arpa.
func spfArpa(name string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		labels := strings.Split(rest, ".")
		slices.Reverse(labels)
		addr, err := netip.ParseAddr(strings.Join(labels, "."))
		return addr, err == nil
	}
	rest, ok := strings.CutSuffix(name, ".ip6.arpa")
	if !ok {
		return netip.Addr{}, false
	}
	labels := strings.Split(rest, ".")
	slices.Reverse(labels)
	raw, err := hex.DecodeString(strings.Join(labels, ""))
	if err != nil {
		return netip.Addr{}, false
	}
	return netip.AddrFromSlice(raw)
}

func spfCases(t *testing.T) []spfCase {
	text, err := os.ReadFile(suiteFile(t, "spf/rfc7208-tests.yml"))
	if err != nil {
		t.Fatal(err)
	}
	docs, err := spfDocuments(string(text))
	if err != nil {
		t.Fatal(err)
	}
	var cases []spfCase
	for _, doc := range docs {
		z := spfZone(t, doc["zonedata"].(map[string]any))
		for name, v := range doc["tests"].(map[string]any) {
			m := v.(map[string]any)
			from, _ := m["mailfrom"].(string)
			cases = append(cases, spfCase{
				name: name, helo: m["helo"].(string), from: from,
				ip: netip.MustParseAddr(m["host"].(string)), want: spfStrings(m["result"]), zone: z,
			})
		}
	}
	slices.SortFunc(cases, func(a, b spfCase) int { return strings.Compare(a.name, b.name) })
	return cases
}

// TestSPFSuite runs the RFC 7208 suite, all 203 cases of it.
func TestSPFSuite(t *testing.T) {
	cases := spfCases(t)
	for _, c := range cases {
		got := SPF(t.Context(), c.zone, c.ip, c.helo, c.from)
		if !slices.Contains(c.want, got.Value) {
			t.Errorf("%s: %+v, want %v", c.name, got, c.want)
		}
		if got.Scope != ScopeMailFrom && c.from != "" || got.Reason == "" {
			t.Errorf("%s: %+v: wrong scope, or no reason", c.name, got)
		}
	}
	if len(cases) != 203 {
		t.Errorf("%d cases, want 203", len(cases))
	}
	t.Logf("%d cases", len(cases))
}

// TestSPFLibrary keeps the list in the documentation true: those cases that the library alone does not pass.
func TestSPFLibrary(t *testing.T) {
	cases := spfCases(t)
	text, err := os.ReadFile(filepath.Join("..", "docs", "auth.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## SPF\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var failed int
	for _, c := range cases {
		if c.from == "" {
			c.from = "postmaster@" + c.helo
		}
		got, err := spf.CheckHostWithSender(net.IP(c.ip.AsSlice()), c.helo, c.from,
			spf.WithResolver(c.zone), spf.WithContext(t.Context()))
		passes := slices.Contains(c.want, string(got))
		if !passes {
			failed++
		}
		if listed := strings.Contains(section, "`"+c.name+"`"); listed == passes {
			t.Errorf("%s: the library says %s (%v), want %v; listed in docs/auth.md: %v",
				c.name, got, err, c.want, listed)
		}
	}
	t.Logf("the library alone passes %d of %d", len(cases)-failed, len(cases))
}

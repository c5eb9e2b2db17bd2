package auth

import (
	"bufio"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/net/publicsuffix"
)

func TestSuffixes(t *testing.T) {
	s, err := ParseSuffixes(strings.NewReader("// a list\n\n" +
		"com\nco.uk // not uk\n*.kobe.jp\njp\n!city.kobe.jp\n*.mm\nblogspot.com\n" +
		"公司.cn\ncn\r\n*\n*.a.b\n!x.y.a.b\n"))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"com": "com", "example.com": "example.com", "a.b.example.com": "example.com",
		"uk": "uk", "co.uk": "co.uk", "a.uk": "a.uk", "b.a.uk": "a.uk", "a.co.uk": "a.co.uk", "b.a.co.uk": "a.co.uk",
		"jp": "jp", "kobe.jp": "kobe.jp", "c.kobe.jp": "c.kobe.jp", "b.c.kobe.jp": "b.c.kobe.jp",
		"a.b.c.kobe.jp": "b.c.kobe.jp", "city.kobe.jp": "city.kobe.jp", "www.city.kobe.jp": "city.kobe.jp",
		"mm": "mm", "c.mm": "c.mm", "b.c.mm": "b.c.mm", "a.b.c.mm": "b.c.mm",
		"blogspot.com": "blogspot.com", "me.blogspot.com": "me.blogspot.com", "www.me.blogspot.com": "me.blogspot.com",
		"xn--55qx5d.cn": "xn--55qx5d.cn", "a.example.xn--55qx5d.cn": "example.xn--55qx5d.cn",
		"unlisted": "unlisted", "a.b.unlisted": "b.unlisted",
		"y.a.b": "y.a.b", "x.y.a.b": "x.y.a.b", "w.x.y.a.b": "x.y.a.b",
	} {
		if got := s.OrgDomain(name); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}

func TestParseSuffixesErrors(t *testing.T) {
	for text, want := range map[string]string{
		"":                       "without a rule",
		"// nothing\n":           "without a rule",
		"com\nc om..x\nfoo..bar": "line 3: \"foo..bar\"",
		"a.*.b":                  "line 1",
		"com\n!uk":               "line 2",
		"com\n\n" + strings.Repeat("x", maxSuffixLine+1):            "line 3",
		strings.Repeat("// "+strings.Repeat("x", 1000)+"\n", 17000): "more than",
	} {
		if _, err := ParseSuffixes(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.30q: error %v, want %q", text, err, want)
		}
	}
}

// TestSuffixesSuite runs the vectors of the list's own project with the built-in list and, where the machine has one,
// with that of a file, which may be older than the vectors.
func TestSuffixesSuite(t *testing.T) {
	vectors := suffixVectors(t)
	check := func(list *Suffixes) (failed []string) {
		for name, want := range vectors {
			name, ok := CanonicalDomain(name)
			if !ok {
				if want != "" {
					t.Errorf("%q is no domain", name)
				}
				continue
			}
			got := list.OrgDomain(name)
			if want == "" { // a public suffix, which is its own organizational domain
				want = name
			}
			want, _ = CanonicalDomain(want)
			if got != want {
				failed = append(failed, name+": got "+got+", want "+want)
			}
		}
		return failed
	}
	if failed := check(nil); len(failed) > 0 {
		t.Errorf("built in: %s", strings.Join(failed, "; "))
	}
	t.Logf("built in: %d vectors", len(vectors))

	list := fileSuffixes(t, "/usr/share/publicsuffix/public_suffix_list.dat")
	if list == nil {
		t.Log("no /usr/share/publicsuffix here: no list of a file tried")
		return
	}
	failed := check(list)
	t.Logf("file: %d rules, %d of %d vectors differ: %s", len(list.rules), len(failed), len(vectors),
		strings.Join(failed, "; "))
	if len(failed) > len(vectors)/20 {
		t.Error("too many for a list that is merely old")
	}
}

// suffixVectors has the name and, unless it is a public suffix, its organizational domain.
func suffixVectors(t *testing.T) map[string]string {
	file, err := os.Open(filepath.Join(dmarcSuites(t, "psl"), "test_psl.txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	call := regexp.MustCompile(`^checkPublicSuffix\('([^']*)', (?:null|'([^']*)')\);`)
	vectors := make(map[string]string)
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if m := call.FindStringSubmatch(lines.Text()); m != nil {
			vectors[m[1]] = m[2]
		}
	}
	if lines.Err() != nil || len(vectors) < 50 {
		t.Fatalf("%d vectors, %v", len(vectors), lines.Err())
	}
	return vectors
}

// fileSuffixes is the list in a file; nil where there is no such file.
func fileSuffixes(t *testing.T, name string) *Suffixes {
	file, err := os.Open(name)
	if err != nil {
		return nil
	}
	defer func() { _ = file.Close() }()
	list, err := ParseSuffixes(file)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func FuzzParseSuffixes(f *testing.F) {
	f.Add("com\n*.mm\n!x.mm\n", "a.b.mm")
	f.Add("*.kobe.jp\n!city.kobe.jp\njp", "www.city.kobe.jp")
	f.Fuzz(func(t *testing.T, text, name string) {
		name, ok := CanonicalDomain(name)
		list, err := ParseSuffixes(strings.NewReader(text))
		if !ok || err != nil {
			return
		}
		org := list.OrgDomain(name)
		if !within(name, org) || list.OrgDomain(org) != org {
			t.Errorf("%q, %s: %s, of which %s", text, name, org, list.OrgDomain(org))
		}
		if builtin, _ := publicsuffix.PublicSuffix(name); builtin == "" {
			t.Errorf("no suffix of %q", name)
		}
	})
}

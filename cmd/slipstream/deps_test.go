package main_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "slipstream/"

// downwards is the table of the house: what of ours each package may import. Imports go down only.
var downwards = map[string][]string{
	"smtpwire":          nil,
	"tlsstore":          {"smtpwire"},
	"tlsstore/badgerkv": {"smtpwire", "tlsstore"},
	"tlsstore/kvtest":   {"tlsstore"},
	"auth":              {"auth/arc"},
	"auth/arc":          nil,
	"auth/aggregate":    {"auth", "auth/arc"},
	"auth/failure":      {"auth", "auth/arc"},
	"bench/authload":    {"auth", "auth/arc", "proxy", "proxy/resolver"},
	"proxy/intercept":   nil,
	"proxy/logfmt":      nil,
	"proxy/once":        {"smtpwire", "tlsstore"},
	"proxy/resolver":    nil,
	"proxy/route":       {"smtpwire"},
	"proxy": {"auth", "auth/aggregate", "auth/arc", "auth/failure", "proxy/intercept", "proxy/logfmt", "proxy/once",
		"proxy/resolver", "proxy/route", "smtpwire", "tlsstore"},
	"bench/netsim":      nil,
	"bench/meter":       nil,
	"bench/wan":         {"bench/meter"},
	"bench/load":        {"bench/mta", "bench/refpeer"},
	"bench/report":      {"bench", "bench/meter"},
	"bench/mta":         nil,
	"bench/mta/mtatest": {"bench/mta"},
	"bench/refpeer":     {"smtpwire"},
	"bench": {"bench/meter", "bench/mta", "bench/netsim", "bench/refpeer", "bench/wan", "proxy", "proxy/resolver", "proxy/route",
		"smtpwire", "tlsstore"},
	"cmd/slipstream": {"auth", "auth/aggregate", "auth/arc", "auth/failure", "bench", "bench/load", "bench/meter",
		"bench/mta", "bench/netsim", "bench/refpeer",
		"bench/report", "bench/wan", "proxy",
		"proxy/intercept", "proxy/logfmt", "proxy/once", "proxy/resolver", "proxy/route", "smtpwire", "tlsstore",
		"tlsstore/badgerkv"},
}

// forTests may be imported by any test, from wherever it stands.
var forTests = []string{"bench/mta", "bench/mta/mtatest", "bench/netsim", "bench/refpeer", "tlsstore/kvtest"}

// onlyIn names what is hidden behind few packages, so that they alone change when it does. Nobody: for tests.
var onlyIn = map[string][]string{
	"github.com/miekg/dns":            {"proxy/resolver"},
	"github.com/vishvananda/netlink":  {"bench/wan"},
	"github.com/dgraph-io/badger":     {"tlsstore/badgerkv"},
	"github.com/emersion/go-msgauth":  {"auth"},
	"testing":                         {"bench/mta/mtatest", "tlsstore/kvtest"},
	"github.com/emersion/go-smtp":     nil,
	"github.com/google/go-cmp":        nil,
	"github.com/rogpeppe/go-internal": nil,
	"go.uber.org/goleak":              nil,
	"pgregory.net/rapid":              nil,
}

// standardOnly are the packages that import the standard library and nothing else.
var standardOnly = []string{"bench/meter", "smtpwire"}

func TestImports(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		t.Run(name, func(t *testing.T) {
			allowed, known := downwards[name]
			if !known {
				t.Fatalf("%s is not in the table of imports; which way is down from it?", name)
			}
			for _, path := range p.Imports {
				checkOwn(t, path, allowed)
				checkHidden(t, name, path)
				if slices.Contains(standardOnly, name) && !standard(path) {
					t.Errorf("imports %s; only the standard library may be", path)
				}
			}
			for _, path := range slices.Concat(p.TestImports, p.XTestImports) {
				checkOwn(t, path, slices.Concat(allowed, forTests, []string{name}))
			}
		})
	}
}

// checkOwn complains about an import of ours that is not among the allowed.
func checkOwn(t *testing.T, path string, allowed []string) {
	t.Helper()
	own, ours := strings.CutPrefix(path, module)
	if ours && !slices.Contains(allowed, own) {
		t.Errorf("imports %s; imports go down only", own)
	}
}

// checkHidden complains about an import that belongs to another package alone.
func checkHidden(t *testing.T, name, path string) {
	t.Helper()
	for hidden, owners := range onlyIn {
		if (path == hidden || strings.HasPrefix(path, hidden+"/")) && !slices.Contains(owners, name) {
			t.Errorf("imports %s, which is for %q alone", path, owners)
		}
	}
}

// standard says whether an import path is of the standard library: its first element has no dot.
func standard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".") && !strings.HasPrefix(path, module)
}

type listed struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

// packages asks go list for every package of the module.
func packages(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Imports,TestImports,XTestImports", module+"...")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Skip("no go command, so nobody to ask: ", err)
	}
	var all []listed
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

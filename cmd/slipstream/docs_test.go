package main_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"slipstream/proxy"
)

// root is the module's, seen from here.
const root = "../.."

// docs are what an admin reads, by name. Each is split into lines.
func docs(t *testing.T) map[string][]string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string][]string)
	for _, name := range append(names, filepath.Join(root, "README.md")) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			t.Fatal(err)
		}
		all[filepath.ToSlash(rel)] = strings.Split(string(text), "\n")
	}
	return all
}

const docsWidth = 120

func TestDocsWidth(t *testing.T) {
	for name, lines := range docs(t) {
		for i, line := range lines {
			if n := utf8.RuneCountInString(line); n > docsWidth {
				t.Errorf("%s:%d has %d characters, at most %d are wanted", name, i+1, n, docsWidth)
			}
		}
	}
}

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// TestDocsLinks follows links to files and to headings.
func TestDocsLinks(t *testing.T) {
	all := docs(t)
	for name, lines := range all {
		for i, line := range lines {
			for _, m := range link.FindAllStringSubmatch(line, -1) {
				if strings.Contains(m[1], "://") {
					continue
				}
				file, heading, _ := strings.Cut(m[1], "#")
				target := name
				if file != "" {
					target = filepath.ToSlash(filepath.Join(filepath.Dir(name), file))
				}
				if _, err := os.Stat(filepath.Join(root, target)); err != nil {
					t.Errorf("%s:%d: %v", name, i+1, err)
				} else if heading != "" && !slices.Contains(anchors(all[target]), heading) {
					t.Errorf("%s:%d: %s has no heading #%s", name, i+1, target, heading)
				}
			}
		}
	}
}

// anchors are the names that headings get.
func anchors(lines []string) []string {
	var list []string
	for _, line := range lines {
		if title := strings.TrimLeft(line, "#"); title != line && strings.HasPrefix(title, " ") {
			title = strings.ToLower(strings.TrimSpace(title))
			title = strings.Map(func(r rune) rune {
				if strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789 -_", r) {
					return r
				}
				return -1
			}, title)
			list = append(list, strings.ReplaceAll(title, " ", "-"))
		}
	}
	return list
}

// TestDocsConfigurations loads every configuration that the docs show.
func TestDocsConfigurations(t *testing.T) {
	for name, lines := range docs(t) {
		for i := 0; i < len(lines); i++ {
			if lines[i] != "```toml" {
				continue
			}
			end := i + 1 + slices.Index(lines[i+1:], "```")
			text := strings.Join(lines[i+1:end], "\n")
			if _, err := proxy.ParseConfig(name, []byte(text)); err != nil {
				t.Errorf("%s, block at line %d: %v", name, i+1, err)
			}
			i = end
		}
	}
}

var configKey = regexp.MustCompile("`(log|admin|dns|store|tickets|limits|timeouts|inbound|outbound)\\.([a-z_]+)\\b")

// TestDocsConfigKeys looks for keys that the docs name and the program does not know.
func TestDocsConfigKeys(t *testing.T) {
	known := make(map[string]bool)
	config := reflect.TypeFor[proxy.Config]()
	for i := range config.NumField() {
		section := config.Field(i)
		in := section.Type
		if in.Kind() == reflect.Slice {
			in = in.Elem()
		}
		if in.Kind() != reflect.Struct {
			continue
		}
		for k := range in.NumField() {
			known[section.Tag.Get("toml")+"."+in.Field(k).Tag.Get("toml")] = true
		}
	}
	for name, lines := range docs(t) {
		for i, line := range lines {
			for _, m := range configKey.FindAllStringSubmatch(line, -1) {
				if key := m[1] + "." + m[2]; !known[key] {
					t.Errorf("%s:%d: there is no key %s", name, i+1, key)
				}
			}
		}
	}
}

var defaultRow = regexp.MustCompile("^\\| `(limits|timeouts)\\.([a-z_]+)` \\| `([^`]+)` \\|")

// TestDocsDefaults compares the tables of limits and timeouts with what holds.
func TestDocsDefaults(t *testing.T) {
	want := proxy.DefaultConfig()
	seen := make(map[string]bool)
	for _, line := range docs(t)["docs/operating.md"] {
		m := defaultRow.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		seen[m[1]+"."+m[2]] = true
		text := "hostname = \"mx.example.org\"\n[" + m[1] + "]\n" + m[2] + " = " + m[3] + "\n[[inbound]]\n"
		got, err := proxy.ParseConfig("docs", []byte(text))
		if err != nil {
			t.Errorf("%s.%s: %v", m[1], m[2], err)
		} else if got.Limits != want.Limits || got.Timeouts != want.Timeouts {
			t.Errorf("the default of %s.%s is not %s", m[1], m[2], m[3])
		}
	}
	if n := reflect.TypeOf(want.Limits).NumField() + reflect.TypeOf(want.Timeouts).NumField(); len(seen) != n {
		t.Errorf("%d limits and timeouts have a row, want %d", len(seen), n)
	}
}

// A collector keeps what is registered.
type collector struct {
	prometheus.Registerer
	names []string
}

var metricName = regexp.MustCompile(`fqName: "([^"]+)"`)

func (c *collector) MustRegister(list ...prometheus.Collector) {
	for _, one := range list {
		descs := make(chan *prometheus.Desc, 100)
		one.Describe(descs)
		close(descs)
		for d := range descs {
			c.names = append(c.names, metricName.FindStringSubmatch(d.String())[1])
		}
	}
}

func TestDocsMetrics(t *testing.T) {
	c := &collector{}
	proxy.NewMetrics(c)
	c.MustRegister(proxy.NewMemoryMetrics(nil, nil))
	sameNames(t, "metric", firstColumn(docs(t)["docs/operating.md"], "## Metrics"), c.names)
}

// TestDocsLogFields compares the table of the log line with the fields that are written.
func TestDocsLogFields(t *testing.T) {
	var written []string
	for _, file := range []string{"proxy/record.go", "proxy/record_auth.go"} {
		inspect(t, file, func(n ast.Node) {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) < 2 {
				return
			}
			if f, ok := call.Fun.(*ast.SelectorExpr); ok {
				if pkg, ok := f.X.(*ast.Ident); ok && pkg.Name == "zap" {
					written = append(written, literal(call.Args[0], token.STRING))
				}
			}
		})
	}
	sameNames(t, "log field", firstColumn(docs(t)["docs/operating.md"], "## The log line"), written)
}

func sameNames(t *testing.T, what string, told, real []string) {
	t.Helper()
	for _, name := range told {
		if !slices.Contains(real, name) {
			t.Errorf("the docs tell of the %s %q, which is not there", what, name)
		}
	}
	for _, name := range real {
		if !slices.Contains(told, name) {
			t.Errorf("the docs do not tell of the %s %q", what, name)
		}
	}
}

var quoted = regexp.MustCompile("`([^`]+)`")

// firstColumn gives what stands in backquotes in the first column of the tables behind a heading, up to the next one.
func firstColumn(lines []string, section string) []string {
	start := slices.Index(lines, section) + 1
	var names []string
	for _, line := range lines[start:] {
		if strings.HasPrefix(line, "##") {
			break
		}
		if strings.HasPrefix(line, "| `") {
			cell, _, _ := strings.Cut(line[1:], "|")
			for _, m := range quoted.FindAllStringSubmatch(cell, -1) {
				names = append(names, m[1])
			}
		}
	}
	return names
}

// literal is the value of a literal of a kind, or "".
func literal(e ast.Expr, kind token.Token) string {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != kind {
		return ""
	}
	if kind == token.STRING {
		s, err := strconv.Unquote(lit.Value)
		if err != nil {
			return ""
		}
		return s
	}
	return lit.Value
}

// inspect walks the syntax of a file of ours.
func inspect(t *testing.T, path string, visit func(ast.Node)) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, path), nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool { visit(n); return true })
}

// sources lists the files of packages of ours, tests left out.
func sources(t *testing.T, packages ...string) []string {
	t.Helper()
	var files []string
	for _, p := range packages {
		found, err := fs.Glob(os.DirFS(root), p+"/*.go")
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, slices.DeleteFunc(found, func(f string) bool { return strings.HasSuffix(f, "_test.go") })...)
	}
	return files
}

var replyCode = regexp.MustCompile(`^([2-5]\d\d)(?: ([245]\.\d+\.\d+))?$`)

// TestDocsReplies compares the table of replies with those that the code composes.
func TestDocsReplies(t *testing.T) {
	composed, enhanced := make(map[string]bool), make(map[string]bool)
	for _, file := range sources(t, "smtpwire", "proxy", "proxy/route", "auth") {
		inspect(t, file, func(n ast.Node) {
			if s, ok := n.(*ast.BasicLit); ok {
				enhanced[literal(s, token.STRING)] = true
			}
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) < 3 {
				return
			}
			if _, known := call.Args[1].(*ast.BasicLit); !known {
				return
			}
			reply := strings.TrimSpace(literal(call.Args[0], token.INT) + " " + literal(call.Args[1], token.STRING))
			if replyCode.MatchString(reply) {
				composed[reply] = true
			}
		})
	}
	told := firstColumn(docs(t)["docs/operating.md"], "## Replies that we compose")
	for _, reply := range told {
		m := replyCode.FindStringSubmatch(reply)
		if m == nil || !composed[reply] && !enhanced[m[2]] {
			t.Errorf("the docs tell of the reply %q, which is not composed anywhere", reply)
		}
	}
	for _, reply := range slices.Sorted(maps.Keys(composed)) {
		code, _, _ := strings.Cut(reply, " ")
		if !slices.Contains(told, reply) && !slices.Contains(told, code) {
			t.Errorf("the docs do not tell of the reply %q", reply)
		}
	}
}

// TestDocsLogLines looks for the lines of the log that the docs explain, or that begin so and go on behind a mark.
func TestDocsLogLines(t *testing.T) {
	written := make(map[string]bool)
	for _, file := range sources(t, "proxy", "cmd/slipstream", "tlsstore/badgerkv") {
		prefix := ""
		if strings.HasPrefix(file, "tlsstore/badgerkv/") {
			prefix = "store: " // as the service has its lines
		}
		inspect(t, file, func(n ast.Node) {
			if s, ok := n.(*ast.BasicLit); ok {
				msg := prefix + literal(s, token.STRING)
				written[msg] = true
				for i, r := range msg {
					if strings.ContainsRune(",;:", r) {
						written[msg[:i]] = true
					}
				}
			}
		})
	}
	for _, msg := range firstColumn(docs(t)["docs/operating.md"], "## Other lines") {
		if !written[msg] {
			t.Errorf("the docs explain the line %q, which is not written anywhere", msg)
		}
	}
}

// TestDocsFunctions looks for every function that docs/rfcs.md names, in the file that it names.
func TestDocsFunctions(t *testing.T) {
	declared := make(map[string]map[string]bool)
	for i, line := range docs(t)["docs/rfcs.md"] {
		file := ""
		for _, m := range quoted.FindAllStringSubmatch(line, -1) {
			switch name := m[1]; {
			case strings.HasSuffix(name, ".go"):
				if file = name; declared[file] == nil {
					declared[file] = declarations(t, file)
				}
			case file != "" && !declared[file][name]:
				t.Errorf("docs/rfcs.md:%d: %s declares no %s", i+1, file, name)
			}
		}
	}
	if len(declared) == 0 {
		t.Error("docs/rfcs.md names no file")
	}
}

// declarations are the names that a file declares: functions, "Type.method", types, constants and variables.
func declarations(t *testing.T, path string) map[string]bool {
	t.Helper()
	names := make(map[string]bool)
	inspect(t, path, func(n ast.Node) {
		switch d := n.(type) {
		case *ast.FuncDecl:
			names[receiver(d)+d.Name.Name] = true
		case *ast.TypeSpec:
			names[d.Name.Name] = true
		case *ast.ValueSpec:
			for _, id := range d.Names {
				names[id.Name] = true
			}
		}
	})
	return names
}

func receiver(d *ast.FuncDecl) string {
	if d.Recv == nil {
		return ""
	}
	of := d.Recv.List[0].Type
	if star, ok := of.(*ast.StarExpr); ok {
		of = star.X
	}
	if id, ok := of.(*ast.Ident); ok {
		return id.Name + "."
	}
	return "?."
}

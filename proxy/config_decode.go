package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// A configDecoder reads a TOML document into structs, and goes on where something is
// wrong, so that all that is wrong can be said at once. It also remembers where
// each key stands, for what is found wrong later.
//
// The grammar is the library's; what belongs here is which keys there are (the
// "toml" tags), what they take (the types, and the "oneof", "forms", "min" and
// "max" tags) and where in the document they were.
type configDecoder struct {
	data     []byte
	base     int // offset in data where the parser began
	parser   unstable.Parser
	at       map[string]int // offset of the value or table header of each key path
	problems []configFinding
	blame    map[string]bool // keys that problems are about
	broken   bool            // a syntax error hid some of the document
}

// A configFinding is a [ConfigProblem] before it has a line and a column.
type configFinding struct {
	offset    int
	key, text string
}

// A configTable is a struct that keys go to. The zero configTable swallows them: what was
// wrong has been said where it began.
type configTable struct {
	v    reflect.Value
	path string
}

func newConfigDecoder(data []byte) *configDecoder {
	return &configDecoder{data: data, at: make(map[string]int), blame: make(map[string]bool)}
}

// document reads the whole document into the struct that c points to.
func (d *configDecoder) document(c any) {
	root := configTable{v: reflect.ValueOf(c).Elem()}
	current := root
	end := 0 // behind the last expression that could be read
	d.parser.Reset(d.data)
	for {
		for d.parser.NextExpression() {
			switch n := d.parser.Expression(); n.Kind {
			case unstable.Table, unstable.ArrayTable:
				current, end = d.header(root, n)
			case unstable.KeyValue:
				d.keyValue(current, n)
				end = d.base + int(n.Raw.Offset+n.Raw.Length)
			}
		}
		if d.parser.Error() == nil {
			break
		}
		d.broken = true
		start := d.syntax(d.parser.Error(), d.failed(end))
		if d.data[start] == '[' {
			current = configTable{} // nobody knows which table the next keys are for
		}
		if d.base = d.resume(start); d.base == len(d.data) || len(d.problems) > maxConfigProblems {
			break
		}
		end = d.base
		d.parser.Reset(d.data[d.base:])
	}
	if !d.broken {
		d.check()
	}
}

// syntax notes what the parser stumbled over in the expression at start, and
// returns the start, which is earlier if it was a comment.
func (d *configDecoder) syntax(err error, start int) int {
	offset := start
	var perr *unstable.ParserError
	if errors.As(err, &perr) {
		offset = d.base + int(d.parser.Range(perr.Highlight).Offset)
	}
	d.problem(offset, "", "syntax: %v", err)
	return min(start, offset)
}

// failed returns where the expression begins that the parser could not read:
// the first line behind the last good expression that is not blank or comment.
func (d *configDecoder) failed(end int) int {
	for end < len(d.data) {
		line, _, more := bytes.Cut(d.data[end:], []byte("\n"))
		trimmed := bytes.TrimLeft(line, " \t\r")
		if len(trimmed) > 0 && trimmed[0] != '#' && (end == d.base || d.data[end-1] == '\n') {
			return end + len(line) - len(trimmed)
		}
		if end += len(line) + 1; !more {
			break
		}
	}
	return max(len(d.data)-1, 0) // in a comment, or behind a good expression
}

// expressionLine matches lines that probably begin an expression. What remains
// of a broken multi-line array does not look like one.
var expressionLine = regexp.MustCompile(`\n[ \t]*(\[|[A-Za-z0-9_.-]+[ \t]*=)`)

// resume returns where to go on reading behind the broken expression at start.
// It looks from the next line, not from where the parser gave up: an array that
// was left open shows only when a later key is met.
func (d *configDecoder) resume(start int) int {
	m := expressionLine.FindIndex(d.data[start:])
	if m == nil {
		return len(d.data)
	}
	return start + m[0] + 1
}

// check lets the library read the document as a whole. It knows rules about
// which tables and keys may stand together that are not repeated here.
func (d *configDecoder) check() {
	var whole map[string]any
	err := toml.Unmarshal(d.data, &whole)
	if err == nil {
		return
	}
	offset, key := 0, ""
	var derr *toml.DecodeError
	if errors.As(err, &derr) {
		line, column := derr.Position()
		from, to := d.line(line)
		offset, key = from+column-1, strings.Join(derr.Key(), ".")
		for _, p := range d.problems {
			if from <= p.offset && p.offset <= to {
				return // said already, and in our words
			}
		}
	}
	d.problem(offset, key, "syntax: %s", strings.TrimPrefix(err.Error(), "toml: "))
}

// header enters the table of a [table] or [[table]] line.
func (d *configDecoder) header(root configTable, n *unstable.Node) (t configTable, end int) {
	t = root
	list := n.Kind == unstable.ArrayTable
	offset := 0
	for keys := n.Key(); keys.Next(); {
		raw := keys.Node().Raw
		offset, end = d.base+int(raw.Offset), d.base+int(raw.Offset+raw.Length)
		if t.v.IsValid() {
			t = d.enter(t, string(keys.Node().Data), offset, keys.IsLast(), list)
		}
	}
	if t.v.IsValid() {
		d.mark(t.path, offset)
	}
	return t, end
}

// enter goes down one key of a table header.
func (d *configDecoder) enter(t configTable, key string, offset int, last, list bool) configTable {
	f, ok := d.field(t, key, offset)
	if !ok {
		return configTable{}
	}
	switch {
	case isTable(f.v.Type()):
		if last && list {
			d.problem(offset, f.path, "is one table, not a list of them; write [%s]", f.path)
		}
		return configTable{f.v, f.path}
	case !isTables(f.v.Type()):
		d.problem(offset, f.path, "is a key, not a table; write %s = …", key)
		return configTable{}
	case last:
		if !list {
			d.problem(offset, f.path, "is a list of tables; write [[%s]]", f.path)
		}
		return f.grow()
	case f.v.Len() == 0:
		d.problem(offset, f.path, "is a list of tables that has none yet; write [[%s]] above", f.path)
		return configTable{}
	}
	i := f.v.Len() - 1
	return configTable{f.v.Index(i), indexed(f.path, i)}
}

// keyValue reads one "key = value" into t.
func (d *configDecoder) keyValue(t configTable, n *unstable.Node) {
	for keys := n.Key(); keys.Next() && t.v.IsValid(); {
		raw := keys.Node().Raw
		offset := d.base + int(raw.Offset)
		f, ok := d.field(t, string(keys.Node().Data), offset)
		switch {
		case !ok:
			return
		case keys.IsLast():
			behind := d.base + int(raw.Offset+raw.Length)
			rest := bytes.TrimLeft(d.data[behind:], " \t=")
			value := len(d.data) - len(rest)
			if d.mark(f.path, value) {
				d.value(f, n.Value(), value)
			}
		case isTable(f.v.Type()):
			t = configTable{f.v, f.path}
		default:
			d.problem(offset, f.path, "is not a table")
			return
		}
	}
}

// field finds the field for a key of t. It notes a key that has none.
func (d *configDecoder) field(t configTable, key string, offset int) (configField, bool) {
	var known []string
	for i := range t.v.NumField() {
		f := t.v.Type().Field(i)
		name := f.Tag.Get("toml")
		if name == key {
			return configField{t.v.Field(i), f.Tag, joined(t.path, key)}, true
		}
		known = append(known, name)
	}
	shown := key
	if strings.Trim(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
		shown = quoted(key)
	}
	d.problem(offset, joined(t.path, shown), "unknown key; allowed: %s", strings.Join(known, ", "))
	return configField{}, false
}

// mark remembers where a key stands. It notes a key that stood elsewhere before.
func (d *configDecoder) mark(path string, offset int) bool {
	if first, ok := d.at[path]; ok {
		line, _ := d.position(first)
		d.problem(offset, path, "is set twice; the first is on line %d", line)
		return false
	}
	d.at[path] = offset
	return true
}

func (d *configDecoder) problem(offset int, key, format string, args ...any) {
	d.problems = append(d.problems, configFinding{offset, key, fmt.Sprintf(format, args...)})
	d.blame[key] = true
}

// locate returns where a key stands, or else the table that it would stand in,
// or else the beginning.
func (d *configDecoder) locate(path string) int {
	for path != "" {
		if offset, ok := d.at[path]; ok {
			return offset
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return 0
}

// position returns the line and column, in octets, of an offset; both from 1.
func (d *configDecoder) position(offset int) (line, column int) {
	before := d.data[:min(offset, len(d.data))]
	return bytes.Count(before, []byte("\n")) + 1, len(before) - bytes.LastIndexByte(before, '\n')
}

// line returns where a line begins and ends.
func (d *configDecoder) line(n int) (from, to int) {
	for ; n > 1; n-- {
		from += bytes.IndexByte(d.data[from:], '\n') + 1
	}
	if length := bytes.IndexByte(d.data[from:], '\n'); length >= 0 {
		return from, from + length
	}
	return from, len(d.data)
}

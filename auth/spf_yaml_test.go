package auth

import (
	"fmt"
	"strconv"
	"strings"
)

// spfYAML reads the part of YAML that the RFC 7208 suite is written in: documents, block maps, lists whose items are
// scalars or maps of one key, flow lists, and scalars plain, quoted, folded (>) and literal (|). Everything is a
// string, a []any or a map[string]any. What it does not know it refuses.
type spfYAML struct {
	lines []string
	at    int
}

// spfDocuments reads all documents of text.
func spfDocuments(text string) ([]map[string]any, error) {
	var docs []map[string]any
	for part := range strings.SplitSeq("\n"+text, "\n---") {
		y := &spfYAML{lines: strings.Split(part, "\n")}
		y.skip()
		if y.at == len(y.lines) {
			continue
		}
		v, err := y.block()
		if err != nil {
			return nil, err
		}
		doc, ok := v.(map[string]any)
		if y.skip(); !ok || y.at != len(y.lines) {
			return nil, fmt.Errorf("yaml: a document is no map, or ends at %q", y.lines[min(y.at, len(y.lines)-1)])
		}
		docs = append(docs, doc)
	}
	return docs, nil
}

func spfIndent(line string) int { return len(line) - len(strings.TrimLeft(line, " ")) }

// skip passes blank lines and comments.
func (y *spfYAML) skip() {
	for ; y.at < len(y.lines); y.at++ {
		if s := strings.TrimSpace(y.lines[y.at]); s != "" && s[0] != '#' {
			return
		}
	}
}

func (y *spfYAML) block() (any, error) {
	y.skip()
	indent := spfIndent(y.lines[y.at])
	m := make(map[string]any)
	var list []any
	for y.skip(); y.at < len(y.lines) && spfIndent(y.lines[y.at]) == indent; y.skip() {
		line := y.lines[y.at][indent:]
		if item, ok := strings.CutPrefix(line, "- "); ok {
			v, err := y.item(item, indent)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
			continue
		}
		key, rest, ok := spfKey(line)
		if !ok {
			return nil, fmt.Errorf("yaml: no key in %q", line)
		}
		v, err := y.value(rest, indent)
		if err != nil {
			return nil, err
		}
		m[key] = v
	}
	if list != nil {
		return list, nil
	}
	return m, nil
}

func (y *spfYAML) item(s string, indent int) (any, error) {
	key, rest, ok := spfKey(strings.TrimSpace(s))
	if !ok || strings.ToUpper(key) != key {
		return y.value(s, indent)
	}
	v, err := y.value(rest, indent)
	return map[string]any{key: v}, err
}

func spfKey(line string) (key, rest string, ok bool) {
	key, rest, ok = strings.Cut(line, ": ")
	if !ok {
		key, ok = strings.CutSuffix(strings.TrimRight(line, " "), ":")
	}
	return strings.Trim(key, `"'`), rest, ok
}

// value reads what stands behind a key or a dash, and the lines that belong to it.
func (y *spfYAML) value(s string, indent int) (any, error) {
	y.at++
	s = strings.TrimSpace(s)
	switch {
	case s == "":
		if y.skip(); y.at < len(y.lines) && spfIndent(y.lines[y.at]) > indent {
			return y.block()
		}
		return "", nil
	case s[0] == '>' || s[0] == '|':
		var lines []string
		for ; y.at < len(y.lines); y.at++ {
			if l := y.lines[y.at]; strings.TrimSpace(l) != "" && spfIndent(l) <= indent {
				break
			}
			lines = append(lines, strings.TrimSpace(y.lines[y.at]))
		}
		return strings.TrimRight(strings.Join(lines, map[bool]string{true: " ", false: "\n"}[s[0] == '>']), " \n"), nil
	}
	for !spfComplete(s) {
		if y.at == len(y.lines) {
			return nil, fmt.Errorf("yaml: %q does not end", s)
		}
		s += " " + strings.TrimSpace(y.lines[y.at])
		y.at++
	}
	switch s[0] {
	case '"', '\'':
		return spfQuoted(s)
	case '[':
		return spfFlow(s)
	}
	for ; y.at < len(y.lines); y.at++ { // a plain scalar over several lines
		l := y.lines[y.at]
		if strings.TrimSpace(l) == "" || spfIndent(l) <= indent {
			break
		}
		s += " " + strings.TrimSpace(l)
	}
	return s, nil
}

// spfComplete reports whether a quoted scalar or flow list has its end.
func spfComplete(s string) bool {
	if s[0] != '"' && s[0] != '\'' && s[0] != '[' {
		return true
	}
	var quote byte
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quote == '"' && c == '\\':
			i++
		case quote != 0 && c == quote:
			if quote = 0; s[0] != '[' && i == len(s)-1 {
				return true
			}
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case quote == 0 && c == ']':
			return true
		}
	}
	return false
}

func spfQuoted(s string) (string, error) {
	if s[0] == '\'' {
		return strings.ReplaceAll(s[1:len(s)-1], "''", "'"), nil
	}
	// Escapes are those of Go, except that \xHH is a code point; records are octets, so that one stays an octet here.
	v, err := strconv.Unquote(strings.ReplaceAll(s, `\0`, `\x00`))
	if err != nil {
		err = fmt.Errorf("yaml: %s: %w", s, err)
	}
	return v, err
}

func spfFlow(s string) (any, error) {
	list := []any{}
	for s = strings.TrimSpace(s[1 : len(s)-1]); s != ""; {
		end := len(s)
		if s[0] == '"' || s[0] == '\'' {
			for end = 1; end < len(s) && s[end] != s[0]; end++ {
				if s[end] == '\\' {
					end++
				}
			}
			v, err := spfQuoted(s[:end+1])
			if err != nil {
				return nil, err
			}
			list = append(list, v)
			s = strings.TrimSpace(s[end+1:])
		} else {
			if i := strings.IndexByte(s, ','); i >= 0 {
				end = i
			}
			list = append(list, strings.TrimSpace(s[:end]))
			s = s[end:]
		}
		s = strings.TrimSpace(strings.TrimPrefix(s, ","))
	}
	return list, nil
}

package auth

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"golang.org/x/net/publicsuffix"
)

const (
	// maxSuffixFile is the largest list that is read: the real one has a third of a megabyte.
	maxSuffixFile = 16 << 20
	// maxSuffixLine is the longest line of it: a rule, or a comment that names people and ticket numbers.
	maxSuffixLine = 4 << 10
)

// Suffixes is a list of public suffixes in the format of https://github.com/publicsuffix/list/wiki/Format. Both of its
// divisions count. The nil list is the one that was built in.
type Suffixes struct {
	rules map[string]suffixRule // by the name without "*." and "!", in canonical form
}

// A suffixRule is what the list has for a name; it may be several things.
type suffixRule uint8

const (
	suffixItself suffixRule = 1 << iota
	suffixBelow             // "*.name"
	suffixExcept            // "!name"
)

// ParseSuffixes reads a list. An error names the line.
func ParseSuffixes(r io.Reader) (*Suffixes, error) {
	s := &Suffixes{rules: make(map[string]suffixRule)}
	limited := &io.LimitedReader{R: r, N: maxSuffixFile + 1}
	lines := bufio.NewScanner(limited)
	lines.Buffer(nil, maxSuffixLine)
	n := 1
	for ; lines.Scan(); n++ {
		if err := s.add(lines.Text()); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	switch {
	case lines.Err() != nil:
		return nil, fmt.Errorf("line %d: %w", n, lines.Err())
	case limited.N == 0:
		return nil, fmt.Errorf("list of public suffixes of more than %d octets", maxSuffixFile)
	case len(s.rules) == 0:
		return nil, dmarcError("list of public suffixes without a rule")
	}
	return s, nil
}

// add takes one line: a rule, up to the first blank, or a comment.
func (s *Suffixes) add(line string) error {
	words := strings.Fields(line)
	if len(words) == 0 || strings.HasPrefix(words[0], "//") {
		return nil
	}
	name, kind := words[0], suffixItself
	if rest, ok := strings.CutPrefix(name, "!"); ok {
		name, kind = rest, suffixExcept
	} else if rest, ok := strings.CutPrefix(name, "*."); ok {
		name, kind = rest, suffixBelow
	}
	if name == "*" { // what holds for every name anyway
		return nil
	}
	canonical, ok := CanonicalDomain(name)
	if !ok || kind == suffixExcept && !strings.Contains(canonical, ".") {
		return fmt.Errorf("%.80q is no rule of a list of public suffixes", words[0])
	}
	s.rules[canonical] |= kind
	return nil
}

// OrgDomain returns the organizational domain of a canonical name: the public suffix that it ends in with one label
// more, or the name itself where it is a public suffix. https://www.rfc-editor.org/rfc/rfc7489#section-3.2
func (s *Suffixes) OrgDomain(name string) string {
	return lastLabels(name, countLabels(s.suffix(name))+1)
}

// suffix is the public suffix of a name: of the rules that match, that of an exception, or else of the one with the
// most labels. Where none does it is the last label.
func (s *Suffixes) suffix(name string) string {
	if s == nil {
		suffix, _ := publicsuffix.PublicSuffix(name)
		return suffix
	}
	longest := lastLabels(name, 1)
	below := "" // one label longer than at
	for at := longest; ; {
		rule := s.rules[at]
		if rule&suffixExcept != 0 {
			_, parent, _ := strings.Cut(at, ".")
			return parent
		}
		if rule&suffixItself != 0 {
			longest = at
		}
		if at == name {
			return longest
		}
		below = lastLabels(name, countLabels(at)+1)
		if rule&suffixBelow != 0 {
			longest = below
		}
		at = below
	}
}

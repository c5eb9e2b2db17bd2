package arc

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSplitHeader(t *testing.T) {
	for _, test := range []struct {
		name, section string
		names         []string
		raws          []string
		err           error
	}{
		{"empty", "", nil, nil, nil},
		{"blank line alone", "\r\n", nil, nil, nil},
		{"order and case", "B: 1\r\na: 2\r\nB: 3\r\n\r\n", []string{"B", "a", "B"},
			[]string{"B: 1\r\n", "a: 2\r\n", "B: 3\r\n"}, nil},
		{"no blank line", "A: 1\r\n", []string{"A"}, []string{"A: 1\r\n"}, nil},
		{"no final CRLF", "A: 1", []string{"A"}, []string{"A: 1\r\n"}, nil},
		{"folds", "A:\r\n 1\r\n\t2\r\nB: 3\r\n", []string{"A", "B"}, []string{"A:\r\n 1\r\n\t2\r\n", "B: 3\r\n"}, nil},
		{"a fold of white space alone", "A: 1\r\n \r\nB: 2\r\n", []string{"A", "B"},
			[]string{"A: 1\r\n \r\n", "B: 2\r\n"}, nil},
		{"space before the colon", "A \t: 1\r\n", []string{"A"}, []string{"A \t: 1\r\n"}, nil},
		{"what follows the blank line", "A: 1\r\n\r\nB: 2\r\n", []string{"A"}, []string{"A: 1\r\n"}, nil},
		{"bare LF and CR", "A: 1\nB: 2\rC: 3\r\n", []string{"A"}, []string{"A: 1\nB: 2\rC: 3\r\n"}, nil},
		{"a fold first", " A: 1\r\nB: 2\r\n", []string{"", "B"}, []string{" A: 1\r\n", "B: 2\r\n"}, ErrHeaderSyntax},
		{"no colon", "A: 1\r\nhello\r\nB: 2\r\n", []string{"A", "", "B"},
			[]string{"A: 1\r\n", "hello\r\n", "B: 2\r\n"}, ErrHeaderSyntax},
		{"a colon only in the fold", "A\r\n : 1\r\n", []string{""}, []string{"A\r\n : 1\r\n"}, ErrHeaderSyntax},
		{"no name", ": 1\r\n", []string{""}, []string{": 1\r\n"}, ErrHeaderSyntax},
		{"a space in the name", "A B: 1\r\n", []string{""}, []string{"A B: 1\r\n"}, ErrHeaderSyntax},
		{"not ASCII", "Ä: 1\r\n", []string{""}, []string{"Ä: 1\r\n"}, ErrHeaderSyntax},
		{"mbox", "From a@b Thu\r\nA: 1\r\n", []string{"", "A"}, []string{"From a@b Thu\r\n", "A: 1\r\n"},
			ErrHeaderSyntax},
	} {
		t.Run(test.name, func(t *testing.T) {
			headers, err := SplitHeader([]byte(test.section))
			wantError(t, err, test.err)
			var names, raws []string
			for _, h := range headers {
				names, raws = append(names, h.Name), append(raws, string(h.Raw))
			}
			if diff := cmp.Diff(test.names, names); diff != "" {
				t.Errorf("names: %s", diff)
			}
			if diff := cmp.Diff(test.raws, raws); diff != "" {
				t.Errorf("fields: %s", diff)
			}
		})
	}
}

func TestSplitHeaderBounds(t *testing.T) {
	for _, test := range []struct {
		name    string
		section string
		err     error
	}{
		{"largest", strings.Repeat("a", 9) + ":" + strings.Repeat("x", MaxHeaderSize-12) + "\r\n\r\nbody", nil},
		{"too large", strings.Repeat("a", 9) + ":" + strings.Repeat("x", MaxHeaderSize-11) + "\r\n", ErrHeaderSize},
		{"most fields", strings.Repeat("A:\r\n", MaxFields), nil},
		{"too many fields", strings.Repeat("A:\r\n", MaxFields+1), ErrHeaderSize},
	} {
		t.Run(test.name, func(t *testing.T) {
			headers, err := SplitHeader([]byte(test.section))
			wantError(t, err, test.err)
			if (err == nil) != (headers != nil) {
				t.Errorf("%d fields and %v", len(headers), err)
			}
		})
	}
}

func FuzzSplitHeader(f *testing.F) {
	for _, s := range []string{"A: 1\r\n 2\r\nB: 3\r\n\r\nbody", "A", ": \r\n", " x\r\n", "\r\n\r\n", "A: \r\r\n\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, section []byte) {
		before := bytes.Clone(section)
		headers, err := SplitHeader(section)
		if !bytes.Equal(before, section) {
			t.Fatal("the section was changed")
		}
		if headers == nil {
			return
		}
		var all []byte
		bad := false
		for _, h := range headers {
			all = append(all, h.Raw...)
			bad = bad || h.Name == ""
			if h.Name != "" && !bytes.HasPrefix(h.Raw, []byte(h.Name)) || !bytes.HasSuffix(h.Raw, crlf) {
				t.Fatalf("name %q of %q", h.Name, h.Raw)
			}
			if again, _ := SplitHeader(h.Raw); len(again) != 1 || again[0].Name != h.Name {
				t.Fatalf("%q alone is %q", h.Raw, again)
			}
			Relaxed.AppendHeader(nil, h.Raw)
		}
		if bad != (err != nil) {
			t.Fatalf("%v, fields without a name: %v", err, bad)
		}
		if !bytes.HasPrefix(section, all) && !bytes.Equal(all, append(before, crlf...)) {
			t.Fatalf("%q became %q", section, all)
		}
	})
}

package arc

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestParseTags(t *testing.T) {
	long := "a=" + strings.Repeat("x", MaxTagList-2)
	many := make([]string, MaxTags+1)
	for i := range many {
		many[i] = fmt.Sprintf("t%d=", i)
	}
	for _, test := range []struct {
		list string
		want string // name=value|…; empty: malformed
	}{
		{"a=1", "a=1"},
		{"a=1;", "a=1"},
		{" a = 1 ; b=\r\n\t2 ;\r\n ", "a=1|b=2"},
		{"a=;b=", "a=|b="},
		{"a=1=2", "a=1=2"},
		{"a=x y\r\n  z", "a=x y  z"},
		{"A=1;a=2", "A=1|a=2"},
		{"a_1=é", "a_1=é"},
		{long, "a=" + long[2:]},
		{strings.Join(many[:MaxTags], ";"), strings.Join(many[:MaxTags], "|")},

		{"", ""}, {";", ""}, {"a", ""}, {"=1", ""}, {"a=1;;", ""}, {"a=1;;b=2", ""}, {";a=1", ""},
		{"a=1;a=2", ""}, {"1=2", ""}, {"_a=1", ""}, {"a-b=1", ""}, {"a b=1", ""}, {"é=1", ""},
		{"a=\x00", ""}, {"a=\x7f", ""}, {"a=1\n", ""}, {"a=1\r", ""}, {"a=1\r\n2", ""}, {"a=1\r\n", ""},
		{"a=\xff", ""}, {"a=1; b", ""},
		{long + "x", ""}, {strings.Join(many, ";"), ""},
	} {
		tags, err := ParseTags([]byte(test.list))
		var parts []string
		for _, tag := range tags {
			parts = append(parts, tag.Name+"="+tag.Value)
		}
		if got := strings.Join(parts, "|"); got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%.60q: %.80q, %v, want %.80q", test.list, got, err, test.want)
		}
		if err != nil && !errors.Is(err, ErrTags) {
			t.Errorf("%.60q: %v is no ErrTags", test.list, err)
		}
	}
}

func FuzzParseTags(f *testing.F) {
	for _, s := range []string{"a=1; b = 2\r\n 3;", "v=DKIM1; k=rsa; p=AA==", ";;", "a=1;a=2", "b=\r\n\t;c=é"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, list []byte) {
		tags, err := ParseTags(list)
		if err != nil {
			if tags != nil {
				t.Fatal("tags and an error")
			}
			return
		}
		var again []string
		for _, tag := range tags {
			if strings.ContainsAny(tag.Name+tag.Value, ";\r\n\x00") {
				t.Fatalf("tag %+v", tag)
			}
			if got, ok := unfold(list[tag.start:tag.end]); !ok || got != tag.Value {
				t.Fatalf("%q stands at the place of %q", got, tag.Value)
			}
			again = append(again, tag.Name+"="+tag.Value)
		}
		if second, err := ParseTags([]byte(strings.Join(again, ";"))); err != nil || len(second) != len(tags) {
			t.Fatalf("%q again: %v, %v", again, second, err)
		}
	})
}

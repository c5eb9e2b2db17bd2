package load

import (
	"fmt"
	"strings"
	"testing"
)

func TestProcessStops(t *testing.T) {
	p, err := startProcess(command("mute"))
	if err != nil {
		t.Fatal(err)
	}
	p.stop()
	p.stop() // once more does no harm
	select {
	case <-p.done:
	default:
		t.Error("it runs on")
	}
	if _, err := startProcess([]string{t.TempDir() + "/nothing"}); err == nil {
		t.Error("nothing was started")
	}
}

func TestTail(t *testing.T) {
	var short tail
	fmt.Fprintln(&short, "one")
	fmt.Fprintln(&short, "two")
	if got := short.String(); got != "one\ntwo" {
		t.Errorf("%q", got)
	}
	for _, step := range []int{1, 7, 100, maxTail, 3 * maxTail} {
		var long tail
		var text strings.Builder
		for i := range 10_000 {
			fmt.Fprintf(&text, "line %d\n", i)
		}
		all := text.String()
		for rest := all; rest != ""; {
			n := min(step, len(rest))
			fmt.Fprint(&long, rest[:n])
			rest = rest[n:]
			if len(long.buf) > 2*maxTail {
				t.Fatalf("%d octets are kept", len(long.buf))
			}
		}
		got := long.String()
		if !strings.HasSuffix(strings.TrimSpace(all), got) || len(got) > maxTail || len(got) < maxTail-20 {
			t.Errorf("in steps of %d: %d octets, %.40q", step, len(got), got)
		}
		if !strings.HasPrefix(got, "line ") && step < maxTail {
			t.Errorf("in steps of %d it begins within a line: %.20q", step, got)
		}
	}
}

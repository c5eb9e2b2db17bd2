package bench

import (
	"regexp"
	"testing"
	"time"
)

func TestChoice(t *testing.T) {
	all := len(Scenarios()) * len(Paths()) * len(Sizes()) * len(RTTs())
	if n := len(Choice{All: true}.Cells()); n != all {
		t.Errorf("all are %d cells, want %d", n, all)
	}
	for _, c := range (Choice{}).Cells() {
		if !c.Scenario.Default || c.RTT != 100*time.Millisecond {
			t.Errorf("%s is in the subset", c.Name())
		}
	}
	pick := Choice{
		Match: regexp.MustCompile(`^outbound/clear/warm/old.*/direct/`),
		RTTs:  []time.Duration{20 * time.Millisecond}, Sizes: []int{1 << 20},
	}
	cells := pick.Cells()
	if len(cells) != 1 || cells[0].Name() != "outbound/clear/warm/old-modern/direct/1MB/20ms" {
		t.Errorf("picked %v", cells)
	}
}

func TestSizeName(t *testing.T) {
	for octets, want := range map[int]string{2048: "2KB", 1 << 20: "1MB", 20 << 20: "20MB", 1500: "1500B"} {
		if got := SizeName(octets); got != want {
			t.Errorf("%d is %q, want %q", octets, got, want)
		}
	}
}

func TestTextHasItsSize(t *testing.T) {
	for _, size := range append(Sizes(), 2000, 2001, 2077, 2078, 2079) {
		if n := len(text(size, 7)); n != size && n < size-2 || n > size {
			t.Errorf("%d octets for %d", n, size)
		}
	}
}

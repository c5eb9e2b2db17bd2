package route

import (
	"testing"
)

func TestWords(t *testing.T) {
	for l := Clear; l <= Verified; l++ {
		text, _ := l.MarshalText()
		var got Level
		if err := got.UnmarshalText(text); err != nil || got != l {
			t.Errorf("level %v: %v %v", l, got, err)
		}
	}
	l := Verified
	if err := l.UnmarshalText([]byte("strict")); err == nil || l != Verified {
		t.Errorf("an unknown word changed the level to %v (%v)", l, err)
	}
	for f := Both; f <= IPv6; f++ {
		if got, err := ParseFamily(f.String()); err != nil || got != f {
			t.Errorf("family %v: %v %v", f, got, err)
		}
	}
	if _, err := ParseFamily("ipv5"); err == nil {
		t.Error("ipv5")
	}
	if !(Clear < Opportunistic && Opportunistic < Encrypted && Encrypted < Verified) {
		t.Error("levels are not in order")
	}
}

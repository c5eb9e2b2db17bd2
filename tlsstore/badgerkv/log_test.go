package badgerkv_test

import (
	"testing"

	"slipstream/tlsstore/badgerkv"
)

// TestWarnings: what Badger warns of every minute, and nobody can do anything about, is for debugging.
func TestWarnings(t *testing.T) {
	for format, want := range map[string]string{
		"%s might be too small. Metrics: %s\n":         "debug",
		"Cache life expectancy (in seconds): %+v\n %s": "debug",
		"%s is about something else: %s":               "warn",
	} {
		said := ""
		badgerkv.Warn(func(level, msg string) { said += level }, format, "Block cache", "hit: 1")
		if said != want {
			t.Errorf("%q is logged as %q, want %q", format, said, want)
		}
	}
}

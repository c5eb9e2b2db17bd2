// Package mtatest gives tests real mail servers, and skips, saying why, where there are none.
package mtatest

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"slipstream/bench/mta"
)

// Start runs a server until the test ends. Where the machine cannot, the test is skipped; where the server does not come
// up, it fails. A failing test shows the end of the server's log.
func Start(t testing.TB, kind mta.Kind, c mta.Config) *mta.Instance {
	t.Helper()
	in, err := mta.Start(Context(t), kind, c)
	Check(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			lines := strings.Split(strings.TrimSpace(in.Log()), "\n")
			t.Logf("log of %s on %s:\n%s", kind, in.Addr(), strings.Join(lines[max(0, len(lines)-40):], "\n"))
		}
		if err := in.Stop(); err != nil {
			t.Errorf("stop %s: %v", kind, err)
		}
	})
	return in
}

// Check skips the test where err says that no real MTA can run here, and fails it where err is another.
func Check(t testing.TB, err error) {
	t.Helper()
	if errors.Is(err, mta.ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Context returns a context that ends with the test, and after a minute at the latest.
func Context(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

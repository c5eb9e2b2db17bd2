//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package auth

import "testing"

func lockedContents(t *testing.T, _ string) string {
	t.Skip("no locks here")
	return ""
}

//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package auth

import (
	"errors"
	"path/filepath"
	"testing"
)

func TestHistoryFileNeedsLocks(t *testing.T) {
	_, err := OpenHistory(filepath.Join(t.TempDir(), "history"), HistoryOptions{})
	if !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("%v", err)
	}
}

//go:build unix

package mta

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Root runs nothing out of a directory that somebody else could have made.
func TestTrust(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root: nobody's programs would run as root")
	}
	t.Setenv("SUDO_UID", "")
	dir := filepath.Join(t.TempDir(), "above", ".peers")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := trust(dir); err != nil {
		t.Errorf("root's own: %v", err)
	}
	wants := func(what, word string) {
		t.Helper()
		if err := trust(dir); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
		wants(d+" is writable by all", "written by others")
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Lchown(d, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		wants(d+" is another's", "belongs to user 65534")
		t.Setenv("SUDO_UID", "65534")
		if err := trust(d); err != nil {
			t.Errorf("the one who called sudo: %v", err)
		}
		t.Setenv("SUDO_UID", "")
		if err := os.Lchown(d, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
}

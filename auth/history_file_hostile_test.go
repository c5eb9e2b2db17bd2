//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package auth

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestHistoryFileTorn: what a killed process has left is removed, wherever it was cut, and no other record with it.
func TestHistoryFileTorn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history")
	for _, before := range []string{"", historyPassed, historyPassed + historyFailed} {
		for cut := range len(historyFailed) {
			torn := before + historyFailed[:cut]
			want := before
			if strings.HasSuffix(torn, "\n") {
				want = torn // an importer gets along with whole lines
			}
			if err := os.WriteFile(path, []byte(torn), 0o600); err != nil {
				t.Fatal(err)
			}
			p, err := newHistoryPlace(path, HistoryOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if err := p.lock(); err != nil {
				t.Fatalf("cut at %d: %v", cut, err)
			}
			p.unlock()
			if got := contents(t, path); got != want {
				t.Fatalf("cut at %d: %q", cut, got)
			}
		}
	}
	// One that is open already finds it too.
	h := openHistory(t, path, HistoryOptions{})
	if err := os.WriteFile(path, []byte(historyPassed+historyFailed[:100]), 0o600); err != nil {
		t.Fatal(err)
	}
	add(t, h, "next")
	flush(t, h)
	if got := jobs(t, contents(t, path)); !slices.Equal(got, []string{passed().Job, "next"}) {
		t.Errorf("%v", got)
	}
}

// TestHistoryFileNotOne: nothing is cut from a file of another kind, nor added to it.
func TestHistoryFileNotOne(t *testing.T) {
	for _, text := range []string{"root:x:0:0:root", "a\nb", "\x00\x00", "job", "jobs\nx", " job a",
		strings.Repeat("x", maxHistoryText) + "job a\nreporter"} {
		path := filepath.Join(t.TempDir(), "history")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		h, err := OpenHistory(path, HistoryOptions{})
		if err == nil {
			flush(t, h)
		}
		if text == "job" {
			if err != nil || contents(t, path) != "" {
				t.Errorf("%q: %v", text, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), "does not look like") || contents(t, path) != text {
			t.Errorf("%.20q: %v", text, err)
		}
	}
}

// TestHistoryTextBound: a record is never longer than what is searched for its beginning.
func TestHistoryTextBound(t *testing.T) {
	name := strings.Repeat(strings.Repeat("x", 62)+".", 4) + "x"
	r := passed()
	r.MailFrom, r.Reporter, r.Verdict.Domain, r.Verdict.PolicyDomain = name, name, name, name
	r.Job = strings.Repeat("x", maxHistoryJob)
	for i := range 200 {
		r.DKIM = append(r.DKIM, HistoryDKIM{name, name, ResultPass})
		r.Seals = append(r.Seals, HistorySeal{i + 1, name, name, failed().IP})
		r.Verdict.Record.RUA = append(r.Verdict.Record.RUA, ReportURI{Text: "a:"})
	}
	text, err := r.Append(nil)
	if err != nil || len(text) < maxHistoryText/2 || len(text) >= maxHistoryText {
		t.Errorf("%d octets, %v", len(text), err)
	}
	if _, err := readHistory(string(text)); err != nil {
		t.Error(err)
	}
}

func TestHistoryFileRefuses(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, err := range []error{
		os.WriteFile(at("file"), nil, 0o600), os.Symlink(at("file"), at("link")), os.Symlink(at("none"), at("nowhere")),
		os.WriteFile(at("two"), nil, 0o600), os.Link(at("two"), at("names")),
		os.WriteFile(at("open"), nil, 0o600), os.Chmod(at("open"), 0o646), syscall.Mkfifo(at("pipe"), 0o600),
		os.Mkdir(at("all"), 0o700), os.Chmod(at("all"), 0o777),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{
		dir:                "is a directory",
		at("no/history"):   "no such file",
		at("link"):         "symbolic link",
		at("nowhere"):      "symbolic link",
		at("two"):          "another name",
		at("open"):         "may write to it",
		at("pipe"):         "not a plain file",
		at("all/history"):  "may write to " + at("all"),
		at("file/history"): "not a directory",
		"/dev/null":        "not a plain file",
	} {
		h, err := OpenHistory(path, HistoryOptions{})
		if err == nil {
			flush(t, h)
		}
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "history: "+path) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	if _, err := os.Lstat(at("none")); err == nil {
		t.Error("a link is followed")
	}
	if err := os.Chmod(at("all"), 0o777|fs.ModeSticky); err != nil {
		t.Fatal(err)
	}
	h := openHistory(t, at("all/history"), HistoryOptions{})
	flush(t, h)
	if os.Geteuid() != 0 {
		t.Skip("only root may give a file away")
	}
	if err := os.Chown(at("file"), 65534, 65534); err != nil {
		t.Skip("no file can be given away here: ", err)
	}
	_, err := OpenHistory(at("file"), HistoryOptions{})
	if err == nil || !strings.Contains(err.Error(), "65534, not to") {
		t.Errorf("a file of somebody else: %v", err)
	}
}

// TestHistoryFileRefusesLater: a link that is put in its place while it is in use is not followed either, and what has
// waited is written once it is gone.
func TestHistoryFileRefusesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		path, elsewhere := filepath.Join(dir, "history"), filepath.Join(dir, "elsewhere")
		var told failures
		h := openHistory(t, path, HistoryOptions{Failed: told.add})
		add(t, h, "one")
		synctest.Wait()
		if err := errors.Join(os.Rename(path, elsewhere), os.Symlink(elsewhere, path)); err != nil {
			t.Fatal(err)
		}
		add(t, h, "two", "three")
		pass(time.Hour)
		if len(told.all()) != 1 || !strings.Contains(told.all()[0].Error(), "symbolic link") {
			t.Errorf("%v", told.all())
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		pass(historyFailMax)
		if len(told.all()) != 2 || told.all()[1] != nil {
			t.Errorf("%v", told.all())
		}
		if got := jobs(t, contents(t, path)); !slices.Equal(got, []string{"two", "three"}) {
			t.Errorf("%v", got)
		}
		if got := jobs(t, contents(t, elsewhere)); !slices.Equal(got, []string{"one"}) {
			t.Errorf("elsewhere: %v", got)
		}
	})
}

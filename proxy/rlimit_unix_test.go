//go:build unix

package proxy

import (
	"syscall"
	"testing"
)

func TestOpenFilesRaisesTheSoftLimit(t *testing.T) {
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
			t.Error(err)
		}
	})
	lowered := before
	lowered.Cur = before.Max - 1
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &lowered); err != nil {
		t.Fatal(err)
	}
	got, err := OpenFiles(LimitsConfig{MaxConnections: 1})
	if err != nil {
		t.Fatal(err)
	}
	if got.Has != uint64(before.Max) {
		t.Errorf("has %d files, want the hard limit %d", got.Has, before.Max)
	}
	if got.Needs != 103 {
		t.Errorf("one connection needs %d files, want 103", got.Needs)
	}
}

func TestFileLimitSaysWhatToDo(t *testing.T) {
	for _, test := range []struct {
		name   string
		limit  FileLimit
		enough bool
		want   string
	}{
		{"enough", FileLimit{Has: 30100, Needs: 30100, MaxConnections: 10000}, true,
			"30100 may be open; max_connections = 10000 needs 30100"},
		{"not enough", FileLimit{Has: 1024, Needs: 30100, MaxConnections: 10000}, false,
			"1024 may be open, but max_connections = 10000 needs 30100 (3 per connection and 100); " +
				"write LimitNOFILE=30100 in the [Service] section of the unit, or max_connections = 308 in [limits]"},
		{"hopeless", FileLimit{Has: 64, Needs: 103, MaxConnections: 1}, false,
			"64 may be open, but max_connections = 1 needs 103 (3 per connection and 100); " +
				"write LimitNOFILE=103 in the [Service] section of the unit"},
		{"no limit", FileLimit{Needs: 103}, true, "the system sets no limit"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := test.limit.Enough(); got != test.enough {
				t.Errorf("Enough() = %v", got)
			}
			if got := test.limit.String(); got != test.want {
				t.Errorf("String() = %q\nwant       %q", got, test.want)
			}
		})
	}
}

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
	got, err := OpenFiles(LimitsConfig{MaxConnections: 1, MaxIdleConnections: 20})
	if err != nil {
		t.Fatal(err)
	}
	if got.Has != uint64(before.Max) {
		t.Errorf("has %d files, want the hard limit %d", got.Has, before.Max)
	}
	if got.Needs != 1503 {
		t.Errorf("one connection and 20 idle ones need %d files, want 1503", got.Needs)
	}
}

func TestFileLimitSaysWhatToDo(t *testing.T) {
	for _, test := range []struct {
		name   string
		limit  FileLimit
		enough bool
		want   string
	}{
		{"enough", FileLimit{Has: 30700, Needs: 30700, MaxConnections: 10000, MaxIdle: 500}, true,
			"30700 may be open; max_connections = 10000 and max_idle_connections = 500 need 30700"},
		{"not enough", FileLimit{Has: 4096, Needs: 30700, MaxConnections: 10000, MaxIdle: 500}, false,
			"4096 may be open, but max_connections = 10000 and max_idle_connections = 500 need 30700 " +
				"(3 per connection, 1 for each that is idle, and 1480); " +
				"write LimitNOFILE=30700 in the [Service] section of the unit, or max_connections = 705 in [limits]"},
		{"hopeless", FileLimit{Has: 64, Needs: 213, MaxConnections: 1, MaxIdle: 10}, false,
			"64 may be open, but max_connections = 1 and max_idle_connections = 10 need 213 " +
				"(3 per connection, 1 for each that is idle, and 1480); " +
				"write LimitNOFILE=213 in the [Service] section of the unit"},
		{"hops are counted", FileLimit{Has: 4096, Needs: 26480, MaxConnections: 10000, MaxIdle: 500, MaxHops: 5000}, false,
			"4096 may be open, but max_connections = 10000 and max_hop_connections = 5000 need 26480 " +
				"(2 per connection, 1 for each to a hop, and 1480); write LimitNOFILE=26480 in the [Service] section of the unit"},
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

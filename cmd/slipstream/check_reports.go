package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"slipstream/proxy"
	"slipstream/tlsstore/badgerkv"
)

const wouldNotCount = "mail would not be counted for aggregate reports"

// checkReports looks at the directory where aggregate reports are gathered, if there will be any. Nothing that is wrong
// here holds mail up.
func checkReports(cfg *proxy.Config, report func(proxy.Finding)) {
	counts := func(d proxy.InboundConfig) bool { return d.Auth.Enabled && d.Auth.AggregateReports }
	if !slices.ContainsFunc(cfg.Inbound, counts) {
		return
	}
	found, ok := within(checkWait, func() proxy.Finding { return reportsDir(cfg) }, func(proxy.Finding) {})
	if !ok {
		found = doubtfulReports("%s: no answer from the disk within %v; %s", cfg.ReportsDir(), checkWait, wouldNotCount)
	}
	report(found)
}

func doubtfulReports(format string, args ...any) proxy.Finding {
	return proxy.Finding{State: proxy.Doubtful, About: "reports", Text: fmt.Sprintf(format, args...)}
}

func reportsDir(cfg *proxy.Config) proxy.Finding {
	dir := cfg.ReportsDir()
	us := badgerkv.Account(os.Geteuid())
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err := canMakeIn(nearest(dir)); err != nil {
			return doubtfulReports("%s is missing and cannot be made: %v; %s: make it for %s, or change reports.dir",
				dir, err, wouldNotCount, us)
		}
		return reportsRoom(cfg, nearest(dir), "would be made")
	}
	const others = 0o022 // may not be set where a journal is kept
	switch {
	case err != nil:
		return doubtfulReports("%v; %s: make it a directory that %s can write to", err, wouldNotCount, us)
	case !info.IsDir():
		return doubtfulReports("%s is not a directory; %s: remove it, or change reports.dir", dir, wouldNotCount)
	case info.Mode().Perm()&others != 0:
		return doubtfulReports("others may write to %s (mode %04o); %s: chmod go-w it",
			dir, info.Mode().Perm(), wouldNotCount)
	}
	if err := canMakeIn(dir); err != nil {
		return doubtfulReports("%v; %s: make it a directory that %s can write to", err, wouldNotCount, us)
	}
	return reportsRoom(cfg, dir, "can be written")
}

// reportsRoom compares what reports may take with what is free on the disk that there is.
func reportsRoom(cfg *proxy.Config, there, can string) proxy.Finding {
	dir := cfg.ReportsDir()
	free, err := badgerkv.Free(there)
	if err != nil {
		return doubtfulReports("%s: how much is free on its disk cannot be told: %v", dir, err)
	}
	grow := max(0, int64(cfg.Reports.MaxSize)-octetsIn(dir))
	if free < grow {
		return doubtfulReports("%s %s, but may grow by %d MiB, and %d are free on its disk; "+
			"make room, or lower reports.max_size", dir, can, grow>>20, free>>20)
	}
	text := fmt.Sprintf("%s %s: it may grow by %d MiB, and %d are free", dir, can, grow>>20, free>>20)
	return proxy.Finding{State: proxy.Fine, About: "reports", Text: text}
}

// octetsIn is what the files of a directory take.
func octetsIn(dir string) (n int64) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			n += info.Size()
		}
	}
	return n
}

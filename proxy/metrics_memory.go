package proxy

import (
	"github.com/prometheus/client_golang/prometheus"

	"slipstream/tlsstore"
)

// NewMemoryMetrics tells how the store and the tickets do. Either may be nil.
func NewMemoryMetrics(store *tlsstore.Store, tickets *tlsstore.Tickets) *MemoryMetrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("slipstream_"+name, help, labels, nil)
	}
	return &MemoryMetrics{
		store: store, tickets: tickets,
		lookups: desc("store_lookups_total", "Look-ups in the store, by what came of them.", "result"),
		writes:  desc("store_writes_total", "Writes to the store, by what came of them.", "result"),
		octets:  desc("store_memory_octets", "Memory that the store's front takes."),
		entries: desc("store_entries", "Entries of the store's front."),
		onDisk:  desc("store_on_disk", "1 while what is remembered outlives the process, 0 while it is in memory only."),
		disk:    desc("store_disk_octets", "Octets that the store takes on disk, as of the last upkeep."),
		issued:  desc("tickets_issued_total", "Session tickets that clients were given."),
		back: desc("tickets_returned_total", "Session tickets that clients came with, by what came of them.",
			"result"),
	}
}

// MemoryMetrics are of what is remembered about peers.
type MemoryMetrics struct {
	store   *tlsstore.Store
	tickets *tlsstore.Tickets
	size    func() int64 // on disk; nil: none
	stored  func() bool  // nil: there is no store

	lookups, writes, octets, entries, onDisk, disk, issued, back *prometheus.Desc
}

// WithDisk adds how much the store takes on disk, which size returns whenever it is asked, from several goroutines; 0
// while nobody knows, or where it takes none. It returns m.
func (m *MemoryMetrics) WithDisk(size func() int64) *MemoryMetrics {
	m.size = size
	return m
}

// WithStored adds whether the store is on disk and not in memory, which stored returns whenever it is asked, from
// several goroutines. It returns m.
func (m *MemoryMetrics) WithStored(stored func() bool) *MemoryMetrics {
	m.stored = stored
	return m
}

// Describe implements [prometheus.Collector].
func (m *MemoryMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.lookups, m.writes, m.octets, m.entries, m.onDisk, m.disk, m.issued, m.back} {
		to <- d
	}
}

// Collect implements [prometheus.Collector].
func (m *MemoryMetrics) Collect(to chan<- prometheus.Metric) {
	count := func(d *prometheus.Desc, n uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, n int64) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n))
	}
	if m.store != nil {
		s := m.store.Stats()
		count(m.lookups, s.Hits, "hit")
		count(m.lookups, s.Misses-s.Late, "miss")
		count(m.lookups, s.Late, "late")
		count(m.lookups, s.Broken, "broken")
		count(m.lookups, s.Expired, "expired")
		count(m.writes, s.Writes, "written")
		count(m.writes, s.Lost, "lost")
		gauge(m.octets, int64(s.Octets))
		gauge(m.entries, int64(s.Entries))
	}
	if m.stored != nil {
		var n int64
		if m.stored() {
			n = 1
		}
		gauge(m.onDisk, n)
	}
	if m.size != nil {
		if n := m.size(); n > 0 {
			gauge(m.disk, n)
		}
	}
	if m.tickets != nil {
		t := m.tickets.Stats()
		count(m.issued, t.Issued)
		count(m.back, t.Accepted, "accepted")
		count(m.back, t.Foreign, "foreign")
		count(m.back, t.Damaged+t.Scope, "refused")
		count(m.back, t.Expired+t.Aged, "expired")
	}
}

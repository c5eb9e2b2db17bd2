package proxy

import (
	"github.com/prometheus/client_golang/prometheus"

	"slipstream/tlsstore"
)

// NewMemoryMetrics tells how the store and the tickets do. Either may be nil.
func NewMemoryMetrics(store *tlsstore.Store, tickets *tlsstore.Tickets) prometheus.Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("slipstream_"+name, help, labels, nil)
	}
	return &memoryMetrics{
		store: store, tickets: tickets,
		lookups: desc("store_lookups_total", "Look-ups in the store, by what came of them.", "result"),
		writes:  desc("store_writes_total", "Writes to the store, by what came of them.", "result"),
		octets:  desc("store_memory_octets", "Memory that the store's front takes."),
		entries: desc("store_entries", "Entries of the store's front."),
		issued:  desc("tickets_issued_total", "Session tickets that clients were given."),
		back:    desc("tickets_returned_total", "Session tickets that clients came with, by what came of them.", "result"),
	}
}

type memoryMetrics struct {
	store   *tlsstore.Store
	tickets *tlsstore.Tickets

	lookups, writes, octets, entries, issued, back *prometheus.Desc
}

// Describe implements [prometheus.Collector].
func (m *memoryMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.lookups, m.writes, m.octets, m.entries, m.issued, m.back} {
		to <- d
	}
}

// Collect implements [prometheus.Collector].
func (m *memoryMetrics) Collect(to chan<- prometheus.Metric) {
	count := func(d *prometheus.Desc, n uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, n int) {
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
		gauge(m.octets, s.Octets)
		gauge(m.entries, s.Entries)
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

package proxy

import (
	"github.com/prometheus/client_golang/prometheus"

	"slipstream/proxy/once"
)

// NewOutcomeMetrics tells how the memory of outcomes does; of a nil one, that it is not ready.
func NewOutcomeMetrics(m *once.Memory) *OutcomeMetrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("slipstream_once_"+name, help, labels, nil)
	}
	return &OutcomeMetrics{
		memory:  m,
		ready:   desc("ready", "1 while outcomes of recipients can be remembered, 0 while messages are split instead."),
		held:    desc("outcomes", "Outcomes of recipients that wait for the client to come again.", "outcome"),
		unsaved: desc("unsaved", "Changes of what is remembered of recipients that are not on the disk yet."),
		writes:  desc("writes_total", "Writes of outcomes to the disk, by what came of them.", "result"),
		expired: desc("expired_total", "Outcomes that no client came again for in time."),
		broken:  desc("broken_total", "Records of outcomes that were found damaged, and dropped."),
	}
}

// OutcomeMetrics are of what is remembered about recipients.
type OutcomeMetrics struct {
	memory *once.Memory

	ready, held, unsaved, writes, expired, broken *prometheus.Desc
}

// Describe implements [prometheus.Collector].
func (m *OutcomeMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.ready, m.held, m.unsaved, m.writes, m.expired, m.broken} {
		to <- d
	}
}

// Collect implements [prometheus.Collector].
func (m *OutcomeMetrics) Collect(to chan<- prometheus.Metric) {
	count := func(d *prometheus.Desc, n uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, n int, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	ready := 0
	if m.memory.Ready(1) == nil {
		ready = 1
	}
	s := m.memory.Stats()
	gauge(m.ready, ready)
	gauge(m.held, s.Outcomes-s.Refused-s.Deferred, "delivered")
	gauge(m.held, s.Deferred, "deferred")
	gauge(m.held, s.Refused, "refused")
	gauge(m.unsaved, s.Unsaved)
	count(m.writes, s.Writes-s.Failures, "written")
	count(m.writes, s.Failures, "failed")
	count(m.expired, s.Expired)
	count(m.broken, s.Broken)
}

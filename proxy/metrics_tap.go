package proxy

import "github.com/prometheus/client_golang/prometheus"

// tapMetrics count the copies that are made for other programs.
type tapMetrics struct {
	written *prometheus.CounterVec
	leftOut *prometheus.CounterVec
	waiting prometheus.Gauge
	held    prometheus.Gauge
}

func newTapMetrics(reg prometheus.Registerer) tapMetrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "slipstream", Name: name, Help: help}, labels)
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "slipstream", Name: name, Help: help})
	}
	m := tapMetrics{
		written: counter("tap_copies_total", "Messages that were copied into the tap's directory.", "door"),
		leftOut: counter("tap_left_out_total", "Messages that were not copied, by why.", "door", "why"),
		waiting: gauge("tap_waiting", "Copies that wait to be written."),
		held:    gauge("tap_octets", "What the files in the tap's directory take, as last counted."),
	}
	reg.MustRegister(m.written, m.leftOut, m.waiting, m.held)
	return m
}

// prepare makes a door's counters appear with the value 0.
func (m *tapMetrics) prepare(door string) {
	m.written.WithLabelValues(door)
	for _, why := range tapReasons() {
		m.leftOut.WithLabelValues(door, why)
	}
}

package proxy

import (
	"github.com/prometheus/client_golang/prometheus"

	"slipstream/smtpwire"
)

// onceMetrics count what the memory of outcomes is needed for.
type onceMetrics struct {
	differ   *prometheus.CounterVec
	vanish   *prometheus.CounterVec
	recalled *prometheus.CounterVec
}

func newOnceMetrics(reg prometheus.Registerer) onceMetrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "slipstream", Name: name, Help: help}, labels)
		reg.MustRegister(c)
		return c
	}
	return onceMetrics{
		differ: counter("outcomes_differed_total", "Messages whose recipients had different outcomes, so that the client is to come again.", "door"),
		vanish: counter("clients_vanished_total", "Delivered messages whose client left before it can have heard so.", "door"),
		recalled: counter("recipients_recalled_total",
			"Recipients for whom nothing was sent, since an earlier attempt had settled it, by how.", "door", "outcome"),
	}
}

func (m *onceMetrics) prepare(door string) {
	m.differ.WithLabelValues(door)
	m.vanish.WithLabelValues(door)
	m.recalled.WithLabelValues(door, "delivered")
	m.recalled.WithLabelValues(door, "refused")
}

func (m *Metrics) differed(door string) { m.once.differ.WithLabelValues(door).Inc() }
func (m *Metrics) vanished(door string) { m.once.vanish.WithLabelValues(door).Inc() }

func (m *Metrics) recalled(door string, r smtpwire.Reply) {
	outcome := "refused"
	if r.Class() == 2 {
		outcome = "delivered"
	}
	m.once.recalled.WithLabelValues(door, outcome).Inc()
}

package proxy

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// What can happen to the health of a destination.
const (
	destinationPaused  = "paused"  // too many failures in a row
	destinationStill   = "still"   // the one attempt behind a pause failed too
	destinationBack    = "back"    // it was reached
	destinationEvicted = "evicted" // there are too many that fail: it was forgotten
)

// destinationMetrics are of destinations that cannot be reached, and of those who
// wait for a connection.
type destinationMetrics struct {
	now      *prometheus.GaugeVec
	changes  *prometheus.CounterVec
	refusals *prometheus.CounterVec
	waited   *prometheus.CounterVec
	places   atomic.Pointer[hopPlaces] // those that are counted; nil: none
}

func newDestinationMetrics(reg prometheus.Registerer) *destinationMetrics {
	m := &destinationMetrics{
		now: prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "slipstream", Name: "destinations_paused",
			Help: "Destinations that could not be reached and are let alone now."}, []string{"door"}),
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "slipstream", Name: "destination_changes_total",
			Help: "Changes in whether destinations are let alone."}, []string{"door", "what"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "slipstream", Name: "destination_refusals_total",
			Help: "Times that mail was put off at once, since its destination is let alone."}, []string{"door"}),
	}
	m.waited = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "slipstream", Name: "hop_connections_waited_total",
		Help: "Times that a connection to a next hop was to be opened, and it was not its turn."}, []string{"door"})
	gauge := func(name, help string, of func(*hopPlaces) int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "slipstream", Name: name, Help: help}, func() float64 {
			p := m.places.Load()
			if p == nil {
				return 0
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			return float64(of(p))
		})
	}
	reg.MustRegister(m.now, m.changes, m.refusals, m.waited,
		gauge("hop_connections", "Connections to next hops that are open now, idle ones included.",
			func(p *hopPlaces) int { return p.open }),
		gauge("hop_connections_max", "How many of them there may be.", func(p *hopPlaces) int { return p.max }),
		gauge("hop_connections_waiting", "Who waits for one now.", func(p *hopPlaces) int { return p.queued }))
	return m
}

// prepare makes a door's metrics appear with the value 0.
func (m *destinationMetrics) prepare(door string) {
	m.now.WithLabelValues(door)
	m.refusals.WithLabelValues(door)
	m.waited.WithLabelValues(door)
	for _, what := range []string{destinationPaused, destinationStill, destinationBack, destinationEvicted} {
		m.changes.WithLabelValues(door, what)
	}
}

func (m *destinationMetrics) change(door, what string) { m.changes.WithLabelValues(door, what).Inc() }
func (m *destinationMetrics) refuse(door string)       { m.refusals.WithLabelValues(door).Inc() }
func (m *destinationMetrics) wait(door string)         { m.waited.WithLabelValues(door).Inc() }
func (m *destinationMetrics) paused(door string, by int) {
	m.now.WithLabelValues(door).Add(float64(by))
}

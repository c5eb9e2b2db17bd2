package proxy

import "github.com/prometheus/client_golang/prometheus"

// What can happen to a connection that is kept, or to one who would like one.
const (
	poolHit     = "hit"     // a connection was there
	poolMiss    = "miss"    // none was there
	poolExpired = "expired" // ended by us: idle for too long, or too old
	poolDied    = "died"    // the hop had closed it, or said something on it
	poolEvicted = "evicted" // ended by us: another one needed its place
	poolWaited  = "waited"  // there were as many connections to the hop as there may be
)

// poolMetrics count what becomes of connections that are kept.
type poolMetrics struct {
	idle  *prometheus.GaugeVec
	total *prometheus.CounterVec
}

func newPoolMetrics(reg prometheus.Registerer) poolMetrics {
	m := poolMetrics{
		idle: prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "slipstream", Name: "pool_idle",
			Help: "Idle connections to next hops that are kept now."}, []string{"door"}),
		total: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "slipstream", Name: "pool_total",
			Help: "What became of connections that are kept, and of those who wanted one."}, []string{"door", "what"}),
	}
	reg.MustRegister(m.idle, m.total)
	return m
}

// prepare makes a door's metrics appear with the value 0.
func (m poolMetrics) prepare(door string) {
	m.idle.WithLabelValues(door)
	for _, what := range []string{poolHit, poolMiss, poolExpired, poolDied, poolEvicted, poolWaited} {
		m.total.WithLabelValues(door, what)
	}
}

func (m poolMetrics) count(door, what string) { m.total.WithLabelValues(door, what).Inc() }

// kept counts the idle connections up or down.
func (m poolMetrics) kept(door string, by int) { m.idle.WithLabelValues(door).Add(float64(by)) }

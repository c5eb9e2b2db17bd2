package proxy

import (
	"strconv"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"slipstream/smtpwire"
	"slipstream/tlsstore"
)

// Metrics are the service's counters. Labels are bounded: doors, words of ours,
// classes of codes; never a name or an address from the network.
type Metrics struct {
	connections  *prometheus.CounterVec
	open         *prometheus.GaugeVec
	turnedAway   *prometheus.CounterVec
	transactions *prometheus.CounterVec
	seconds      *prometheus.HistogramVec
	octets       *prometheus.CounterVec
	trips        *prometheus.CounterVec
	refusals     *prometheus.CounterVec
	smuggling    *prometheus.CounterVec
	handshakes   *prometheus.CounterVec
	inDoubt      *prometheus.CounterVec
	fallbacks    *prometheus.CounterVec
	panics       *prometheus.CounterVec
	sessions     *prometheus.CounterVec
	pool         poolMetrics
	auth         authMetrics
	tap          tapMetrics
	relay        relayMetrics
	once         onceMetrics
	destinations *destinationMetrics
	saved        *prometheus.CounterVec
	control      *prometheus.HistogramVec
	controlTrips *prometheus.CounterVec
	guesses      *prometheus.CounterVec
	shy          atomic.Pointer[tlsstore.Shy] // whose clients are counted; nil: there are none
}

// NewMetrics registers the counters.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "slipstream", Name: name, Help: help}, labels)
		reg.MustRegister(c)
		return c
	}
	m := &Metrics{
		pool:         newPoolMetrics(reg),
		auth:         newAuthMetrics(reg),
		tap:          newTapMetrics(reg),
		relay:        newRelayMetrics(reg),
		once:         newOnceMetrics(reg),
		destinations: newDestinationMetrics(reg),
		connections:  counter("connections_total", "Clients that came in.", "door"),
		turnedAway:   counter("turned_away_total", "Clients that were turned away at the door.", "door", "code"),
		transactions: counter("transactions_total", "Transactions by how they ended.", "door", "status"),
		octets:       counter("message_octets_total", "Octets of message text that were sent on.", "door"),
		saved:        counter("trips_saved_total", "Round trips with next hops that were not spent, by what spared them.", "door", "how"),
		guesses: counter("guesses_wrong_total",
			"Connections to next hops that were spoken to early and were not as they had been.", "door"),
		controlTrips: counter("control_trips_total", "Round trips spent with next hops by transactions of the control share.", "door"),
		trips:        counter("trips_total", "Round trips spent with next hops.", "door"),
		refusals:     counter("commands_refused_total", "Commands that were refused as out of order or malformed.", "door", "code"),
		smuggling:    counter("smuggling_blocked_total", "Messages refused for a bare CR, a bare LF or a NUL.", "door", "what"),
		handshakes:   counter("tls_handshakes_failed_total", "TLS handshakes with clients that failed.", "door"),
		inDoubt:      counter("in_doubt_total", "Messages sent whole whose final reply never came.", "door"),
		fallbacks:    counter("tls_fallbacks_total", "Connections to next hops that went on in clear because their TLS failed.", "door"),
		sessions:     counter("tls_sessions_total", "What TLS resumption did, by connection.", "door", "leg", "what"),
		panics:       counter("panics_total", "Sessions that a programming error of ours ended.", "door"),
		open: prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "slipstream", Name: "connections",
			Help: "Clients that are in now."}, []string{"door"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "slipstream", Name: "transaction_seconds",
			Help:    "Time from MAIL to the final reply.",
			Buckets: transactionSeconds()}, []string{"door", "status"}),
	}
	m.control = prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "slipstream", Name: "control_transaction_seconds",
		Help:    "Time from MAIL to the final reply of transactions of the control share.",
		Buckets: transactionSeconds()}, []string{"door", "status"})
	withheld := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "slipstream", Name: "tickets_withheld",
		Help: "Networks and EHLO domains whose clients are given no session tickets, by what was learned."},
		func() float64 {
			if shy := m.shy.Load(); shy != nil {
				return float64(shy.Len())
			}
			return 0
		})
	reg.MustRegister(m.open, m.seconds, m.control, withheld)
	return m
}

func transactionSeconds() []float64 {
	return []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300}
}

// prepare makes a door's counters appear with the value 0.
func (m *Metrics) prepare(door string) {
	for _, c := range []*prometheus.CounterVec{m.connections, m.octets, m.trips, m.handshakes, m.inDoubt, m.fallbacks, m.panics, m.controlTrips, m.guesses} {
		c.WithLabelValues(door)
	}
	m.open.WithLabelValues(door)
	m.pool.prepare(door)
	m.tap.prepare(door)
	m.once.prepare(door)
	m.destinations.prepare(door)
	for _, status := range []string{"sent", "deferred", "bounced", "mixed", "refused", "aborted"} {
		m.transactions.WithLabelValues(door, status)
	}
	for _, s := range everySaving() {
		m.saved.WithLabelValues(door, s.how)
	}
	for _, leg := range []string{legClient, legHop} {
		for _, w := range resumptionWords() {
			m.sessions.WithLabelValues(door, leg, w.word)
		}
	}
	for _, what := range []smtpwire.Reason{smtpwire.BareCR, smtpwire.BareLF, smtpwire.NUL} {
		m.smuggling.WithLabelValues(door, what.String())
	}
}

func (m *Metrics) misled(door string) { m.guesses.WithLabelValues(door).Inc() }

func (m *Metrics) fellBack(door string) { m.fallbacks.WithLabelValues(door).Inc() }

// resumed counts what resumption did on one connection.
func (m *Metrics) resumed(door, leg string, bits int) {
	for _, w := range resumptionWords() {
		if bits&w.bit != 0 {
			m.sessions.WithLabelValues(door, leg, w.word).Inc()
		}
	}
}

func (m *Metrics) panicked(door string) { m.panics.WithLabelValues(door).Inc() }

func (m *Metrics) entered(door string) {
	m.connections.WithLabelValues(door).Inc()
	m.open.WithLabelValues(door).Inc()
}

func (m *Metrics) left(door string) { m.open.WithLabelValues(door).Dec() }

func (m *Metrics) away(door string, r smtpwire.Reply) {
	m.turnedAway.WithLabelValues(door, strconv.Itoa(r.Code)).Inc()
}

func (m *Metrics) refused(door string, r smtpwire.Reply) {
	m.refusals.WithLabelValues(door, strconv.Itoa(r.Code)).Inc()
}

func (m *Metrics) smuggled(door string, e *smtpwire.BodyError) {
	m.smuggling.WithLabelValues(door, e.Reason.String()).Inc()
}

func (m *Metrics) handshakeFailed(door string) { m.handshakes.WithLabelValues(door).Inc() }

func (m *Metrics) transaction(sum Summary) {
	m.transactions.WithLabelValues(sum.Door, sum.Status).Inc()
	m.trips.WithLabelValues(sum.Door).Add(float64(sum.Trips))
	for _, s := range sum.Saved.list() {
		m.saved.WithLabelValues(sum.Door, s.how).Add(float64(s.trips))
	}
	if sum.Control {
		m.control.WithLabelValues(sum.Door, sum.Status).Observe(sum.Took.Seconds())
		m.controlTrips.WithLabelValues(sum.Door).Add(float64(sum.Trips))
	} else {
		m.seconds.WithLabelValues(sum.Door, sum.Status).Observe(sum.Took.Seconds())
	}
	if sum.Status == "sent" || sum.Status == "mixed" {
		m.octets.WithLabelValues(sum.Door).Add(float64(sum.Octets))
	}
	if sum.InDoubt {
		m.inDoubt.WithLabelValues(sum.Door).Inc()
	}
}

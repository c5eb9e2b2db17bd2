package proxy

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"slipstream/smtpwire"
)

// relayMetrics count what is passed to backends besides mail.
type relayMetrics struct {
	logins   *prometheus.CounterVec
	commands *prometheus.CounterVec
}

func newRelayMetrics(reg prometheus.Registerer) relayMetrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "slipstream", Name: name, Help: help}, labels)
		reg.MustRegister(c)
		return c
	}
	return relayMetrics{
		logins: counter("logins_total", "Logins of clients that were passed to the backend, by what became of them.",
			"door", "result"),
		commands: counter("commands_passed_on_total", "VRFY, EXPN and ETRN that were passed to the backend.", "door",
			"command", "class"),
	}
}

func (m *relayMetrics) prepare(door string) {
	for _, result := range []string{loginAccepted, loginRefused, loginFailed, loginCancelled} {
		m.logins.WithLabelValues(door, result)
	}
}

func (m *Metrics) login(door, result string) { m.relay.logins.WithLabelValues(door, result).Inc() }

func (m *Metrics) passedOn(door string, verb smtpwire.Verb, r smtpwire.Reply) {
	m.relay.commands.WithLabelValues(door, string(verb), strconv.Itoa(r.Class())+"xx").Inc()
}

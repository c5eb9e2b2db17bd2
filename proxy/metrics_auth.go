package proxy

import (
	"context"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"slipstream/auth"
	"slipstream/proxy/resolver"
)

// authMetrics count what authentication finds.
type authMetrics struct {
	results  *prometheus.CounterVec
	verdicts *prometheus.CounterVec
	late     *prometheus.CounterVec
	wait     *prometheus.HistogramVec
	dns      *prometheus.HistogramVec
	reports  *prometheus.CounterVec
}

func newAuthMetrics(reg prometheus.Registerer) authMetrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "slipstream", Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(
			prometheus.HistogramOpts{Namespace: "slipstream", Name: name, Help: help, Buckets: buckets}, labels)
	}
	m := authMetrics{
		results: counter("auth_results_total", "What authentication methods found, one for each result.", "door", "method", "result"),
		verdicts: counter("auth_verdicts_total", "Judged messages by DMARC status and what was done about it.",
			"door", "status", "action"),
		late: counter("auth_late_total", "Messages for which the DNS did not answer within the deadline.", "door"),
		wait: histogram("auth_wait_seconds", "Time that messages waited for their verdict once they were here.",
			[]float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}, "door"),
		dns: histogram("auth_dns_seconds", "Time that look-ups for authentication took.",
			[]float64{.0001, .001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}, "type"),
	}
	m.reports = counter("reports_total", "What became of reports on mail, by their kind.", "kind", "what")
	reg.MustRegister(m.results, m.verdicts, m.late, m.wait, m.dns, m.reports)
	return m
}

func (m *Metrics) judged(door string, r *auth.Report, waited time.Duration) {
	for _, result := range r.Results.List {
		m.auth.results.WithLabelValues(door, result.Method, result.Value).Inc()
	}
	m.auth.verdicts.WithLabelValues(door, string(r.DMARC.Status), string(r.Decision.Action)).Inc()
	m.auth.wait.WithLabelValues(door).Observe(waited.Seconds())
	if r.Late {
		m.auth.late.WithLabelValues(door).Inc()
	}
}

// reported counts what became of a report.
func (m *Metrics) reported(kind, what string) { m.auth.reports.WithLabelValues(kind, what).Inc() }

// timed measures look-ups; without metrics nobody does.
func (m *Metrics) timed(dns AuthDNS) AuthDNS {
	if m == nil {
		return dns
	}
	t := timedDNS{dns, m.auth.dns}
	if r, ok := dns.(remembering); ok {
		return rememberingDNS{t, r}
	}
	return t
}

type timedDNS struct {
	dns     AuthDNS
	seconds *prometheus.HistogramVec
}

type rememberingDNS struct {
	timedDNS
	remembering
}

func (t timedDNS) took(kind string, start time.Time) {
	t.seconds.WithLabelValues(kind).Observe(time.Since(start).Seconds())
}

func (t timedDNS) LookupTXT(ctx context.Context, name string) (resolver.Result[string], error) {
	defer t.took("TXT", time.Now())
	return t.dns.LookupTXT(ctx, name)
}

func (t timedDNS) LookupMX(ctx context.Context, name string) (resolver.Result[resolver.MX], error) {
	defer t.took("MX", time.Now())
	return t.dns.LookupMX(ctx, name)
}

func (t timedDNS) LookupA(ctx context.Context, name string) (resolver.Result[netip.Addr], error) {
	defer t.took("A", time.Now())
	return t.dns.LookupA(ctx, name)
}

func (t timedDNS) LookupAAAA(ctx context.Context, name string) (resolver.Result[netip.Addr], error) {
	defer t.took("AAAA", time.Now())
	return t.dns.LookupAAAA(ctx, name)
}

func (t timedDNS) LookupPTR(ctx context.Context, addr netip.Addr) (resolver.Result[string], error) {
	defer t.took("PTR", time.Now())
	return t.dns.LookupPTR(ctx, addr)
}

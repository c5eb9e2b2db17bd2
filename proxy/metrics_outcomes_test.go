package proxy

import (
	"fmt"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"slipstream/proxy/once"
	"slipstream/smtpwire"
	"slipstream/tlsstore"
)

// What is remembered of recipients is told, and whether more can be.
func TestOutcomeMetrics(t *testing.T) {
	m, err := once.Open(tlsstore.Memory(), once.Options{Max: 4})
	if err != nil {
		t.Fatal(err)
	}
	r := prometheus.NewRegistry()
	r.MustRegister(NewOutcomeMetrics(m))
	want := func(wanted ...string) {
		t.Helper()
		all, err := r.Gather()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range all {
			for _, m := range f.Metric {
				line := f.GetName()
				for _, l := range m.Label {
					line += " " + l.GetValue()
				}
				got = append(got, fmt.Sprint(line, " ", m.GetGauge().GetValue()+m.GetCounter().GetValue()))
			}
		}
		for _, line := range wanted {
			if !slices.Contains(got, "slipstream_once_"+line) {
				t.Errorf("no %q in %q", line, got)
			}
		}
	}
	want("ready 1", "outcomes delivered 0", "outcomes deferred 0", "outcomes refused 0", "unsaved 0",
		"writes_total written 0", "writes_total failed 0", "expired_total 0", "broken_total 0")
	var outcomes []once.Outcome
	for i, code := range []int{250, 250, 451, 550} {
		outcomes = append(outcomes, once.Outcome{
			Key: once.Key{Recipient: fmt.Sprint(i, "@b.example")}, Reply: smtpwire.NewReply(code, "", "so"),
		})
	}
	if err := m.Remember(outcomes); err != nil {
		t.Fatal(err)
	}
	want("ready 0", "outcomes delivered 2", "outcomes deferred 1", "outcomes refused 1", "writes_total written 1")
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	want("ready 0")
}

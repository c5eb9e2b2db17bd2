package proxy

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// What the store takes on disk is told once it is known.
func TestMemoryMetricsDisk(t *testing.T) {
	var size int64
	r := prometheus.NewRegistry()
	r.MustRegister(NewMemoryMetrics(nil, nil).WithDisk(func() int64 { return size }))
	for _, size = range []int64{0, 5 << 30} {
		all, err := r.Gather()
		if err != nil {
			t.Fatal(err)
		}
		if size == 0 {
			if len(all) > 0 {
				t.Errorf("%v without a size", all)
			}
			continue
		}
		if len(all) != 1 || all[0].GetName() != "slipstream_store_disk_octets" ||
			all[0].Metric[0].GetGauge().GetValue() != float64(size) {
			t.Errorf("%v for %d octets", all, size)
		}
	}
}

// Whether the store is on disk is told where there is one.
func TestMemoryMetricsStored(t *testing.T) {
	stored := false
	r := prometheus.NewRegistry()
	r.MustRegister(NewMemoryMetrics(nil, nil).WithStored(func() bool { return stored }))
	for want, is := range []bool{false, true} {
		stored = is
		all, err := r.Gather()
		if err != nil || len(all) != 1 || all[0].GetName() != "slipstream_store_on_disk" ||
			all[0].Metric[0].GetGauge().GetValue() != float64(want) {
			t.Errorf("stored %v: %v, %v", is, all, err)
		}
	}
}

package wan

import (
	"math"
	"testing"
	"time"
)

func TestShapeString(t *testing.T) {
	for _, v := range []struct {
		shape Shape
		want  string
	}{
		{Shape{}, "0s round trip"},
		{Shape{Delay: 50 * time.Millisecond, Seed: 3}, "100ms round trip"},
		{
			Shape{Delay: 5 * time.Millisecond, Jitter: 2 * time.Millisecond, Loss: 0.015, Rate: 2.5e6},
			"10ms round trip, jitter ±2ms each way, 1.5% loss, 2.5 Mbit/s",
		},
		{Shape{Rate: 2e9}, "0s round trip, 2 Gbit/s"},
		{Shape{Rate: 64000}, "0s round trip, 64 kbit/s"},
		{Shape{Rate: 300}, "0s round trip, 300 bit/s"},
	} {
		if got := v.shape.String(); got != v.want {
			t.Errorf("%+v: %q, want %q", v.shape, got, v.want)
		}
	}
}

func TestConfigCheck(t *testing.T) {
	for name, c := range map[string]Config{
		"negative delay":  {Shape: Shape{Delay: -1}},
		"negative jitter": {Shape: Shape{Jitter: -1}},
		"negative rate":   {Shape: Shape{Rate: -1}},
		"negative queue":  {Shape: Shape{Queue: -1}},
		"negative loss":   {Shape: Shape{Loss: -0.1}},
		"too much loss":   {Shape: Shape{Loss: 1.1}},
		"no loss at all":  {Shape: Shape{Loss: math.NaN()}},
		"small MTU":       {MTU: 576},
		"big MTU":         {MTU: 70000},
		"negative snap":   {Snap: -1},
		"machine setting": {Sysctls: map[string]string{"kernel.panic": "1"}},
	} {
		if _, err := Open(t.Context(), c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// arrivals sends n packets of 1000 octets, one each step, and returns when they arrive; -1: not at all.
func arrivals(h *shaper, n int, from, step time.Duration) []time.Duration {
	due := make([]time.Duration, n)
	for i := range due {
		var f fate
		if due[i], f = h.take(from+time.Duration(i)*step, 1000); f != carried {
			due[i] = -1
		}
	}
	return due
}

func TestDelay(t *testing.T) {
	h := newShaper(Shape{Delay: 50 * time.Millisecond}, near)
	for i, due := range arrivals(&h, 100, 0, time.Millisecond) {
		if want := time.Duration(i)*time.Millisecond + 50*time.Millisecond; due != want {
			t.Fatalf("packet %d arrives at %v, want %v", i, due, want)
		}
	}
}

func TestJitter(t *testing.T) {
	const delay, jitter, step = 50 * time.Millisecond, 10 * time.Millisecond, time.Millisecond
	h := newShaper(Shape{Delay: delay, Jitter: jitter, Seed: 1}, near)
	least, most, before := time.Hour, time.Duration(0), time.Duration(0)
	for i, due := range arrivals(&h, 10000, 0, step) {
		if due < before {
			t.Fatalf("packet %d arrives at %v, overtaking that of %v", i, due, before)
		}
		before = due
		took := due - time.Duration(i)*step
		least, most = min(least, took), max(most, took)
	}
	if least < delay-jitter || most > delay+jitter {
		t.Errorf("between %v and %v", least, most)
	}
	// Ten packets are under way within the jitter, so that few arrive early: each waits for the slowest before it.
	if most < delay+jitter*9/10 || least > delay-jitter/10 {
		t.Errorf("only between %v and %v", least, most)
	}
	// Where packets are farther apart than the jitter, all of its width is seen.
	h = newShaper(Shape{Delay: delay, Jitter: jitter, Seed: 1}, near)
	least = time.Hour
	for i, due := range arrivals(&h, 1000, 0, time.Second) {
		least = min(least, due-time.Duration(i)*time.Second)
	}
	if least < delay-jitter || least > delay-jitter*9/10 {
		t.Errorf("from %v", least)
	}
}

// A jitter greater than the delay does not deliver into the past.
func TestJitterBeyondDelay(t *testing.T) {
	h := newShaper(Shape{Delay: time.Millisecond, Jitter: time.Second}, near)
	for i, due := range arrivals(&h, 1000, 0, 5*time.Second) {
		if sent := time.Duration(i) * 5 * time.Second; due < sent {
			t.Fatalf("sent at %v, arrives at %v", sent, due)
		}
	}
}

func TestLoss(t *testing.T) {
	const n, share = 100000, 0.03
	count := func(seed uint64, way int) (lost int, first []int) {
		h := newShaper(Shape{Loss: share, Seed: seed}, way)
		for i, due := range arrivals(&h, n, 0, time.Millisecond) {
			if due < 0 {
				lost++
				first = append(first, i)
			}
		}
		return lost, first[:20]
	}
	lost, first := count(1, near)
	// Six standard deviations of a binomial distribution.
	if spread := 6 * math.Sqrt(n*share*(1-share)); math.Abs(float64(lost)-n*share) > spread {
		t.Errorf("%d of %d lost, want %.0f ± %.0f", lost, n, n*share, spread)
	}
	same := func(a, b []int) bool {
		for i := range a {
			if a[i] != b[i] {
				return false
			}
		}
		return true
	}
	if _, again := count(1, near); !same(first, again) {
		t.Error("the same seed lost other packets")
	}
	if _, other := count(2, near); same(first, other) {
		t.Error("another seed lost the same packets")
	}
	if _, other := count(1, far); same(first, other) {
		t.Error("both directions lost the same packets")
	}
}

// The chances of a packet depend on its place alone: the same are lost with a rate that drops some as without.
func TestLossIsOfThePlace(t *testing.T) {
	free := newShaper(Shape{Loss: 0.5, Seed: 1}, near)
	tight := newShaper(Shape{Loss: 0.5, Seed: 1, Rate: 1e6, Queue: 20 * time.Millisecond, Jitter: time.Millisecond}, near)
	dropped := 0
	for i := range 1000 {
		now := time.Duration(i) * time.Millisecond // 8 Mbit/s
		_, a := free.take(now, 1000)
		_, b := tight.take(now, 1000)
		if b == 2 {
			dropped++
		} else if a != b {
			t.Fatalf("packet %d: %v and %v", i, a, b)
		}
	}
	if dropped == 0 {
		t.Error("nothing was dropped")
	}
}

func TestRate(t *testing.T) {
	// 1000 octets at 8 Mbit/s take a millisecond.
	const delay, each = 20 * time.Millisecond, time.Millisecond
	h := newShaper(Shape{Delay: delay, Rate: 8e6, Queue: 10 * time.Millisecond}, near)
	due := arrivals(&h, 20, 0, 0)
	for i, d := range due {
		want := delay + time.Duration(i+1)*each
		if i > 10 { // would have waited more than 10 ms
			want = -1
		}
		if d != want {
			t.Errorf("packet %d: %v, want %v", i, d, want)
		}
	}
	// The queue has emptied meanwhile.
	if d, f := h.take(time.Second, 1000); f != carried || d != time.Second+delay+each {
		t.Errorf("later: %v, %v", d, f)
	}
	if h = newShaper(Shape{Rate: 8e6}, near); arrivals(&h, 201, 0, 0)[200] < 0 {
		t.Error("the default queue holds less than it should")
	}
	if arrivals(&h, 1, 0, 0)[0] >= 0 {
		t.Error("the default queue holds more than it should")
	}
}

// A packet that is lost has used the rate.
func TestLostPacketsTakeTheirTime(t *testing.T) {
	h := newShaper(Shape{Loss: 1, Rate: 8e6}, near)
	arrivals(&h, 10, 0, 0)
	h.reshape(Shape{Rate: 8e6}, near)
	if due, _ := h.take(0, 1000); due != 11*time.Millisecond {
		t.Errorf("arrives at %v", due)
	}
}

// A new shape neither hurries nor overtakes what is under way.
func TestReshape(t *testing.T) {
	h := newShaper(Shape{Delay: time.Second}, near)
	before, _ := h.take(0, 1000)
	h.reshape(Shape{}, near)
	if due, _ := h.take(time.Millisecond, 1000); due != before {
		t.Errorf("sent behind one that arrives at %v, arrives at %v", before, due)
	}
	if due, _ := h.take(2*time.Second, 1000); due != 2*time.Second {
		t.Errorf("sent at 2s, arrives at %v", due)
	}
}

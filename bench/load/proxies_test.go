package load

import (
	"runtime"
	"testing"
	"time"
)

// The real proxies pass everything on, in clear and with STARTTLS.
func TestRunBesideProxies(t *testing.T) {
	for _, tls := range []bool{false, true} {
		o := Options{
			Sessions: []int{4}, PerConnection: []int{1, 5}, Duration: 300 * time.Millisecond, Rounds: 1, Idle: 20, TLS: tls,
		}
		r, err := Run(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range r.Absent {
			if a.Way == HAProxy || a.Way == Nginx {
				t.Logf("not tried: %s: %s", a.Way.Title(), a.Reason)
			}
		}
		if len(r.Points) == 2 {
			t.Skip("neither proxy is here")
		}
		for _, p := range r.Points {
			if charged := p.Turns[0].CPU > 0 && p.Peak > 0; charged != (p.Way != Direct && runtime.GOOS == "linux") {
				t.Errorf("%s: %+v", p.Way.Title(), p.Turns)
			}
		}
	}
}

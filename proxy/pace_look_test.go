package proxy

import (
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// While the client has a reply before it, it is looked at less and less often; the
// next reply begins anew.
func TestPauseLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer ours.Close()
		defer theirs.Close()
		s := &session{wire: newWire(ours, false)}
		for range 2 {
			began := time.Now()
			var at []int64
			s.pause(pacing{gap: autoPace, end: began.Add(maxPacing)}, func(*wire) (int64, bool) {
				at = append(at, time.Since(began).Milliseconds())
				if time.Since(began) >= 200*time.Millisecond {
					return 0, true
				}
				return 9, true
			})
			if got := fmt.Sprint(at); got != "[0 1 3 7 15 31 63 113 163 213]" {
				t.Errorf("looked after %s ms", got)
			}
		}
		began, looks := time.Now(), 0
		s.pause(pacing{gap: autoPace, end: began.Add(maxPacing)}, func(*wire) (int64, bool) {
			looks++
			return 9, true
		})
		if took := time.Since(began); took != maxPacing || looks > int(maxPacing/maxUnreadLook)+7 {
			t.Errorf("who never reads was looked at %d times in %v", looks, took)
		}
	})
}

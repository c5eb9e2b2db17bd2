package failure

import (
	"maps"
	"time"
)

// maxDestinations is how many domains are kept account of. Where there are more, the new ones hear nothing until an old
// one has its whole allowance back, so that nobody is forgotten who was told a lot.
const maxDestinations = 1024

// rates bound how many reports go out. They belong to one goroutine.
type rates struct {
	perDestination int
	total          bucket
	destinations   map[string]*bucket
}

// spare tells whether a report may go to a domain now.
func (r *rates) spare(domain string, now time.Time) bool {
	if !r.total.has(now) {
		return false
	}
	if b := r.destinations[domain]; b != nil {
		return b.has(now)
	}
	return r.room(now)
}

// take accounts for a report to a domain, if it may go.
func (r *rates) take(domain string, now time.Time) bool {
	if !r.spare(domain, now) {
		return false
	}
	b := r.destinations[domain]
	if b == nil {
		if r.destinations == nil {
			r.destinations = make(map[string]*bucket)
		}
		b = &bucket{perHour: r.perDestination}
		r.destinations[domain] = b
	}
	b.take(now)
	r.total.take(now)
	return true
}

// room tells whether another domain can be kept account of. Those that have all they may have need none.
func (r *rates) room(now time.Time) bool {
	if len(r.destinations) >= maxDestinations {
		maps.DeleteFunc(r.destinations, func(_ string, b *bucket) bool { return b.full(now) })
	}
	return len(r.destinations) < maxDestinations
}

// A bucket holds what may go at once: a sixth of what may go in an hour. It is full at first.
type bucket struct {
	perHour int
	used    float64 // of what it holds, when it was looked at last
	at      time.Time
}

func (b *bucket) size() float64 { return float64(max(b.perHour/6, 1)) }

// level brings the account up to date.
func (b *bucket) level(now time.Time) float64 {
	if passed := now.Sub(b.at); passed > 0 {
		b.used = max(0, b.used-passed.Hours()*float64(b.perHour))
		b.at = now
	}
	return b.size() - b.used
}

// slack is for what is lost when fractions are added up.
const slack = 1e-9

func (b *bucket) has(now time.Time) bool  { return b.level(now) >= 1-slack }
func (b *bucket) full(now time.Time) bool { return b.level(now) >= b.size()-slack }

func (b *bucket) take(now time.Time) {
	b.level(now)
	b.used++
}

package load

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestOptionsCheck(t *testing.T) {
	if err := (Options{}).Check(); err != nil {
		t.Errorf("the zero value: %v", err)
	}
	for want, o := range map[string]Options{
		"sessions: 0 is not within 1 and 1000":               {Sessions: []int{1, 0}},
		"sessions: 1001 is not":                              {Sessions: []int{1001}},
		"messages per connection: -1 is not":                 {PerConnection: []int{-1}},
		"rounds: -1 is not within 1 and 100":                 {Rounds: -1},
		"size: 16777217 is not within 1 and 16777216":        {Size: MaxSize + 1},
		"duration: 29ms is not within 30ms (10ms for each":   {Duration: 29 * time.Millisecond},
		"duration: 1h0m0s is not within":                     {Duration: time.Hour},
		"rate: -1 is not within 0 and 100000":                {Rate: -1},
		"rate: NaN is not":                                   {Rate: math.NaN()},
		`clock: "cuckoo" is neither "poisson" nor "constant`: {Clock: "cuckoo"},
		"points: 202 is not within 1 and 200":                {Sessions: upTo(201)},
	} {
		if err := o.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}

func upTo(n int) (all []int) {
	for i := range n {
		all = append(all, i+1)
	}
	return all
}

// pairs lists points without words.
func pairs(spots []spot) (all [][2]int) {
	for _, p := range spots {
		all = append(all, [2]int{p.sessions, p.perConn})
	}
	return all
}

func TestPoints(t *testing.T) {
	for _, test := range []struct {
		o    Options
		want string
	}{
		{Options{}, "[[1 1] [5 1] [20 1] [50 1] [100 1] [20 100]]"},
		{Options{Rate: 5}, "[[100 1] [100 100]]"},
		{Options{Rate: 5, Sessions: []int{7}}, "[[7 1] [7 100]]"},
		{Options{Sessions: []int{3, 3, 4}, PerConnection: []int{9, 9}}, "[[3 9] [4 9]]"},
	} {
		if got := fmt.Sprint(pairs(test.o.withDefaults().points())); got != test.want {
			t.Errorf("%+v: %s", test.o, got)
		}
	}
}

// The whole is to take less than two minutes unless more is asked for.
func TestDefaultTakesLessThanTwoMinutes(t *testing.T) {
	o := Options{}.withDefaults()
	turns := o.Rounds * len(ways()) * len(o.points())
	if took := time.Duration(turns) * (o.warmUp() + o.window()); took > 105*time.Second {
		t.Errorf("%d turns take %v, and starting comes on top", turns, took)
	}
}

func TestLetters(t *testing.T) {
	for _, size := range []int{1, 200, 4 << 10, 1 << 20} {
		l := newLetters("inbound-3-", size)
		first, mail := l.write()
		second, other := l.write()
		if first != 1 || second != 2 || !strings.HasPrefix(string(other.Body), "X-Refpeer-ID: inbound-3-2\r\n") {
			t.Errorf("%d, %d: %.40q", first, second, other.Body)
		}
		if n := len(mail.Body); n > size+40 && size > 200 || n < size-40 {
			t.Errorf("a message of %d octets has %d", size, n)
		}
		if lines := strings.Split(string(mail.Body), "\r\n"); slices.ContainsFunc(lines, func(s string) bool {
			return len(s) > 998 || strings.ContainsAny(s, "\r\n")
		}) {
			t.Error("a line is too long, or ends in a strange way")
		}
	}
}

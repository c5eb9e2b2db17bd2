package proxy

import (
	"fmt"
	"strings"
)

// Savings are the trips that a transaction did not cost because of something we
// knew, kept or dared, by what that was.
type savings struct {
	early    int // the greeting and the answer to EHLO were not waited for
	warm     int // the connection was there already
	late     int // the client heard of its recipient with its text, so that both left in one flight
	bdat     int // the client's own BDAT left behind its envelope
	resumed  int // a TLS 1.2 session was resumed
	fastopen int // the first flight rode in the SYN
}

// A saving is one kind of savings, by name.
type saving struct {
	how   string
	trips int
}

func (s savings) all() []saving {
	return []saving{
		{"early", s.early}, {"warm", s.warm}, {"late", s.late}, {"bdat", s.bdat}, {"resumed", s.resumed}, {"fastopen", s.fastopen},
	}
}

// everySaving names all kinds.
func everySaving() []saving { return savings{}.all() }

// list names what there is.
func (s savings) list() []saving {
	var some []saving
	for _, one := range s.all() {
		if one.trips > 0 {
			some = append(some, one)
		}
	}
	return some
}

func (s *savings) add(o savings) {
	s.early += o.early
	s.warm += o.warm
	s.late += o.late
	s.bdat += o.bdat
	s.resumed += o.resumed
	s.fastopen += o.fastopen
}

func (s savings) total() int { return s.early + s.warm + s.late + s.bdat + s.resumed + s.fastopen }

// String writes them as the log has them: "early:2,bdat:1".
func (s savings) String() string {
	var parts []string
	for _, one := range s.list() {
		parts = append(parts, fmt.Sprintf("%s:%d", one.how, one.trips))
	}
	return strings.Join(parts, ",")
}

package proxy

import (
	"strconv"
	"strings"

	"slipstream/smtpwire"
)

// Limits that a hop can name. They hold for the session in which it names them:
// https://www.rfc-editor.org/rfc/rfc9422#section-4
const (
	limitMails   = "MAILMAX"       // transactions on one connection, failed ones included
	limitRcpts   = "RCPTMAX"       // recipients of one transaction
	limitDomains = "RCPTDOMAINMAX" // domains of those
)

// limitOf is what a hop allows; 0: it does not say. A number has six digits at
// most.
func limitOf(e smtpwire.EHLO, what string) int {
	limits, _ := e.Get("LIMITS")
	for item := range strings.FieldsSeq(limits) {
		name, value, _ := strings.Cut(item, "=")
		n, err := strconv.ParseUint(value, 10, 32)
		if strings.EqualFold(name, what) && err == nil && len(value) <= 6 {
			return int(n)
		}
	}
	return 0
}

// room counts recipients against what a hop allows.
type room struct {
	rcpts, domains int // 0: any number
	n              int
	seen           []string
}

func roomAt(offered smtpwire.EHLO, taken []*recipient) room {
	r := room{rcpts: limitOf(offered, limitRcpts), domains: limitOf(offered, limitDomains)}
	for _, rc := range taken {
		r.take(rc.cmd.Path)
	}
	return r
}

// take finds room for one more recipient, or says that there is none: it will
// fit into the next transaction.
func (r *room) take(to smtpwire.Path) (refused smtpwire.Reply, ok bool) {
	if r.rcpts > 0 && r.n >= r.rcpts {
		return composed(452, "4.5.3", "too many recipients for the next hop at a time: send this one again"), false
	}
	if r.domains > 0 {
		domain, known := asciiLower(to.Domain), false
		for _, d := range r.seen {
			known = known || d == domain
		}
		if !known && len(r.seen) >= r.domains {
			return composed(452, "4.5.3", "too many domains for the next hop at a time: send this recipient again"), false
		}
		if !known {
			r.seen = append(r.seen, domain)
		}
	}
	r.n++
	return smtpwire.Reply{}, true
}

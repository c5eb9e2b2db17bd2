package auth

import (
	"net/netip"
	"time"
)

// History is what the history file says of a message that job stands for and that reporter received. Nothing is written
// of one whose author domain has no policy record: see [HistoryRecord.Append].
func (r *Report) History(job, reporter string, received time.Time) HistoryRecord {
	h := HistoryRecord{
		Job: job, Reporter: reporter, Received: received, IP: r.Envelope.Client, Helo: r.Envelope.Helo,
		ARC: r.ARC.Value, Action: r.Decision.Action, Verdict: r.DMARC, SPF: r.SPF.Value,
	}
	if r.SPF.Scope == ScopeMailFrom {
		h.MailFrom = r.SPF.Domain
	}
	for _, d := range r.DKIM {
		if d.Domain != "" {
			h.DKIM = append(h.DKIM, HistoryDKIM{Domain: d.Domain, Selector: d.Selector, Result: d.Value})
		}
	}
	for _, set := range r.ARC.Sets {
		h.Seals = append(h.Seals, HistorySeal{
			Instance: set.Instance, Domain: set.Domain, Selector: set.Selector, IP: remoteIP(set.Results),
		})
	}
	return h
}

// remoteIP is the address that a sealer says it had a message from; the zero address if it does not.
// https://www.rfc-editor.org/rfc/rfc8617#section-10.2
func remoteIP(results []byte) netip.Addr {
	parsed, err := ParseResults(results)
	if err != nil {
		return netip.Addr{}
	}
	for _, r := range parsed.List {
		if ip, ok := r.Find(PropRemoteIP); ok && r.Method == MethodARC {
			addr, _ := netip.ParseAddr(ip) // or the zero address
			return addr.Unmap().WithZone("")
		}
	}
	return netip.Addr{}
}

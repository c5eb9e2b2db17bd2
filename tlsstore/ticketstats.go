package tlsstore

import "sync/atomic"

// TicketStats counts what became of tickets since the start.
type TicketStats struct {
	Issued uint64 // made
	Failed uint64 // not made: the session was too large, or no key was to be had; the client got one that opens nothing

	// Came back. A client may offer several at a time, and crypto/tls may still refuse one that was accepted here, such
	// as for another cipher suite: whether a session was resumed is in its connection's state.
	Accepted uint64
	Foreign  uint64 // sealed with no key of ours: from before a restart, from elsewhere, or older than every key
	Damaged  uint64 // a flipped bit, or cut short
	Scope    uint64 // given at another door or under another server name
	Expired  uint64 // older than a ticket's life
	Aged     uint64 // its session is older than MaxSessionAge

	Held     uint64 // kept out of the first flight
	Slipped  uint64 // should have been held and could not be told from the rest of the flight
	Released uint64 // sent later
}

type ticketCounters struct {
	issued, failed          atomic.Uint64
	held, slipped, released atomic.Uint64
	taken                   [ticketFaults]atomic.Uint64
}

// Stats returns the counts as they are now.
func (t *Tickets) Stats() TicketStats {
	c := &t.count
	return TicketStats{
		Issued: c.issued.Load(), Failed: c.failed.Load(),
		Accepted: c.taken[ticketGood].Load(), Foreign: c.taken[ticketForeign].Load(),
		Damaged: c.taken[ticketDamaged].Load(), Scope: c.taken[ticketScope].Load(),
		Expired: c.taken[ticketExpired].Load(), Aged: c.taken[ticketAged].Load(),
		Held: c.held.Load(), Slipped: c.slipped.Load(), Released: c.released.Load(),
	}
}

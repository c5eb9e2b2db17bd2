// Package load measures how many messages a second pass between a source and a sink, what one costs the process that
// stands between them, and how long one takes: directly, through a door of Slipstream of each kind, through HAProxy as
// a plain TCP proxy, and through nginx as an SMTP proxy. Source and sink are the reference peers and live in this
// program; whatever stands between is a process of its own. Everything is on this machine and goes over loopback, so
// that rates are those of all three together; the CPU time is the middle's own.
//
// # Closed and open loop
//
// Without a rate the loop is closed: each of N sessions sends its next message when the last one was acknowledged.
// That finds the highest rate, but its latencies flatter: while the middle stalls, the sessions wait with it, and the
// messages that should have been sent meanwhile are never asked how long they would have taken. This is known as
// coordinated omission.
//
// With a rate the loop is open. A clock that knows nothing of the answers, with random (Poisson) or constant gaps,
// says when each message is due, and its latency counts from that moment, whether or not a session was free: a stall
// is charged to every message that was due during it. The number in flight is bounded by the number of sessions. A
// message that had to wait for one counts as queued, and one that could not be sent at all until the turn had to end
// as unsent too, with the time it had waited by then as its latency. One that the source itself began late, for want
// of CPU time, counts as late.
//
// # What holds a measurement together
//
// Every turn starts with a part that is not counted. The contestants take turns, and go through all points several
// times, so that whatever else the machine does hits all of them; what is reported are medians over the rounds, and
// how far they lie apart. A message that was acknowledged must be at the sink, and no message may be there twice: if
// one is not, or is, the run is an error and its figures mean nothing.
package load

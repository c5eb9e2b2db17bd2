package report

import "slipstream/bench"

// The limits of what ReadJSON takes, so that a file from somewhere costs no more than it is worth. A run of every
// scenario, size and trip time has about two thousand results and 30 MB; its conversations have some forty flights, and
// package meter keeps two hundred points of growth.
const (
	maxFile    = 64 << 20 // octets
	maxResults = 10_000
	maxSamples = 1000     // of a result
	maxSpoken  = 1000     // flights of a result; far fewer are drawn
	maxGrown   = 1000     // points of growth of a result
	maxSizes   = 100      // sizes that a scenario is measured with by default
	maxPeers   = 16       // of a result
	maxLines   = 1000     // of a circumstance that has several: warnings above all
	maxName    = 1 << 10  // octets of a name or of a label
	maxText    = 64 << 10 // octets of a reason or of a circumstance
	maxTrips   = tooMany
	maxTime    = maxSpan
	maxYear    = 9000 // of a moment, so that what comes after it can still be written
)

// What the parts of a scenario may be. A value that is not among them would be shown as if it meant something.

func directions() []bench.Direction { return []bench.Direction{bench.Outbound, bench.Inbound} }

func channels() []bench.Channel {
	return []bench.Channel{bench.Clear, bench.StartTLS12, bench.StartTLS13, bench.Implicit}
}

func states() []bench.State {
	return []bench.State{bench.FirstContact, bench.Known, bench.Resumed, bench.Warm}
}

func clients() []bench.Client {
	return []bench.Client{bench.Old, bench.Pipelining, bench.Chunking, bench.Early, bench.Exim, bench.Postfix}
}

func servers() []bench.Server {
	return []bench.Server{bench.OldServer, bench.ModernServer, bench.EximServer, bench.PostfixServer}
}

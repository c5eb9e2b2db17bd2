package tlsstore

import "slices"

const (
	// ShyNames is how many EHLO domains one network, /24 or /48, may bring under watch within ShyWithin. Names cost
	// nothing, and those of one client must not push out what others were seen to do.
	ShyNames = 16

	maxShyNetworks = 8 // that a watch tells apart
)

// A shyShare is what became of the handshakes with tickets that one network made.
type shyShare struct {
	network      string
	left, stayed int
}

// good reports whether so many of them went well that those that did not say nothing.
func (s shyShare) good() bool { return s.stayed > s.left*ShyShare }

// left counts a client that left. Where there are too many networks, one that says nothing makes room, or else the
// oldest.
func (w *shyWatch) left(network string) {
	i := w.find(network)
	if i < 0 {
		if len(w.shares) >= maxShyNetworks {
			drop := max(slices.IndexFunc(w.shares, shyShare.good), 0)
			w.shares = slices.Delete(w.shares, drop, drop+1)
		}
		i = len(w.shares)
		w.shares = append(w.shares, shyShare{network: network})
	}
	w.shares[i].left++
}

// stayed counts one that stayed, if it comes from where others left: only there does it speak against what they said.
func (w *shyWatch) stayed(network string) bool {
	i := w.find(network)
	if i >= 0 {
		w.shares[i].stayed++
	}
	return i >= 0
}

func (w *shyWatch) find(network string) int {
	return slices.IndexFunc(w.shares, func(s shyShare) bool { return s.network == network })
}

// sum adds up what was seen, without the networks from where it mostly went well.
func (w *shyWatch) sum() (left, stayed int) {
	for _, s := range w.shares {
		if !s.good() {
			left += s.left
			stayed += s.stayed
		}
	}
	return left, stayed
}

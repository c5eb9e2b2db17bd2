package auth

import "sync"

// maxQueued is how much of a body waits for its reader before the writer has to. The reader is slower only while keys
// are looked up; most mail is shorter.
const maxQueued = 32 << 10

// A bodySource is a body as its reader sees it: it always ends in an orderly way.
type bodySource interface {
	// next gives the next part, which holds until the next call; nil at the end.
	next() []byte
	// dropped reports whether what was read may not have been the whole body.
	dropped() bool
}

// bodyText is a body that is there.
type bodyText struct{ text []byte }

func (b *bodyText) next() []byte {
	text := b.text
	b.text = nil
	return text
}

func (b *bodyText) dropped() bool { return false }

// bodyQueue carries a body from the one who receives it to the one who hashes it. It always ends in an orderly way: its
// reader never sees an error.
type bodyQueue struct {
	mu      sync.Mutex // guards everything
	changed sync.Cond
	buf     []byte // written, not yet read
	spare   []byte // what the reader had last
	ended   bool   // nothing more will be written
	gone    bool   // nothing more will be read
}

func newBodyQueue() *bodyQueue {
	q := new(bodyQueue)
	q.changed.L = &q.mu
	return q
}

func (q *bodyQueue) write(p []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(p) > 0 {
		for len(q.buf) >= maxQueued && !q.gone && !q.ended {
			q.changed.Wait()
		}
		if q.gone || q.ended {
			return
		}
		n := min(len(p), maxQueued-len(q.buf))
		q.buf = append(q.buf, p[:n]...)
		p = p[n:]
		q.changed.Broadcast()
	}
}

// next waits for text and returns all there is, which holds until the next call; nil at the end.
func (q *bodyQueue) next() []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.buf) == 0 && !q.ended && !q.gone {
		q.changed.Wait()
	}
	if q.gone || len(q.buf) == 0 {
		return nil
	}
	q.buf, q.spare = q.spare[:0], q.buf
	q.changed.Broadcast()
	return q.spare
}

func (q *bodyQueue) end() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended = true
	q.changed.Broadcast()
}

// drop makes an end of reading and of writing.
func (q *bodyQueue) drop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.gone, q.buf, q.spare = true, nil, nil
	q.changed.Broadcast()
}

// dropped reports whether what was read may not have been the whole body.
func (q *bodyQueue) dropped() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.gone
}

package tlsstore

import (
	"container/list"
	"sync"
	"time"
)

const (
	// FrontOctets is how much memory the front of a Store may take when Options do not say.
	FrontOctets = 16 << 20

	frontShards   = 16
	frontOverhead = 200         // octets that an entry takes besides its value
	nothingLife   = time.Minute // how long it is believed that the KV has nothing
)

// A front is the part of a Store that answers at once: what was read or written last, in a bounded memory. It also
// knows what the KV does not have.
type front struct{ shards [frontShards]shard }

// A shard has a part of the keys, and the lock for them.
type shard struct {
	limit int // octets

	mu      sync.Mutex
	entries map[recordKey]*list.Element
	recent  *list.List // of *frontEntry: what was used last is in front
	octets  int
	reads   map[recordKey]*read // under way
}

// A frontEntry is a checked record, which never changes, or with a nil value the knowledge that there is none.
type frontEntry struct {
	key   recordKey
	value []byte
	until time.Time // for nil: believed until then
}

func newFront(octets int) *front {
	f := new(front)
	for i := range f.shards {
		f.shards[i] = shard{
			limit:   max(octets/frontShards, frontOverhead),
			entries: make(map[recordKey]*list.Element),
			recent:  list.New(),
			reads:   make(map[recordKey]*read),
		}
	}
	return f
}

func (f *front) shard(key recordKey) *shard { return &f.shards[key[1]%frontShards] }

// size returns how many entries the front has and the octets they take.
func (f *front) size() (entries, octets int) {
	for i := range f.shards {
		sh := &f.shards[i]
		sh.mu.Lock()
		entries += len(sh.entries)
		octets += sh.octets
		sh.mu.Unlock()
	}
	return entries, octets
}

// find returns what is known of a key: a record, or nil where there is none. It is called with the lock held, like all
// that follows.
func (sh *shard) find(key recordKey, now time.Time) (value []byte, known bool) {
	el, ok := sh.entries[key]
	if !ok {
		return nil, false
	}
	e := el.Value.(*frontEntry)
	if e.value == nil && !now.Before(e.until) {
		sh.drop(key)
		return nil, false
	}
	sh.recent.MoveToFront(el)
	return e.value, true
}

// put keeps a record, or that there is none, and makes room for it. One that is larger than the shard is not kept.
func (sh *shard) put(key recordKey, value []byte, now time.Time) {
	sh.drop(key)
	size := len(value) + frontOverhead
	if size > sh.limit {
		return
	}
	for sh.octets+size > sh.limit {
		sh.drop(sh.recent.Back().Value.(*frontEntry).key)
	}
	sh.entries[key] = sh.recent.PushFront(&frontEntry{key: key, value: value, until: now.Add(nothingLife)})
	sh.octets += size
}

func (sh *shard) drop(key recordKey) {
	el, ok := sh.entries[key]
	if !ok {
		return
	}
	sh.octets -= len(el.Value.(*frontEntry).value) + frontOverhead
	sh.recent.Remove(el)
	delete(sh.entries, key)
}

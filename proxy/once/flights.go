package once

import "sync"

// Flights are the copies of messages, one for each recipient, that are under way, or whose sender may not have heard yet
// that they arrived; each belongs to somebody. An MTA that died comes again at once, while whoever served it before still
// waits for a hop. They are safe for concurrent use; the zero value is ready.
type Flights struct {
	mu    sync.Mutex
	under map[id]any
}

// Depart enters a copy as that of owner, and tells whether it is: not where another has it under way. What is under way
// for one owner may depart again, since a client may send the same message twice.
func (f *Flights) Depart(k Key, owner any) bool {
	this := k.id()
	f.mu.Lock()
	defer f.mu.Unlock()
	if other := f.under[this]; other != nil && other != owner {
		return false
	}
	if f.under == nil {
		f.under = make(map[id]any)
	}
	f.under[this] = owner
	return true
}

// Land ends what departed for owner.
func (f *Flights) Land(keys []Key, owner any) {
	if len(keys) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, k := range keys {
		if this := k.id(); f.under[this] == owner {
			delete(f.under, this)
		}
	}
}

package tlsstore

import "container/list"

// A shyTable is a map of at most MaxShy entries. The one that was put longest ago makes room. The zero value is empty.
type shyTable[V any] struct {
	order   list.List // of shyEntry[V], newest in front
	entries map[string]*list.Element
}

type shyEntry[V any] struct {
	key   string
	value V
}

func (t *shyTable[V]) len() int { return len(t.entries) }

func (t *shyTable[V]) get(key string) (V, bool) {
	e, ok := t.entries[key]
	if !ok {
		var none V
		return none, false
	}
	return e.Value.(shyEntry[V]).value, true
}

func (t *shyTable[V]) put(key string, value V) {
	if e, ok := t.entries[key]; ok {
		e.Value = shyEntry[V]{key, value}
		t.order.MoveToFront(e)
		return
	}
	if t.entries == nil {
		t.entries = make(map[string]*list.Element)
	}
	if len(t.entries) >= MaxShy {
		t.remove(t.order.Back().Value.(shyEntry[V]).key)
	}
	t.entries[key] = t.order.PushFront(shyEntry[V]{key, value})
}

func (t *shyTable[V]) remove(key string) {
	if e, ok := t.entries[key]; ok {
		t.order.Remove(e)
		delete(t.entries, key)
	}
}

// each calls f for every entry, oldest first. f may not change the table.
func (t *shyTable[V]) each(f func(key string, value V)) {
	for e := t.order.Back(); e != nil; e = e.Prev() {
		entry := e.Value.(shyEntry[V])
		f(entry.key, entry.value)
	}
}

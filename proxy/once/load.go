package once

import (
	"encoding/hex"
	"slices"
	"time"

	"go.uber.org/zap"

	"slipstream/tlsstore"
)

const (
	maxBroken = 10_000 // damaged records that are removed at a start. Of more, some are left to the KV's own time
	maxSaid   = 10     // of them, how many the log names
)

// A loader reads what lies in a KV.
type loader struct {
	m       *Memory
	now     time.Time
	entries []*entry
	broken  [][]byte // keys, of not more than maxBroken
	damaged int      // records, of all
	expired int      // records that are over
	foreign int      // records of another version
	left    int      // records for which there was no room
}

// load takes over what lies in a KV, and the KV. What is in memory already is later than that.
func (m *Memory) load(kv tlsstore.KV) error {
	l := &loader{m: m, now: m.now()}
	if err := kv.Iterate([]byte{kindOutcome}, l.read); err != nil {
		return err
	}
	l.drop(kv)
	slices.SortStableFunc(l.entries, func(a, b *entry) int { return a.expires.Compare(b.expires) })
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range l.entries {
		if _, later := m.pending.changes[e.id]; !later && m.index.get(e.id) == nil {
			m.index.put(e)
		}
	}
	m.count()
	m.stats.Broken, m.stats.Expired = uint64(l.damaged), m.stats.Expired+uint64(l.expired)
	m.kv = kv
	if r, ok := kv.(interface{ Room() error }); ok {
		m.room = r.Room
	}
	return nil
}

// read takes a record, or notes what is wrong with it.
func (l *loader) read(key, value []byte) bool {
	id, ok := parseKey(key)
	var r record
	err := errBroken
	if ok {
		r, err = parseRecord(id, value)
	}
	switch {
	case err == errVersion:
		l.foreign++
		return true
	case err != nil:
		if l.damaged++; len(l.broken) < maxBroken {
			l.broken = append(l.broken, slices.Clone(key))
		}
		return true
	}
	// A clock that was wrong when it was written, or is now, must not make it last longer than it may.
	life := min(r.written.Add(r.life).Sub(l.now), r.life, l.m.keep)
	switch {
	case life <= 0:
		l.expired++
	case len(l.entries) >= overfull*l.m.max+spare:
		l.left++
	default:
		l.entries = append(l.entries, &entry{id: id, code: r.code, text: r.text, expires: l.now.Add(life)})
	}
	return true
}

// drop removes what is damaged, and says what could not be used.
func (l *loader) drop(kv tlsstore.KV) {
	const means = "its recipient may get a message twice"
	for n, key := range l.broken {
		if n < maxSaid {
			l.m.log.Warn("a record of an outcome was damaged, and was dropped: "+means,
				zap.String("record", hex.EncodeToString(key[:min(len(key), keySize)])))
		}
		if err := kv.Delete(key); err != nil {
			l.m.log.Warn("a damaged record of an outcome cannot be removed", zap.Error(err))
			break // nor could the others
		}
	}
	if n := l.damaged; n > maxSaid {
		l.m.log.Warn("records of outcomes were damaged, and were dropped: each recipient may get a message twice",
			zap.Int("records", n))
	}
	if l.foreign > 0 {
		l.m.log.Warn("records of outcomes are of another version of this program, and were left alone: each recipient "+
			"may get a message twice; go back to that version, if those messages matter", zap.Int("records", l.foreign))
	}
	if l.left > 0 {
		l.m.log.Warn("there are more records of outcomes than may be held: each recipient of the others may get a message "+
			"twice; set once.max_recipients higher", zap.Int("left_out", l.left))
	}
}

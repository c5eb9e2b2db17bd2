package badgerkv

import (
	"bytes"
	"context"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"
)

const (
	trimTenths = 7    // a store that is too large is cut back to so many tenths of MaxSize
	trimStep   = 1000 // records that are read or deleted at once, well below what Badger takes
	maxSamples = 8192 // when records are over; where there would be more, every second one goes
)

// trim deletes what is over soonest, and what is over but still there.
func (k *KV) trim(ctx context.Context, s *Stats) error {
	live, ends, err := k.survey(ctx)
	if err != nil {
		return err
	}
	excess := live - k.o.MaxSize*trimTenths/10
	var last uint64 // what is over before then goes, and of what is over then as much as has to
	if excess > 0 {
		last = ends[min(int64(len(ends))*excess/live, int64(len(ends)-1))]
	}
	var doomed [][]byte
	visit := func(item *badger.Item) {
		switch end := item.ExpiresAt(); {
		case over(item):
			doomed = append(doomed, item.KeyCopy(nil))
		case end < last, end == last && excess > 0:
			doomed = append(doomed, item.KeyCopy(nil))
			excess -= item.EstimatedSize()
			s.Dropped++
		}
	}
	for from := []byte{}; from != nil; {
		doomed = doomed[:0]
		if from, err = k.scan(ctx, from, visit); err != nil {
			return err
		}
		if len(doomed) == 0 {
			continue
		}
		err := k.write(len(doomed)*MaxKey/8, false, func(txn *badger.Txn) error {
			for _, key := range doomed {
				if err := txn.Delete(key); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// survey returns how many octets of records there are that are not over, and a sample of when they will be, in order.
// The sample is empty only where there is nothing.
func (k *KV) survey(ctx context.Context) (live int64, ends []uint64, err error) {
	n, every := 0, 1
	visit := func(item *badger.Item) {
		if over(item) {
			return
		}
		live += item.EstimatedSize()
		if n++; n%every != 0 {
			return
		}
		if ends = append(ends, item.ExpiresAt()); len(ends) > maxSamples {
			for i := range len(ends) / 2 {
				ends[i] = ends[2*i]
			}
			ends, every = ends[:len(ends)/2], every*2
		}
	}
	for from := []byte{}; from != nil; {
		if from, err = k.scan(ctx, from, visit); err != nil {
			return 0, nil, err
		}
	}
	slices.Sort(ends)
	return live, ends, nil
}

// scan shows the newest version of some keys, whether it is over or not, but none that was deleted. It returns where to
// go on; nil at the end.
func (k *KV) scan(ctx context.Context, from []byte, visit func(*badger.Item)) (next []byte, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	err = k.use(func(db *badger.DB) error {
		return db.View(func(txn *badger.Txn) error {
			opt := badger.DefaultIteratorOptions
			opt.PrefetchValues = false
			opt.AllVersions = true // those that are over, too
			it := txn.NewIterator(opt)
			defer it.Close()
			var newest []byte
			n := 0
			for it.Seek(from); it.Valid(); it.Next() {
				item := it.Item()
				if newest != nil && bytes.Equal(newest, item.Key()) {
					continue
				}
				if n++; n > trimStep {
					next = item.KeyCopy(nil)
					return nil
				}
				newest = item.KeyCopy(newest)
				if deleted := item.IsDeletedOrExpired() && !over(item); !deleted {
					visit(item)
				}
			}
			return nil
		})
	})
	return next, err
}

// over says whether the time of a record is over. Deletions have none.
func over(item *badger.Item) bool {
	return item.ExpiresAt() != 0 && item.ExpiresAt() <= uint64(time.Now().Unix())
}

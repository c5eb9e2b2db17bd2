package badgerkv

import (
	"bytes"
	"context"
	"math/bits"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"
)

const (
	trimTenths = 7    // a store that is too large is cut back to so many tenths of MaxSize
	trimStep   = 1000 // records that are read or deleted at once, well below what Badger takes
	maxSamples = 4096 // of a class, when records were written; where there would be more, every second one goes
)

// trim deletes what is over but still there, and of the rest the largest: a large record spares no more than a small
// one, and who sends us much is not to drive all others out. Among those of about one size the oldest go first. How
// long they have to live does not count: whoever says "seven days" would stay, and those who say "one" would go.
func (k *KV) trim(ctx context.Context, s *Stats) error {
	found, err := k.survey(ctx)
	if err != nil {
		return err
	}
	last, before, excess := found.cut(k.o.MaxSize * trimTenths / 10)
	if k.o.Sync {
		last, excess = len(found), 0 // nothing but what is over
	}
	var doomed [][]byte
	visit := func(item *badger.Item) {
		switch class := classOf(item); {
		case over(item):
			doomed = append(doomed, item.KeyCopy(nil))
		case class > last, class == last && item.Version() <= before && excess > 0:
			doomed = append(doomed, item.KeyCopy(nil))
			s.Dropped++
			if class == last {
				excess -= item.EstimatedSize()
			}
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

// A class is of records of about one size: less than 1<<class octets.
type class struct {
	octets int64    // of all of them
	ages   []uint64 // a sample of their versions, which Badger counts up with each write
	n      int      // records
	every  int      // so many are one in the sample
}

// classes are a survey of all records, by size.
type classes [bits.UintSize + 1]class

// classOf is the class of a record. What has up to 4 KiB is small, whatever it has.
func classOf(item *badger.Item) int {
	const small = 12
	return max(bits.Len64(uint64(item.EstimatedSize())), small)
}

func (c *classes) add(item *badger.Item) {
	of := &c[classOf(item)]
	of.octets += item.EstimatedSize()
	of.every = max(of.every, 1)
	if of.n++; of.n%of.every != 0 {
		return
	}
	if of.ages = append(of.ages, item.Version()); len(of.ages) > maxSamples {
		for i := range len(of.ages) / 2 {
			of.ages[i] = of.ages[2*i]
		}
		of.ages, of.every = of.ages[:len(of.ages)/2], of.every*2
	}
}

// cut says what has to go so that no more octets are left than wanted: all of the classes above last, and of last what
// was written up to a version, until so many octets are gone. Where there is little enough, that is nothing.
func (c *classes) cut(wanted int64) (last int, before uint64, excess int64) {
	for i := range c {
		excess += c[i].octets
	}
	excess -= wanted
	for last = len(c) - 1; last > 0 && excess >= c[last].octets; last-- {
		excess -= c[last].octets
	}
	of := &c[last]
	if excess <= 0 || len(of.ages) == 0 {
		return last, 0, 0
	}
	slices.Sort(of.ages)
	before = of.ages[min(int64(len(of.ages))*excess/of.octets, int64(len(of.ages)-1))]
	return last, before, excess
}

// survey looks at all records that are not over.
func (k *KV) survey(ctx context.Context) (*classes, error) {
	found := new(classes)
	visit := func(item *badger.Item) {
		if !over(item) {
			found.add(item)
		}
	}
	for from := []byte{}; from != nil; {
		var err error
		if from, err = k.scan(ctx, from, visit); err != nil {
			return nil, err
		}
	}
	return found, nil
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

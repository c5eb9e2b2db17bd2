package tlsstore

import (
	"encoding/binary"
	"testing"
	"time"
)

// numberKey returns keys that all fall into the same shard.
func numberKey(i int) recordKey {
	key := recordKey{byte(kindQuirk)}
	binary.BigEndian.PutUint32(key[8:], uint32(i))
	return key
}

func TestFrontKeepsWhatIsUsed(t *testing.T) {
	const room = 10
	f := newFront(frontShards * room * (100 + frontOverhead))
	sh := f.shard(numberKey(0))
	now := time.Now()
	for i := range 1000 {
		sh.put(numberKey(i), make([]byte, 100), now)
		if _, known := sh.find(numberKey(0), now); !known {
			t.Fatalf("what is used all the time is gone after %d", i)
		}
		if sh.octets > sh.limit || len(sh.entries) != sh.recent.Len() {
			t.Fatalf("%d octets in %d entries, want at most %d octets", sh.octets, len(sh.entries), sh.limit)
		}
	}
	if entries, octets := f.size(); entries != room || octets != sh.octets {
		t.Errorf("%d entries, %d octets; want %d, %d", entries, octets, room, sh.octets)
	}
	sh.put(numberKey(0), make([]byte, sh.limit), now)
	if _, known := sh.find(numberKey(0), now); known {
		t.Error("what is larger than the shard was kept, or what was there before")
	}
	for i := range 1000 {
		sh.drop(numberKey(i))
	}
	if entries, octets := f.size(); entries != 0 || octets != 0 {
		t.Errorf("empty: %d entries, %d octets", entries, octets)
	}
}

func TestFrontBelievesInNothingForATime(t *testing.T) {
	f := newFront(FrontOctets)
	key := numberKey(1)
	sh := f.shard(key)
	now := time.Now()
	sh.put(key, nil, now)
	if value, known := sh.find(key, now.Add(nothingLife-1)); value != nil || !known {
		t.Errorf("at once: %q, %v; want nothing, known", value, known)
	}
	if _, known := sh.find(key, now.Add(nothingLife)); known {
		t.Error("nothing is believed in for too long")
	}
}

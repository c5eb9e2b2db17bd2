package tlsstore

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"time"
)

// shyPrefix begins the keys of what a Shy has learned.
const shyPrefix = "withhold/"

// Save writes what was learned since the last time. It may wait for a disk, and so is not for the path of a message:
// call it now and then, and at the end. What could not be written is tried again the next time.
func (s *Shy) Save(kv KV) error {
	s.disk.Lock()
	defer s.disk.Unlock()
	s.mu.Lock()
	now := s.now()
	fresh := make(map[string]shyTerm)
	s.withheld.each(func(key string, term shyTerm) {
		if !term.saved && term.until.Sub(now) >= time.Second {
			fresh[key] = term
		}
	})
	s.mu.Unlock()
	var errs []error
	for key, term := range fresh {
		if err := kv.Set([]byte(shyPrefix+key), shyRecord(key, term), term.until.Sub(now)); err != nil {
			errs = append(errs, err)
			continue
		}
		s.mu.Lock()
		if current, ok := s.withheld.get(key); ok && current == term {
			term.saved = true
			s.withheld.put(key, term)
		}
		s.mu.Unlock()
	}
	if len(errs) > 0 {
		return fmt.Errorf("tlsstore: %d of %d clients that break on tickets are not saved yet: %w",
			len(errs), len(fresh), errs[0])
	}
	return nil
}

// Load reads what was saved, such as before a restart. A record that makes no sense is passed over. Where there are too
// many, networks go first: anybody can bring up names.
func (s *Shy) Load(kv KV) error {
	for _, kind := range []string{"net ", "ehlo "} {
		err := kv.Iterate([]byte(shyPrefix+kind), func(key, value []byte) bool {
			return s.load(strings.TrimPrefix(string(key), shyPrefix), value)
		})
		if err != nil {
			return fmt.Errorf("tlsstore: reading which clients break on tickets: %w", err)
		}
	}
	return nil
}

// load takes a record, and reports whether there is room for another.
func (s *Shy) load(name string, value []byte) bool {
	term, err := parseShyRecord(name, value)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if most := now.Add(ShyFor); term.until.After(most) { // the clock was set back
		term.until = most
	}
	if _, known := s.withheld.get(name); !known && err == nil && now.Before(term.until) {
		s.withheld.put(name, term)
	}
	return s.withheld.len() < MaxShy
}

// A record: version (1), since and until when, Unix seconds (8 each), how many left and stayed (4 each), the beginning
// of a digest of the key and these (8).
const (
	shyVersion    = 2
	shyRecordSize = 1 + 8 + 8 + 4 + 4 + 8
)

var errShyRecord = errors.New("tlsstore: not a record of a client that breaks on tickets")

func shyRecord(key string, term shyTerm) []byte {
	b := append(make([]byte, 0, shyRecordSize), shyVersion)
	for _, t := range []time.Time{term.since, term.until} {
		b = binary.BigEndian.AppendUint64(b, uint64(t.Unix()))
	}
	for _, n := range []int{term.left, term.stayed} {
		b = binary.BigEndian.AppendUint32(b, uint32(min(n, math.MaxUint32)))
	}
	sum := sha256.Sum256(append([]byte(key+"\x00"), b...))
	return append(b, sum[:8]...)
}

func parseShyRecord(key string, b []byte) (shyTerm, error) {
	if len(b) != shyRecordSize || b[0] != shyVersion || !validShyKey(key) {
		return shyTerm{}, errShyRecord
	}
	term := shyTerm{
		since:  time.Unix(int64(binary.BigEndian.Uint64(b[1:])), 0),
		until:  time.Unix(int64(binary.BigEndian.Uint64(b[9:])), 0),
		left:   int(binary.BigEndian.Uint32(b[17:])),
		stayed: int(binary.BigEndian.Uint32(b[21:])),
		saved:  true,
	}
	if string(shyRecord(key, term)) != string(b) {
		return shyTerm{}, errShyRecord
	}
	return term, nil
}

// validShyKey reports whether a key is one that shyKeys makes, so that none is kept that is never looked up.
func validShyKey(key string) bool {
	kind, name, _ := strings.Cut(key, " ")
	switch kind {
	case "net":
		network, err := netip.ParsePrefix(name)
		return err == nil && network == network.Masked() && name == network.String()
	case "ehlo":
		return name != "" && len(name) <= maxShyHello && name == cleanHello(name)
	}
	return false
}

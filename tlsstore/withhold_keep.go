package tlsstore

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// shyPrefix begins the keys of what a Shy has learned.
const shyPrefix = "withhold/"

// Save writes what was learned since the last time. It may wait for a disk, and so is not for the path of a message:
// call it now and then, and at the end. What could not be written is tried again the next time.
func (s *Shy) Save(kv KV) error {
	s.mu.Lock()
	now := s.now()
	fresh := make(map[string]time.Time)
	s.withheld.each(func(key string, term shyTerm) {
		if !term.saved && term.until.Sub(now) >= time.Second {
			fresh[key] = term.until
		}
	})
	s.mu.Unlock()
	var errs []error
	for key, until := range fresh {
		if err := kv.Set([]byte(shyPrefix+key), shyRecord(key, until), until.Sub(now)); err != nil {
			errs = append(errs, err)
			continue
		}
		s.mu.Lock()
		if term, ok := s.withheld.get(key); ok && term.until.Equal(until) {
			s.withheld.put(key, shyTerm{until: until, saved: true})
		}
		s.mu.Unlock()
	}
	if len(errs) > 0 {
		return fmt.Errorf("tlsstore: %d of %d clients that break on tickets are not saved yet: %w",
			len(errs), len(fresh), errs[0])
	}
	return nil
}

// Load reads what was saved, such as before a restart. A record that makes no sense is passed over.
func (s *Shy) Load(kv KV) error {
	err := kv.Iterate([]byte(shyPrefix), func(key, value []byte) bool {
		name := strings.TrimPrefix(string(key), shyPrefix)
		until, err := parseShyRecord(name, value)
		s.mu.Lock()
		defer s.mu.Unlock()
		now := s.now()
		if most := now.Add(ShyFor); until.After(most) { // the clock was set back
			until = most
		}
		if _, known := s.withheld.get(name); !known && err == nil && now.Before(until) {
			s.withheld.put(name, shyTerm{until: until, saved: true})
		}
		return s.withheld.len() < MaxShy
	})
	if err != nil {
		return fmt.Errorf("tlsstore: reading which clients break on tickets: %w", err)
	}
	return nil
}

// A record: version (1), until when, Unix seconds (8), the beginning of a digest of the key and these (8).
const (
	shyVersion    = 1
	shyRecordSize = 1 + 8 + 8
)

var errShyRecord = errors.New("tlsstore: not a record of a client that breaks on tickets")

func shyRecord(key string, until time.Time) []byte {
	b := make([]byte, 0, shyRecordSize)
	b = binary.BigEndian.AppendUint64(append(b, shyVersion), uint64(until.Unix()))
	sum := sha256.Sum256(append([]byte(key+"\x00"), b...))
	return append(b, sum[:8]...)
}

func parseShyRecord(key string, b []byte) (time.Time, error) {
	if len(b) != shyRecordSize || b[0] != shyVersion || !validShyKey(key) {
		return time.Time{}, errShyRecord
	}
	until := time.Unix(int64(binary.BigEndian.Uint64(b[1:])), 0)
	if string(shyRecord(key, until)) != string(b) {
		return time.Time{}, errShyRecord
	}
	return until, nil
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

package tlsstore

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// MaxShown is how many entries Show returns at most.
const MaxShown = 1000

// An Entry is a record for people to read. It has no secrets.
type Entry struct {
	Kind             string         // "ehlo", "session" or "quirk" of a hop; "client": one that breaks on tickets
	Host             string         // the hop's name as routing has it, if known; of clients, the domain of their names
	Addr             netip.AddrPort // the hop
	Network          netip.Prefix   // of clients
	Written, Expires time.Time
	Octets           int
	Fields           []Field
}

// A Field is something that an Entry has to tell.
type Field struct{ Name, Value string }

// Peer names whom an entry is about, "mx.example.net[192.0.2.7]:25" or "192.0.2.7:25"; of clients, "192.0.2.0/24" or
// "example.net".
func (e Entry) Peer() string {
	switch {
	case e.Network.IsValid():
		return e.Network.String()
	case !e.Addr.IsValid() && e.Host != "":
		return e.Host
	case e.Host == "":
		return e.Addr.String()
	}
	return fmt.Sprintf("%s[%v]:%d", e.Host, e.Addr.Addr(), e.Addr.Port())
}

// about reports whether the entry is about a peer that is named by host name, by address or by address and port, or as
// Peer does; "" is all of them.
func (e Entry) about(peer string) bool {
	peer = cleanName(peer)
	switch peer {
	case "", e.Host, e.Addr.Addr().String(), e.Addr.String(), e.Peer():
		return true
	}
	addr, err := netip.ParseAddr(peer)
	return err == nil && addr.Unmap() == e.Addr.Addr()
}

// List shows f every entry about a peer until it returns false. The peer is named by host name, address, or address and
// port; "" is everybody. It goes through all that is stored, so it takes its time. What was just learned may or may not
// be there.
func (s *Store) List(peer string, f func(Entry) bool) error {
	return s.visit(func(key recordKey, value []byte) bool {
		e, ok := entryOf(value)
		return !ok || !e.about(peer) || f(e)
	})
}

// Show returns the entries about a peer, named as for List, at most [MaxShown].
func (s *Store) Show(peer string) ([]Entry, error) {
	var found []Entry
	err := s.List(peer, func(e Entry) bool {
		found = append(found, e)
		return len(found) < MaxShown
	})
	return found, err
}

// Drop forgets everything about a peer, named as for List; of "" it forgets everything. It returns how many records
// that were, and waits for the KV to be rid of them. Where the KV does not take that, all are forgotten nevertheless,
// and the error says how many it may bring back after a restart.
func (s *Store) Drop(peer string) (n int, err error) {
	var keys []recordKey
	err = s.visit(func(key recordKey, value []byte) bool {
		if e, ok := entryOf(value); ok && e.about(peer) || !ok && peer == "" {
			keys = append(keys, key)
		}
		return true
	})
	left := 0
	var failed error
	for _, key := range keys {
		s.forget(key)
		if failed != nil {
			left++ // nor would this one go
			continue
		}
		// Not only by way of the writer, which may have more to do than it can take.
		if failed = guard("deleting", func() error { return s.kv.Delete(key[:]) }); failed != nil {
			left++
			continue
		}
		s.writes.deleted(key)
	}
	if failed != nil {
		err = errors.Join(err, fmt.Errorf("tlsstore: %d records were forgotten, but %d of them are still on the disk, and "+
			"there again after a restart unless it takes their deletion before: %w", len(keys), left, failed))
	}
	return len(keys), err
}

// visit shows f all records that are current, those in memory in the place of older ones in the KV.
func (s *Store) visit(f func(key recordKey, value []byte) bool) error {
	now := s.now()
	recent := s.recent()
	stopped := false
	err := guard("listing", func() error {
		return s.kv.Iterate(nil, func(k, value []byte) bool {
			if len(k) != keySize {
				return true
			}
			key := recordKey(k)
			if newer, ok := recent[key]; ok {
				delete(recent, key)
				value = newer
			} else if newer, waits := s.writes.find(key); waits {
				value = newer
			} else if check(key, value) != nil {
				return true
			}
			stopped = value != nil && current(value, now) && !f(key, value)
			return !stopped
		})
	})
	for key, value := range recent {
		if stopped {
			break
		}
		stopped = value != nil && current(value, now) && !f(key, value)
	}
	return err
}

// recent returns what the front knows and what waits to be written.
func (s *Store) recent() map[recordKey][]byte {
	recent := s.writes.all()
	for i := range s.front.shards {
		sh := &s.front.shards[i]
		sh.mu.Lock()
		for key, el := range sh.entries {
			recent[key] = el.Value.(*frontEntry).value
		}
		sh.mu.Unlock()
	}
	return recent
}

// entryOf says what is in a record that was checked.
func entryOf(value []byte) (Entry, bool) {
	e := Entry{Kind: kind(value[1]).String(), Written: writtenOf(value), Expires: expiresOf(value), Octets: len(value)}
	switch kind(value[1]) {
	case kindHello:
		r, ok := decodeHello(bodyOf(value))
		e.Host, e.Addr = r.key.Host, r.key.Addr // not what the peer calls itself, which may be anybody's name
		e.Fields = helloFields(r)
		return e, ok
	case kindQuirk:
		r, ok := decodeQuirk(bodyOf(value))
		e.Addr = r.addr
		e.Fields = []Field{{"quirk", string(r.quirk)}}
		return e, ok
	case kindSession:
		r, ok := decodeSessions(bodyOf(value))
		e.Host, e.Addr = r.scope.Host, r.scope.Addr
		e.Fields = sessionFields(r)
		return e, ok
	}
	return Entry{}, false
}

func helloFields(r helloRecord) []Field {
	var offers []string
	for _, p := range r.ehlo.Keywords() {
		offers = append(offers, strings.TrimSpace(p.Name+" "+p.Value))
	}
	return named(
		Field{"phase", r.key.Phase.String()},
		Field{"calls-itself", r.ehlo.Host()},
		Field{"hello", r.key.Hello},
		Field{"source", addrText(r.key.Source)},
		Field{"offers", strings.Join(offers, ", ")},
	)
}

func sessionFields(r sessionRecord) []Field {
	fields := named(
		Field{"level", r.scope.Level},
		Field{"server-name", r.scope.ServerName},
		Field{"node", r.scope.Node},
		Field{"source", addrText(r.scope.Source)},
		Field{"sessions", strconv.Itoa(len(r.sessions))},
		Field{"go", r.goVersion},
	)
	for _, s := range r.sessions {
		fields = append(fields, Field{"session", s.String()})
	}
	return fields
}

// String says what may be said of a session.
func (s session) String() string {
	words := []string{"TLS 1.2"}
	if isTLS13(s.state) {
		words[0] = "TLS 1.3"
	}
	switch {
	case s.verified:
		words = append(words, "verified")
	case s.judged:
		words = append(words, "not verified")
	}
	if s.used {
		words = append(words, "used")
	}
	words = append(words, "from "+s.origin.UTC().Format(time.RFC3339), "until "+s.expires.UTC().Format(time.RFC3339))
	return strings.Join(words, ", ")
}

// named leaves out what is empty.
func named(fields ...Field) []Field {
	var out []Field
	for _, f := range fields {
		if f.Value != "" {
			out = append(out, f)
		}
	}
	return out
}

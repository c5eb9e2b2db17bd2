package tlsstore

import (
	"fmt"
	"net/netip"
	"strings"
)

// kindClient is the kind of an Entry about clients that break on tickets.
const kindClient = "client"

// List shows f the clients that are known to break on tickets, saved in a KV or not yet, until it returns false. A peer
// is named by an address, a network, an EHLO name or the domain of such; "" is everybody. It goes through all that is
// saved, so it takes its time.
func (s *Shy) List(kv KV, peer string, f func(Entry) bool) error {
	now, about := s.now(), shyNamed(peer)
	learned := make(map[string]shyTerm)
	s.mu.Lock()
	s.withheld.each(func(key string, term shyTerm) { learned[key] = term })
	s.mu.Unlock()
	stopped := false
	show := func(key string, term shyTerm) bool {
		stopped = now.Before(term.until) && about(key) && !f(clientEntry(key, term))
		return !stopped
	}
	err := guard("listing", func() error {
		return kv.Iterate([]byte(shyPrefix), func(k, value []byte) bool {
			key := strings.TrimPrefix(string(k), shyPrefix)
			term, err := parseShyRecord(key, value)
			if newer, ok := learned[key]; ok {
				delete(learned, key)
				term, err = newer, nil
			}
			return err != nil || show(key, term)
		})
	})
	for key, term := range learned {
		if stopped {
			break
		}
		show(key, term)
	}
	if err != nil {
		return fmt.Errorf("tlsstore: reading which clients break on tickets: %w", err)
	}
	return nil
}

// Drop forgets the clients that List shows, here and in the KV, so that they get tickets again. It returns how many
// networks and domains that were. Where the KV does not obey, those that are left are known as before.
func (s *Shy) Drop(kv KV, peer string) (n int, err error) {
	s.disk.Lock()
	defer s.disk.Unlock()
	now, about := s.now(), shyNamed(peer)
	var keys []string
	known := make(map[string]bool) // those that List would show
	err = guard("listing", func() error {
		return kv.Iterate([]byte(shyPrefix), func(k, value []byte) bool {
			key := strings.TrimPrefix(string(k), shyPrefix)
			if about(key) {
				term, err := parseShyRecord(key, value)
				keys, known[key] = append(keys, key), err == nil && now.Before(term.until)
			}
			return true
		})
	})
	for _, key := range keys {
		if err != nil {
			break
		}
		if err = guard("deleting", func() error { return kv.Delete([]byte(shyPrefix + key)) }); err == nil {
			n += s.forget(key, known[key])
		}
	}
	if err != nil {
		return n, fmt.Errorf("tlsstore: forgetting which clients break on tickets: %w", err)
	}
	for _, key := range s.learned(about) {
		n += s.forget(key, false)
	}
	return n, nil
}

// learned returns what is known in memory of some clients.
func (s *Shy) learned(about func(key string) bool) []string {
	var keys []string
	add := func(key string) {
		if about(key) {
			keys = append(keys, key)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.withheld.each(func(key string, _ shyTerm) { add(key) })
	s.watched.each(func(key string, _ shyWatch) { add(key) })
	s.names.each(func(key string, _ shyNames) { add(key) })
	return keys
}

// forget forgets a key in memory, and returns 1 if tickets were withheld for it there, or as the KV had it.
func (s *Shy) forget(key string, saved bool) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	term, ok := s.withheld.get(key)
	s.withheld.remove(key)
	s.watched.remove(key)
	s.names.remove(key)
	if saved || ok && s.now().Before(term.until) {
		return 1
	}
	return 0
}

// clientEntry is what there is to say about a client.
func clientEntry(key string, term shyTerm) Entry {
	e := Entry{Kind: kindClient, Written: term.since, Expires: term.until, Octets: shyRecordSize,
		Fields: []Field{{"quirk", string(QuirkNoTickets)}}}
	kind, name, _ := strings.Cut(key, " ")
	if kind == "net" {
		e.Network, _ = netip.ParsePrefix(name) // which shyKeys made
		e.Fields = append(e.Fields, Field{"network", name})
	} else {
		e.Host = name
		e.Fields = append(e.Fields, Field{"domain", name})
	}
	why := fmt.Sprintf("%d connections ended right behind a ticket, %d went on", term.left, term.stayed)
	e.Fields = append(e.Fields, Field{"why", why})
	return e
}

// shyNamed returns which keys a peer is remembered under: all that count for a client at this address or in this
// network, or that names itself so; and the domain itself.
func shyNamed(peer string) func(key string) bool {
	peer = cleanHello(peer)
	if peer == "" {
		return func(string) bool { return true }
	}
	if network, err := netip.ParsePrefix(peer); err == nil {
		if a := network.Addr(); a.Is4In6() {
			network = netip.PrefixFrom(a.Unmap(), network.Bits()-96)
		}
		return func(key string) bool {
			name, ok := strings.CutPrefix(key, "net ")
			own, err := netip.ParsePrefix(name)
			return ok && err == nil && own.Overlaps(network)
		}
	}
	var keys []string
	if addr, err := netip.ParseAddr(peer); err == nil {
		keys = shyKeys(addr, "")
	} else {
		keys = append(shyKeys(netip.Addr{}, peer), "ehlo "+peer)
	}
	return func(key string) bool {
		for _, k := range keys {
			if k == key {
				return true
			}
		}
		return false
	}
}

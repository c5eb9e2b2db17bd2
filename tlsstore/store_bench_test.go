package tlsstore

import (
	"crypto/tls"
	"slices"
	"testing"
	"time"
)

// timed runs f, and reports how long it takes half and nearly all of the time, too.
func timed(b *testing.B, f func(i int)) {
	took := make([]time.Duration, 0, b.N)
	b.ReportAllocs()
	for i := range b.N {
		begun := time.Now()
		f(i)
		took = append(took, time.Since(begun))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds()), "p50-ns")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "p99-ns")
}

// BenchmarkKnown looks up EHLO sets of 10,000 peers in the front. What is wanted is a p99 of 20 µs.
func BenchmarkKnown(b *testing.B) {
	const peers = 10_000
	s := New(Memory(), Options{Pending: peers})
	defer s.Close()
	e := testEHLO
	for _, keyword := range []string{"PIPECONNECT", "8BITMIME", "STARTTLS", "CHUNKING", "SMTPUTF8", "DSN", "HELP"} {
		e = e.With(offer(keyword, ""))
	}
	for i := range peers {
		s.Learn(numbered(i), e)
	}
	b.ResetTimer()
	timed(b, func(i int) {
		if _, ok := s.Known(numbered(i * 7919 % peers)); !ok {
			b.Fatal("not known")
		}
	})
}

// BenchmarkUnknown looks up a quirk that a peer does not have, as every connection does.
func BenchmarkUnknown(b *testing.B) {
	s := New(Memory(), Options{})
	defer s.Close()
	timed(b, func(int) {
		if s.Quirk(testAddr, QuirkNoEarly) {
			b.Fatal("known")
		}
	})
}

// BenchmarkLearn learns what is known, as most connections do.
func BenchmarkLearn(b *testing.B) {
	s := New(Memory(), Options{})
	defer s.Close()
	timed(b, func(int) { s.Learn(testPeer, testEHLO) })
}

// BenchmarkSessionGet offers a session out of four that were used before.
func BenchmarkSessionGet(b *testing.B) {
	s := benchmarkSessions(b)
	b.ResetTimer()
	timed(b, func(int) {
		if _, ok := s.Sessions(sessionScope).Get(""); !ok {
			b.Fatal("nothing to offer")
		}
	})
}

// BenchmarkSession offers a session out of four and keeps a new one, as every connection with TLS does.
func BenchmarkSession(b *testing.B) {
	s := benchmarkSessions(b)
	b.ResetTimer()
	timed(b, func(int) {
		cache := s.Sessions(sessionScope)
		session, ok := cache.Get("")
		if !ok {
			b.Fatal("nothing to offer")
		}
		cache.Put("", session)
	})
}

// benchmarkSessions returns a store with as many sessions of one scope as there may be.
func benchmarkSessions(b *testing.B) *Store {
	s := New(Memory(), Options{})
	b.Cleanup(func() { s.Close() })
	cert, roots := sessionCert(b)
	server := &tls.Config{Certificates: []tls.Certificate{cert}}
	w := &sessionWorld{t: b, store: s, roots: roots, server: server}
	for range SessionsKept {
		cache := s.Sessions(sessionScope)
		cache.Withhold()
		if _, err := w.connect(w.config(cache)); err != nil {
			b.Fatal(err)
		}
	}
	return s
}

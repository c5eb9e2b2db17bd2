package badgerkv_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"slipstream/smtpwire"
	"slipstream/tlsstore"
	"slipstream/tlsstore/badgerkv"
)

const million = 1_000_000

// BenchmarkMillion measures what it takes to know a million peers: the time to open the store, the memory, and the
// time of a look-up. They are learned and looked up as the proxy does it. What is wanted is to be open within 2 s, a
// p99 of 20 µs from memory, and 100 MB. How large the Store's front is, which fills up, makes a difference: Go lets
// memory grow to twice what is used. It takes a minute; run it with -benchtime 1x.
func BenchmarkMillion(b *testing.B) {
	dir := b.TempDir()
	kv, err := badgerkv.Open(badgerkv.Options{Dir: dir, Key: testKey})
	if err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	s := tlsstore.New(kv, tlsstore.Options{Trouble: func(err error) { b.Error(err) }})
	for i := range million {
		if i%1000 == 0 {
			settle(s)
		}
		s.Learn(peer(i))
	}
	settle(s)
	b.Logf("%.1f µs to learn one, %d MiB on disk", float64(time.Since(start).Microseconds())/million, kv.Size()>>20)
	if st := s.Stats(); st.Lost > 0 {
		b.Fatalf("%d were lost", st.Lost)
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	for _, m := range []struct{ name, role string }{
		{"just after they were learned, while Badger joins tables", "measure"},
		{"front of the default size", "measure"},
		{"front of 32 MiB", "measureLarge"},
	} {
		b.Run(m.name, func(b *testing.B) {
			for b.Loop() {
				b.Log("\n", run(b, m.role, dir))
			}
		})
	}
}

// settle waits until most writes are done, so that none is lost.
func settle(s *tlsstore.Store) {
	for s.Stats().Pending > 1000 {
		time.Sleep(time.Millisecond)
	}
}

// peer makes up the peer of a number, much as they are met in the field.
func peer(i int) (tlsstore.PeerKey, smtpwire.EHLO) {
	r := rand.New(rand.NewPCG(uint64(i), 7))
	domain := fmt.Sprintf("%s%s%d.%s", pick(r, syllables), pick(r, syllables), i, pick(r, []string{
		"com", "net", "org", "de", "co.uk", "example", "com.br", "nl", "io"}))
	host := fmt.Sprintf(pick(r, []string{"mx.%s", "mail.%s", "mx1.%s", "mx2.%s", "smtp.%s", "mx01.mail.%s", "%s",
		"mail-in-7.prod.%s"}), domain)
	// A number is in one place only, so that no two peers have one address.
	addr := netip.AddrFrom4([4]byte{byte(1 + i>>20), byte(i >> 12), byte(i >> 4), byte(i<<4) | byte(r.IntN(16))})
	if r.IntN(10) == 0 {
		v4 := addr.As4()
		addr = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, v4[0], v4[1], v4[2], v4[3], 0, byte(r.IntN(256)), 15: 25})
	}
	k := tlsstore.PeerKey{Host: host, Addr: netip.AddrPortFrom(addr, 25), Hello: "relay1.mail.example.org"}
	lines := []string{host}
	if r.IntN(2) == 0 {
		k.Phase = tlsstore.Secured
	} else if r.IntN(10) > 0 {
		lines = append(lines, "STARTTLS")
	}
	offers := pick(r, servers)
	lines = append(lines, strings.Split(offers, "|")...)
	if r.IntN(4) == 0 { // configured by hand
		lines = slices.DeleteFunc(lines, func(line string) bool { return strings.HasPrefix(line, "SIZE") })
		lines = append(lines, fmt.Sprintf("SIZE %d", 1_000_000+r.IntN(200)*524_288))
	}
	return k, smtpwire.ParseEHLO(smtpwire.Reply{Code: 250, Lines: lines})
}

func pick(r *rand.Rand, from []string) string { return from[r.IntN(len(from))] }

var syllables = []string{"nord", "data", "net", "blue", "host", "media", "kraft", "soft", "line", "post", "web", "tech"}

// servers are what some of them offer beside STARTTLS.
var servers = []string{
	"PIPELINING|SIZE 10240000|VRFY|ETRN|ENHANCEDSTATUSCODES|8BITMIME|DSN",
	"PIPELINING|SIZE 10240000|VRFY|ETRN|ENHANCEDSTATUSCODES|8BITMIME|DSN|SMTPUTF8|CHUNKING",
	"PIPELINING|SIZE 104857600|ETRN|AUTH PLAIN LOGIN|ENHANCEDSTATUSCODES|8BITMIME|DSN|CHUNKING",
	"SIZE 52428800|8BITMIME|PIPELINING|PIPECONNECT|CHUNKING|PRDR|HELP",
	"SIZE 52428800|LIMITS MAILMAX=1000 RCPTMAX=50000|8BITMIME|PIPELINING|PIPECONNECT|AUTH PLAIN LOGIN|CHUNKING|SMTPUTF8",
	"SIZE 157286400|8BITMIME|ENHANCEDSTATUSCODES|PIPELINING|CHUNKING|SMTPUTF8",
	"SIZE 157286400|PIPELINING|DSN|ENHANCEDSTATUSCODES|8BITMIME|BINARYMIME|CHUNKING|SMTPUTF8",
	"SIZE 37748736|PIPELINING|DSN|ENHANCEDSTATUSCODES|X-ANONYMOUSTLS|AUTH NTLM|X-EXPS GSSAPI NTLM|8BITMIME|BINARYMIME|" +
		"CHUNKING|XRDST",
	"ENHANCEDSTATUSCODES|PIPELINING|8BITMIME|SIZE 30000000|DSN|ETRN|DELIVERBY|HELP",
	"PIPELINING|8BITMIME|SIZE 41943040|X-VENDOR-FILTER|AUTH LOGIN PLAIN CRAM-MD5 XOAUTH2|HELP",
}

func childMeasure(dir string) error { return measure(dir, tlsstore.FrontOctets) }

func childMeasureLarge(dir string) error { return measure(dir, 32<<20) }

func measure(dir string, front int) error {
	start := time.Now()
	kv, err := badgerkv.Open(badgerkv.Options{Dir: dir, Key: testKey})
	if err != nil {
		return err
	}
	fmt.Printf("opened in %v, %d MiB on disk\n", time.Since(start).Round(time.Millisecond), kv.Size()>>20)
	memory("after opening")
	s := tlsstore.New(kv, tlsstore.Options{FrontOctets: front})
	r := rand.New(rand.NewPCG(3, 4))
	const looks, hot = 100_000, 10_000
	lookUp(s, "from disk", true, looks, func() int { return r.IntN(million) })
	lookUp(s, "of strangers", false, looks, func() int { return million + r.IntN(million) })
	memory(fmt.Sprintf("after %d look-ups", 2*looks))
	if err := lookUpAgain(s, hot, looks); err != nil {
		return err
	}
	debug.FreeOSMemory()
	memory("with what is free given back")
	fmt.Printf("%+v\n", s.Stats())
	return s.Close()
}

// lookUp looks up so many peers. One that comes too late is not known, either.
func lookUp(s *tlsstore.Store, what string, known bool, n int, next func() int) {
	took := make([]time.Duration, n)
	missed := 0
	for i := range took {
		k, want := peer(next())
		start := time.Now()
		e, ok := s.Known(k)
		took[i] = time.Since(start)
		if ok != known || ok && !e.Equal(tlsstore.Lasting(want)) {
			missed++
		}
	}
	report(what, took, missed)
}

// lookUpAgain looks up peers that were looked up just before, and does nothing else meanwhile.
func lookUpAgain(s *tlsstore.Store, peers, n int) error {
	keys := make([]tlsstore.PeerKey, peers)
	for i := range keys {
		keys[i], _ = peer(i)
		for tries := 0; ; tries++ {
			if _, ok := s.Known(keys[i]); ok {
				break
			} else if tries == 100 {
				return fmt.Errorf("peer %d is not known", i)
			}
			time.Sleep(time.Millisecond)
		}
	}
	took := make([]time.Duration, n)
	missed := 0
	for i := range took {
		k := keys[i*7919%len(keys)]
		start := time.Now()
		_, ok := s.Known(k)
		took[i] = time.Since(start)
		if !ok {
			missed++
		}
	}
	report("from memory", took, missed)
	return nil
}

func report(what string, took []time.Duration, missed int) {
	slices.Sort(took)
	at := func(p int) time.Duration { return took[len(took)*p/1000] }
	fmt.Printf("look-up %s: p50 %v, p99 %v, p99.9 %v; %d not as expected\n", what, at(500), at(990), at(999), missed)
}

// memory tells of the process's memory, as Linux does.
func memory(when string) {
	fmt.Print(when, ":")
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(line, ":")
		if name == "VmHWM" || name == "VmRSS" || name == "RssAnon" || name == "RssFile" {
			fmt.Printf(" %s %s;", name, strings.TrimSpace(value))
		}
	}
	fmt.Println()
}

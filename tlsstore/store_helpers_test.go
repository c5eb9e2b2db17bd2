package tlsstore

import (
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"slipstream/smtpwire"
)

// A testKV is Memory behind a disk that can be slow, stuck, broken or worse.
type testKV struct {
	KV
	stuck atomic.Pointer[chan struct{}] // until it is closed
	delay time.Duration
	fail  atomic.Pointer[func() error] // called first, may panic

	gets, sets, deletes, closes atomic.Int64
}

func newTestKV() *testKV { return &testKV{KV: Memory()} }

func (k *testKV) do() error {
	if c := k.stuck.Load(); c != nil {
		<-*c
	}
	time.Sleep(k.delay) // virtual, or none
	if f := k.fail.Load(); f != nil {
		return (*f)()
	}
	return nil
}

// stick makes all methods wait until release is called.
func (k *testKV) stick() (release func()) {
	c := make(chan struct{})
	k.stuck.Store(&c)
	return func() { close(c) }
}

func (k *testKV) failWith(f func() error) { k.fail.Store(&f) }

func (k *testKV) Get(key []byte) ([]byte, error) {
	k.gets.Add(1)
	if err := k.do(); err != nil {
		return nil, err
	}
	return k.KV.Get(key)
}

func (k *testKV) Set(key, value []byte, ttl time.Duration) error {
	k.sets.Add(1)
	if err := k.do(); err != nil {
		return err
	}
	return k.KV.Set(key, value, ttl)
}

func (k *testKV) Delete(key []byte) error {
	k.deletes.Add(1)
	if err := k.do(); err != nil {
		return err
	}
	return k.KV.Delete(key)
}

// Close leaves what is there for the next Store, as a disk would.
func (k *testKV) Close() error {
	k.closes.Add(1)
	return k.do()
}

var (
	testAddr = netip.MustParseAddrPort("192.0.2.7:25")
	testPeer = PeerKey{Addr: testAddr, Hello: "relay.example.org"}
	testEHLO = smtpwire.NewEHLO("mx.example.net", offer("PIPELINING", ""), offer("SIZE", "1000"))
)

func offer(name, value string) smtpwire.Param { return smtpwire.Param{Name: name, Value: value} }

// numbered returns different peers.
func numbered(i int) PeerKey {
	return PeerKey{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 25)}
}

func mustClose(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func wantKnown(t *testing.T, s *Store, k PeerKey, known bool) {
	t.Helper()
	e, ok := s.Known(k)
	if ok != known || ok && !e.Equal(testEHLO) {
		t.Errorf("Known(%v) is %v, %v; want %v", k, e, ok, known)
	}
}

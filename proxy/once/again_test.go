package once

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/tlsstore"
)

// A gatedKV is a disk that lets nothing through while its gate is shut.
type gatedKV struct {
	tlsstore.KV
	mu   sync.Mutex
	gate chan struct{}
}

func (k *gatedKV) Close() error { return nil }

func (k *gatedKV) Set(key, value []byte, ttl time.Duration) error {
	k.mu.Lock()
	gate := k.gate
	k.mu.Unlock()
	if gate != nil {
		<-gate
	}
	return k.KV.Set(key, value, ttl)
}

func (k *gatedKV) shut(gate chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.gate = gate
}

// TestHeardWhileWritten: what is remembered again while the disk is slow, and then heard, does not come back with what
// lay on the disk before.
func TestHeardWhileWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := &gatedKV{KV: tlsstore.Memory()}
		m := openTest(t, kv, Options{})
		mustRemember(t, m, delivered("a@x", "text"))
		gate := make(chan struct{})
		kv.shut(gate)
		var writing sync.WaitGroup
		for _, o := range []Outcome{delivered("other@x", "text"), delivered("a@x", "text")} {
			writing.Go(func() { _ = m.Remember([]Outcome{o}) }) // which may take too long
			synctest.Wait()
		}
		m.Heard([]Key{key("a@x", "text")})
		kv.shut(nil)
		close(gate)
		writing.Wait()
		synctest.Wait()
		mustClose(t, m)
		m = openTest(t, kv, Options{})
		wantForgotten(t, m, key("a@x", "text"))
		mustClose(t, m)
	})
}

// TestDeliveryStands: of a recipient that is named twice, the copy that was delivered is remembered.
func TestDeliveryStands(t *testing.T) {
	m := openTest(t, tlsstore.Memory(), Options{})
	later := delivered("a@x", "text")
	later.Reply.Code = 452
	mustRemember(t, m, delivered("a@x", "text"), later)
	wantRecalled(t, m, delivered("a@x", "text"))
	mustRemember(t, m, later)
	wantRecalled(t, m, delivered("a@x", "text"))
	mustClose(t, m)
}

// TestRefusedTogether tells one message that was refused for two from two that were refused for one each.
func TestRefusedTogether(t *testing.T) {
	m := openTest(t, tlsstore.Memory(), Options{})
	refused := func(to, text string) Outcome {
		o := delivered(to, text)
		o.Reply.Code = 550
		return o
	}
	together := func(to ...string) bool {
		k := key("a@x", "text")
		return m.RefusedTogether(k.Client, k.Sender, to)
	}
	mustRemember(t, m, refused("a@x", "one"), refused("b@x", "one"), refused("c@x", "two"), delivered("a@x", "two"))
	for _, test := range []struct {
		to   []string
		want bool
	}{
		{[]string{"a@x"}, true}, {[]string{"a@x", "b@x"}, true}, {[]string{"b@x", "a@x"}, true},
		{[]string{"a@x", "c@x"}, false}, {[]string{"c@x"}, true}, {[]string{"d@x"}, false}, {[]string{"a@x", "d@x"}, false},
	} {
		if got := together(test.to...); got != test.want {
			t.Errorf("%q: %v", test.to, got)
		}
	}
	mustClose(t, m)
}

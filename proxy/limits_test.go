package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

func TestGate(t *testing.T) {
	g := newGate()
	a, sameNet, other := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("2001:db8:0:1::1")
	for _, in := range []netip.Addr{a, sameNet} {
		if r, ok := g.enter(in, 3, 2); !ok {
			t.Fatalf("%v refused: %s", in, r.String())
		}
	}
	if r, ok := g.enter(a, 3, 2); ok || r.Code != 421 {
		t.Errorf("a third from one /64 got in: %s", r.String())
	}
	if _, ok := g.enter(other, 3, 2); !ok {
		t.Error("another /64 was refused")
	}
	if r, ok := g.enter(netip.MustParseAddr("192.0.2.1"), 3, 2); ok || r.Code != 421 {
		t.Errorf("a fourth got in: %s", r.String())
	}
	g.leave(a)
	if _, ok := g.enter(netip.MustParseAddr("192.0.2.1"), 3, 2); !ok {
		t.Error("nobody was let in after one had left")
	}
	g.leave(sameNet)
	g.leave(other)
	g.leave(netip.MustParseAddr("192.0.2.1"))
	if g.total != 0 || len(g.client) != 0 {
		t.Errorf("after all had left: %d, %v", g.total, g.client)
	}
}

func TestRace(t *testing.T) {
	type attempt struct {
		takes time.Duration
		err   error
	}
	refused := errors.New("refused")
	tests := []struct {
		name     string
		attempts []attempt
		winner   int // -1: all fail
		took     time.Duration
	}{
		{"the first answers in time", []attempt{{takes: 100 * time.Millisecond}, {takes: 0}}, 0, 100 * time.Millisecond},
		{"the second overtakes", []attempt{{takes: time.Minute}, {takes: 50 * time.Millisecond}}, 1, raceDelay + 50*time.Millisecond},
		{"a failure starts the next at once", []attempt{{err: refused}, {takes: 50 * time.Millisecond}}, 1, 50 * time.Millisecond},
		{"the slow first wins after all", []attempt{{takes: 300 * time.Millisecond}, {takes: time.Second}}, 0, 300 * time.Millisecond},
		{"all fail", []attempt{{err: refused}, {err: refused}, {err: refused}}, -1, 0},
		{"only one", []attempt{{takes: time.Second}}, 0, time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				i, conn, err := race(t.Context(), len(tt.attempts), func(ctx context.Context, i int) (net.Conn, error) {
					a := tt.attempts[i]
					select {
					case <-time.After(a.takes):
					case <-ctx.Done():
						return nil, ctx.Err()
					}
					if a.err != nil {
						return nil, a.err
					}
					c, _ := net.Pipe()
					return c, nil
				})
				switch {
				case tt.winner < 0 && !errors.Is(err, refused):
					t.Errorf("err = %v", err)
				case tt.winner >= 0 && (err != nil || conn == nil || i != tt.winner):
					t.Errorf("winner %d, err %v; want %d", i, err, tt.winner)
				}
				if took := time.Since(start); took != tt.took {
					t.Errorf("took %v, want %v", took, tt.took)
				}
				synctest.Wait()
			})
		})
	}
}

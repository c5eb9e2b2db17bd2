package wan

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// send has a packet enter that holds text.
func send(t *traffic, way int, text string) {
	b := append(t.buffer()[:0], packet4(0, append(tcpHeader(flagACK), text...))...)
	t.enter(way, b, t.now())
}

// drain waits for every packet that is under way and returns "way text at" for each, in their order.
func drain(t *traffic) []string {
	var came []string
	write := func(way int, packet []byte) error {
		came = append(came, fmt.Sprintf("%d %s %v", way, packet[52:], t.now()))
		return nil
	}
	for {
		due, some := t.next()
		if !some {
			return came
		}
		time.Sleep(due - t.now())
		for t.leave(write) {
		}
	}
}

func TestTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTraffic(Config{Shape: Shape{Delay: 100 * time.Millisecond}}, time.Now())
		send(l, near, "a")
		time.Sleep(time.Millisecond)
		send(l, far, "b")
		time.Sleep(time.Millisecond)
		l.reshape(Shape{Delay: time.Millisecond})
		send(l, near, "c") // behind a
		send(l, far, "d")  // behind b
		got := drain(l)
		want := []string{"0 a 100ms", "0 c 100ms", "1 b 101ms", "1 d 101ms"}
		if !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		segments := l.copySegments()
		for i, arrives := range []time.Duration{100, 101, 100, 101} {
			if s := segments[i]; s.Arrives.Sub(l.base) != arrives*time.Millisecond {
				t.Errorf("%s: %v", s.Data, s.Arrives.Sub(l.base))
			}
		}
		if s := l.stats; s.Packets != 4 || s.Delivered != 4 || s.Octets != 4*53 || s.Late != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// Where packets are dense they are delivered together, none of them before its time.
func TestGather(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const step = gather / 5
		for _, n := range []int{gatherFrom - 1, gatherFrom} {
			l := newTraffic(Config{Shape: Shape{Delay: time.Second}}, time.Now())
			for i := range n {
				send(l, i%2, fmt.Sprint(i))
				time.Sleep(step)
			}
			got := drain(l)
			for i, came := range got[:6] {
				at := time.Second + time.Duration(i)*step
				if n >= gatherFrom {
					at = time.Second + gather // the last of the six
				}
				if want := fmt.Sprintf("%d %d %v", i%2, i, at); came != want {
					t.Errorf("%d packets: %q, want %q", n, came, want)
				}
			}
			if late := l.stats.Late; late != 0 && n < gatherFrom || late > gather {
				t.Errorf("%d packets: late by %v", n, late)
			}
		}
	})
}

func TestUnderWayIsBounded(t *testing.T) {
	l := newTraffic(Config{Shape: Shape{Delay: time.Hour}, MTU: MaxMTU}, time.Now())
	for range l.limit + 10 {
		send(l, near, "")
	}
	send(l, far, "")
	if l.stats.Dropped != 10 || l.limit*MaxMTU > maxUnderWay {
		t.Errorf("%d dropped beyond %d", l.stats.Dropped, l.limit)
	}
	segments := l.copySegments()
	if last := segments[l.limit+9]; !last.Lost() || segments[0].Lost() || segments[l.limit+10].Lost() {
		t.Error("not the last are lost")
	}
	l.abandon()
	for i, s := range l.copySegments() {
		if !s.Lost() {
			t.Fatalf("segment %d is expected at %v still", i, s.Arrives)
		}
	}
}

func TestLostSegments(t *testing.T) {
	l := newTraffic(Config{Shape: Shape{Loss: 1}}, time.Now())
	send(l, near, "a")
	if s := l.copySegments(); !s[0].Lost() || l.stats.Lost != 1 || len(l.spare) != 1 {
		t.Errorf("%+v, %+v, %d buffers", s, l.stats, len(l.spare))
	}
}

// A packet that the receiving kernel does not take is lost.
func TestRefusedPacket(t *testing.T) {
	l := newTraffic(Config{}, time.Now())
	send(l, near, "a")
	if !l.leave(func(int, []byte) error { return errors.New("no") }) {
		t.Fatal("nothing was due")
	}
	if s := l.copySegments(); !s[0].Lost() || l.stats.Dropped != 1 || l.stats.Delivered != 0 {
		t.Errorf("%+v, %+v", s, l.stats)
	}
}

func TestQueue(t *testing.T) {
	var q queue
	pushed, popped := 0, 0
	for step := range 2000 {
		for range step % 7 {
			q.push(packet{due: time.Duration(pushed)})
			pushed++
		}
		for range min(step%5, q.len()) {
			if p := q.pop(); p.due != time.Duration(popped) {
				t.Fatalf("%d came for %d", p.due, popped)
			}
			popped++
		}
	}
	if q.len() != pushed-popped || q.at(0).due != time.Duration(popped) || q.at(q.len()-1).due != time.Duration(pushed-1) {
		t.Errorf("%d pushed, %d popped, %d left", pushed, popped, q.len())
	}
}

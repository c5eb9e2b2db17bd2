package wan

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestCapture(t *testing.T) {
	defer goleak.VerifyNone(t)
	var file bytes.Buffer
	c, err := newCapture(&file)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1700000000, 123456789)
	packet := packet4(0, append(tcpHeader(flagACK), "NOOP\r\n"...))
	for range 1000 {
		c.add(packet, at)
	}
	if err := c.end(); err != nil {
		t.Fatal(err)
	}
	c.add(packet, at) // too late
	head, rest := file.Bytes()[:24], file.Bytes()[24:]
	want := []byte{0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 101, 0, 0, 0}
	if !bytes.Equal(head, want) {
		t.Errorf("head % x", head)
	}
	if len(rest) != 1000*(16+len(packet)) {
		t.Fatalf("%d octets behind the head", len(rest))
	}
	for i, number := range []uint32{1700000000, 123456789, uint32(len(packet)), uint32(len(packet))} {
		if got := binary.LittleEndian.Uint32(rest[4*i:]); got != number {
			t.Errorf("field %d is %d, want %d", i, got, number)
		}
	}
	if !bytes.Equal(rest[16:16+len(packet)], packet) {
		t.Error("another packet")
	}
}

// stuck is a writer that waits from its second write on.
type stuck struct {
	writes atomic.Int32
	free   chan struct{}
}

func (s *stuck) Write(p []byte) (int, error) {
	if s.writes.Add(1) > 1 {
		<-s.free
	}
	return len(p), nil
}

// A writer that is too slow costs the capture packets, and the link nothing.
func TestSlowCapture(t *testing.T) {
	defer goleak.VerifyNone(t)
	w := &stuck{free: make(chan struct{})}
	c, err := newCapture(w)
	if err != nil {
		t.Fatal(err)
	}
	packet := make([]byte, 64<<10)
	for range 2*captureBacklog/len(packet) + 2 { // what the writer has, and what waits
		c.add(packet, time.Time{})
	}
	close(w.free)
	if err := c.end(); err == nil || !strings.Contains(err.Error(), "left out") {
		t.Errorf("error %v", err)
	}
}

// A writer that does not return costs the capture what is left, and whoever ends it no more than CaptureLinger.
func TestStuckCapture(t *testing.T) {
	for name, before := range map[string]int32{"head": 1, "packets": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &Link{traffic: newTraffic(Config{}, time.Now()), carrier: &carrier{done: make(chan struct{})}}
				w := &stuck{free: make(chan struct{})}
				w.writes.Store(before)
				begun := time.Now()
				err := l.Capture(w)
				if before == 0 {
					if err != nil {
						t.Fatal(err)
					}
					for range 3 { // one is with the writer, the others wait
						l.traffic.judge(near, packet4(0, tcpHeader(flagACK)), 0)
						synctest.Wait()
					}
					err = l.Capture(nil) // as Close does
				}
				if !errors.Is(err, errStuck) || time.Since(begun) != CaptureLinger {
					t.Errorf("%v, after %v", err, time.Since(begun))
				}
				if err := l.Capture(nil); err != nil {
					t.Errorf("a capture that was given up is still there: %v", err)
				}
				writes := w.writes.Load()
				close(w.free)
				synctest.Wait() // the goroutine ends with the test's bubble, or that panics
				if more := w.writes.Load() - writes; more != 0 {
					t.Errorf("%d writes after the end", more)
				}
			})
		})
	}
}

// full is a writer that takes so many octets.
type full int

func (f *full) Write(p []byte) (int, error) {
	if *f -= full(len(p)); *f < 0 {
		return 0, errFull
	}
	return len(p), nil
}

var errFull = errors.New("no space")

func TestFailingCapture(t *testing.T) {
	defer goleak.VerifyNone(t)
	none, head := full(0), full(24)
	if _, err := newCapture(&none); !errors.Is(err, errFull) {
		t.Errorf("head: %v", err)
	}
	c, err := newCapture(&head)
	if err != nil {
		t.Fatal(err)
	}
	c.add([]byte{1}, time.Time{})
	if err := c.end(); !errors.Is(err, errFull) {
		t.Errorf("packet: %v", err)
	}
}

package wan_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"math"
	"net"
	"net/netip"
	"testing"
	"time"

	"slipstream/bench/meter"
	"slipstream/bench/wan"
)

// least is the shortest time that a segment took, and whether any overtook another of its direction.
func least(segments []meter.Segment) (took time.Duration, overtaken bool) {
	took = math.MaxInt64
	last := make(map[netip.Addr]time.Time)
	for _, s := range segments {
		if s.Lost() {
			continue
		}
		took = min(took, s.Arrives.Sub(s.At))
		overtaken = overtaken || s.Arrives.Before(last[s.From.Addr()])
		last[s.From.Addr()] = s.Arrives
	}
	return took, overtaken
}

// The delay is kept. A busy machine may make single packets late, so that it is the quickest that is looked at, but it
// makes none early.
func TestDelayIsKept(t *testing.T) {
	for _, delay := range []time.Duration{time.Millisecond, 50 * time.Millisecond} {
		l := open(t, wan.Config{Shape: wan.Shape{Delay: delay}})
		address := listen(t, l.Far(), l.Far().Addr(), echo)
		for range 10 {
			begun := time.Now()
			conn := dial(t, l.Near(), l.Near().Addr(), address)
			if took := time.Since(begun); took < 2*delay {
				t.Errorf("connected within %v", took)
			}
			conn.Close()
		}
		settle(t, l)
		took, overtaken := least(l.Segments())
		if took < delay || took > delay+time.Millisecond || overtaken {
			t.Errorf("%v became %v, overtaken %v", delay, took, overtaken)
		}
		if late := l.Carried().Late; late <= 0 || late > time.Minute {
			t.Errorf("late by %v", late)
		}
	}
}

func TestJitterDoesNotReorder(t *testing.T) {
	const delay, jitter = 5 * time.Millisecond, 4 * time.Millisecond
	l := open(t, wan.Config{Shape: wan.Shape{Delay: delay, Jitter: jitter, Seed: 7}})
	conn := dial(t, l.Near(), l.Near().Addr(), listen(t, l.Far(), l.Far().Addr(), echo))
	for range 20 {
		say(t, conn, string(make([]byte, 20_000)))
	}
	settle(t, l)
	took, overtaken := least(l.Segments())
	if overtaken || took < delay-jitter || took >= delay {
		t.Errorf("the quickest took %v, overtaken %v", took, overtaken)
	}
}

// udp makes a socket at a side.
func udp(t *testing.T, s *wan.Side) net.PacketConn {
	t.Helper()
	var conn net.PacketConn
	err := s.Do(func() (err error) {
		conn, err = net.ListenPacket("udp", netip.AddrPortFrom(s.Addr(), 0).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestLossOnTheLink(t *testing.T) {
	const n, share = 5000, 0.1
	l := open(t, wan.Config{Shape: wan.Shape{Loss: share, Seed: 42}})
	from, to := udp(t, l.Near()), udp(t, l.Far())
	for i := range n {
		if _, err := from.WriteTo([]byte{byte(i)}, to.LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	await(t, func() string {
		if s := l.Carried(); s.Delivered+s.Lost+s.Dropped < s.Packets || s.Packets+s.Missed < n {
			return "packets are under way"
		}
		return ""
	})
	s := l.Carried()
	// Six standard deviations of a binomial distribution: one run in five hundred million is outside.
	if want, spread := n*share, 6*math.Sqrt(n*share*(1-share)); math.Abs(float64(s.Lost)-want) > spread {
		t.Errorf("%d of %d lost, want %.0f ± %.0f", s.Lost, n, want, spread)
	}
	if len(l.Segments()) != 0 {
		t.Error("a datagram counts as a segment")
	}
}

// TCP gets its text across in spite of loss, and the segments tell what was lost.
func TestTCPOverLoss(t *testing.T) {
	l := open(t, wan.Config{Shape: wan.Shape{Delay: time.Millisecond, Loss: 0.05, Seed: 1}})
	conn := dial(t, l.Near(), l.Near().Addr(), listen(t, l.Far(), l.Far().Addr(), echo))
	text := bytes.Repeat([]byte("A line of text, as they are.\r\n"), 3000)
	go conn.Write(text)
	back := make([]byte, len(text))
	if _, err := io.ReadFull(conn, back); err != nil || !bytes.Equal(back, text) {
		t.Fatalf("another text came back: %v", err)
	}
	lost := int64(0)
	for _, s := range l.Segments() {
		if s.Lost() {
			lost++
		}
	}
	if s := l.Carried(); lost == 0 || lost > s.Lost {
		t.Errorf("%d segments are marked as lost, %d packets were", lost, s.Lost)
	}
}

// No busy machine makes a link faster than its rate.
func TestRateIsKept(t *testing.T) {
	const rate, size = 20e6, 300_000
	l := open(t, wan.Config{Shape: wan.Shape{Delay: time.Millisecond, Rate: rate}})
	conn := dial(t, l.Near(), l.Near().Addr(), listen(t, l.Far(), l.Far().Addr(), func(conn net.Conn) {
		if _, err := io.CopyN(io.Discard, conn, size); err == nil {
			conn.Write([]byte{1})
		}
	}))
	if _, err := conn.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	var first, last time.Time
	octets := 0
	for _, s := range l.Segments() {
		if s.From.Addr() != l.Near().Addr() || s.Len == 0 || s.Lost() {
			continue
		}
		if first.IsZero() {
			first = s.Arrives
		} else {
			octets += s.Size
		}
		last = s.Arrives
	}
	// The first may have been delivered late; everything behind it is still a queue at the rate.
	least := time.Duration(float64(octets)*8/rate*1e9) - l.Carried().Late
	if took := last.Sub(first); octets < size*9/10 || took < least {
		t.Errorf("%d octets within %v, less than %v", octets, took, least)
	}
}

// With less room than TCP wants to use, packets are dropped and the text arrives nevertheless.
func TestQueueIsBounded(t *testing.T) {
	l := open(t, wan.Config{Shape: wan.Shape{Delay: 5 * time.Millisecond, Rate: 10e6, Queue: 5 * time.Millisecond}})
	conn := dial(t, l.Near(), l.Near().Addr(), listen(t, l.Far(), l.Far().Addr(), echo))
	go conn.Write(make([]byte, 200_000))
	if _, err := io.CopyN(io.Discard, conn, 200_000); err != nil {
		t.Fatal(err)
	}
	if s := l.Carried(); s.Dropped == 0 || s.Lost != 0 {
		t.Errorf("%+v", s)
	}
}

// What is under way when the shape changes arrives first, and no sooner.
func TestSetShape(t *testing.T) {
	const slow = 100 * time.Millisecond
	l := open(t, wan.Config{})
	if err := l.SetShape(wan.Shape{Loss: 2}); err == nil {
		t.Error("a loss of 200 % was accepted")
	}
	from, to := udp(t, l.Near()), udp(t, l.Far())
	begun := time.Now()
	for i, shape := range []wan.Shape{{Delay: slow}, {}} {
		if err := l.SetShape(shape); err != nil {
			t.Fatal(err)
		}
		if _, err := from.WriteTo([]byte{byte(i)}, to.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		await(t, func() string {
			if l.Carried().Packets <= int64(i) {
				return "the packet has not entered the link"
			}
			return ""
		})
	}
	for i := range 2 {
		b := make([]byte, 10)
		if _, _, err := to.ReadFrom(b); err != nil || b[0] != byte(i) {
			t.Errorf("packet %d: %v, %v", i, b[0], err)
		}
		if took := time.Since(begun); took < slow {
			t.Errorf("packet %d was there after %v", i, took)
		}
	}
}

// What is captured is what was carried.
func TestCaptureOfTheLink(t *testing.T) {
	l := open(t, wan.Config{Shape: wan.Shape{Delay: 10 * time.Millisecond}})
	var file bytes.Buffer
	if err := l.Capture(&file); err != nil {
		t.Fatal(err)
	}
	conn := dial(t, l.Near(), l.Near().Addr(), listen(t, l.Far(), l.Far().Addr(), echo))
	say(t, conn, "EHLO near.test\r\n")
	if err := l.Capture(nil); err != nil {
		t.Fatal(err)
	}
	b := file.Bytes()
	if len(b) < 24 || binary.LittleEndian.Uint32(b) != 0xa1b23c4d || binary.LittleEndian.Uint32(b[20:]) != 101 {
		t.Fatalf("head % x", b[:min(len(b), 24)])
	}
	segments := l.Segments()
	for b = b[24:]; len(b) > 0; segments = segments[1:] {
		at := time.Unix(int64(binary.LittleEndian.Uint32(b)), int64(binary.LittleEndian.Uint32(b[4:])))
		size := int(binary.LittleEndian.Uint32(b[8:]))
		packet := b[16 : 16+size]
		s := segments[0]
		if !at.Equal(s.At) || size != s.Size || !bytes.HasSuffix(packet, s.Data) || packet[0] != 4<<4|5 {
			t.Errorf("at %v % x for %+v", at, packet, s)
		}
		if full := binary.LittleEndian.Uint32(b[12:]); int(full) != size {
			t.Errorf("%d of %d octets", size, full)
		}
		b = b[16+size:]
	}
	if len(segments) > 2 { // acknowledgements that came when the capture had ended
		t.Errorf("%d segments were not captured", len(segments))
	}
}

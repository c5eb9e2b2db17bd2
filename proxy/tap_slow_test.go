package proxy

import (
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"slipstream/bench/netsim"
	"slipstream/bench/refpeer"
)

// A tapStub is a directory that does what a test says.
type tapStub struct {
	write func(c *tapCopy) error
	held  atomic.Int64
	puts  atomic.Int64
}

func (s *tapStub) current() bool        { return true }
func (s *tapStub) used() (int64, error) { return s.held.Load(), nil }
func (s *tapStub) close()               {}
func (s *tapStub) put(c *tapCopy) error {
	s.puts.Add(1)
	if s.write == nil {
		return nil
	}
	return s.write(c)
}

// startTap starts the proxy with such a directory.
func (w *world) startTap(place tapPlace) *observer.ObservedLogs {
	w.t.Helper()
	p := w.build()
	core, logs := observer.New(zap.InfoLevel)
	p.tap.log, p.log = zap.New(core), zap.New(core)
	p.tap.open = func(string) (tapPlace, error) { return place, nil }
	if err := p.Start(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(w.stop)
	return logs
}

// A disk that hangs delays nobody by anything: not the messages, not those that
// come when more wait than may, and the end of the service by no more than it may.
func TestTapHungDisk(t *testing.T) {
	const messages = 2*maxTapWaiting + 10
	run := func(t *testing.T, place tapPlace) (took []time.Duration, w *world) {
		w = newWorld(t)
		w.net.SetLink(clientHost, proxyHost, netsim.Link{Delay: 2 * time.Millisecond})
		w.net.SetLink(proxyHost, mxHost, netsim.Link{Delay: 10 * time.Millisecond})
		w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern(), Record: -1, Brief: true})
		w.outbound(func(o *OutboundConfig) { o.PoolIdle = time.Minute })
		w.cfg.Limits.MaxTransactions, w.cfg.Limits.SpoolMemoryPerMessage = messages+1, minSpoolChunk
		if place != nil {
			w.cfg.Tap.Dir = "/hangs"
		}
		w.startTap(place)
		c := w.client(outboundAt)
		c.ask("EHLO client.example", "250")
		for i := range messages {
			begun := time.Now()
			text := "Subject: x\r\n\r\n"
			if i%10 == 0 {
				text += strings.Repeat("long\r\n", minSpoolChunk) // some are in a file
			}
			c.talk(tapEnvelopeLines, "250 | 250 | 354 ", text+".", "250 ")
			took = append(took, time.Since(begun))
		}
		return took, w
	}
	var without []time.Duration
	synctest.Test(t, func(t *testing.T) { without, _ = run(t, nil) })
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		stub := &tapStub{write: func(*tapCopy) error { <-release; return nil }}
		with, w := run(t, stub)
		for i := range with {
			if with[i] != without[i] {
				t.Fatalf("message %d took %v with a disk that hangs, %v without a tap", i, with[i], without[i])
			}
		}
		tap := w.proxy.tap
		tap.mu.Lock()
		waiting := tap.waiting
		tap.mu.Unlock()
		if waiting.files != maxTapFiles || waiting.memory > tap.memory ||
			waiting.copies < maxTapWaiting/2 || waiting.copies > maxTapWaiting {
			t.Errorf("waiting: %+v of %d octets of memory", waiting, tap.memory)
		}
		if n := w.counterOf("slipstream_tap_left_out_total", "why", tapBusy); n != float64(messages-waiting.copies) {
			t.Errorf("%v were left out, want %d", n, messages-waiting.copies)
		}
		begun := time.Now()
		if err := w.proxy.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if d := time.Since(begun); d < tapFlush || d > tapFlush+3*time.Second {
			t.Errorf("the service ended after %v", d)
		}
		if n := w.counterOf("slipstream_tap_left_out_total", "why", tapStopping); n != float64(waiting.copies-1) {
			t.Errorf("%v were left at the end, want %d", n, waiting.copies-1)
		}
		close(release)
		synctest.Wait()
		if free := w.proxy.spools.free.Load(); free != int64(w.cfg.Limits.SpoolMemory) {
			t.Errorf("%d octets of memory are left, want all of %d", free, w.cfg.Limits.SpoolMemory)
		}
	})
}

// A service that ends has written what a disk takes in time.
func TestTapFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern()})
		w.outbound()
		w.cfg.Tap.Dir = "/slow"
		stub := &tapStub{write: func(*tapCopy) error { time.Sleep(time.Second); return nil }}
		w.startTap(stub)
		c := w.client(outboundAt)
		c.ask("EHLO client.example", "250")
		for range 4 {
			c.talk(tapEnvelopeLines, "250 | 250 | 354 ", "Subject: x\r\n\r\n.", "250 ")
		}
		begun := time.Now()
		if err := w.proxy.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if n := stub.puts.Load(); n != 4 || time.Since(begun) > tapFlush {
			t.Errorf("%d were written after %v", n, time.Since(begun))
		}
		if n := w.counter("slipstream_tap_copies_total", "outbound"); n != 4 {
			t.Errorf("%v were counted", n)
		}
	})
}

// A disk that fails is left alone for a second, and the log says so once a
// minute; that a copy is left out is in the transaction's line.
func TestTapFailingDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern()})
		w.outbound()
		w.cfg.Tap.Dir, w.cfg.Limits.MaxTransactions = "/full", 10000
		fails := true
		stub := &tapStub{write: func(*tapCopy) error {
			if fails {
				return syscall.ENOSPC
			}
			return nil
		}}
		logs := w.startTap(stub)
		c := w.client(outboundAt)
		c.ask("EHLO client.example", "250")
		send := func() {
			c.talk(tapEnvelopeLines, "250 | 250 | 354 ", "Subject: x\r\n\r\n.", "250 ")
			synctest.Wait()
			time.Sleep(100 * time.Millisecond)
		}
		for range 1210 { // two minutes and a second
			send()
		}
		if n := stub.puts.Load(); n < 110 || n > 122 {
			t.Errorf("the disk was asked %d times", n)
		}
		if n := w.counterOf("slipstream_tap_left_out_total", "why", tapDisk); n != 1210 {
			t.Errorf("%v were left out", n)
		}
		warned := logs.FilterMessage("tap: messages are not copied").All()
		if len(warned) != 3 {
			t.Fatalf("%d warnings", len(warned))
		}
		said := warned[1].ContextMap()
		if said["count"].(int64) < 500 || said["why"] != tapDisk || warned[0].ContextMap()["error"] == nil {
			t.Errorf("the log says %v, then %v", warned[0].ContextMap(), said)
		}
		fails = false
		time.Sleep(tapPause)
		send()
		lines := logs.FilterMessage("outbound").All()
		n := len(lines)
		was, is := lines[n-2].ContextMap()["tap"], lines[n-1].ContextMap()["tap"].(string)
		if was != "left out: disk" || !strings.Contains(is, "-") {
			t.Errorf("tap=%q, then tap=%q", was, is)
		}
	})
}

// Where the directory is full and nobody reads it, it is not counted more often
// than is good; when it was emptied, copies are made again.
func TestTapFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern()})
		w.outbound()
		w.cfg.Tap.Dir, w.cfg.Tap.MaxSize, w.cfg.Limits.MaxTransactions = "/small", megabyte, 10000
		stub := &tapStub{}
		stub.write = func(c *tapCopy) error { stub.held.Add(c.size()); return nil }
		w.startTap(stub)
		c := w.client(outboundAt)
		c.ask("EHLO client.example", "250")
		send := func(text string) {
			c.talk(tapEnvelopeLines, "250 | 250 | 354 ", "Subject: x\r\n\r\n"+text+".", "250 ")
			synctest.Wait()
		}
		send(strings.Repeat(strings.Repeat("x", 98)+"\r\n", 10001)) // more than may be there at all
		for range 200 {
			send("")
		}
		const each, fit = 2 * blockSize, int64(megabyte) / (2 * blockSize)
		if n := stub.puts.Load(); n != fit {
			t.Errorf("%d copies were made, want %d", n, fit)
		}
		if n := w.counterOf("slipstream_tap_left_out_total", "why", tapFull); n != float64(201-fit) {
			t.Errorf("%v were left out, want %d", n, 201-fit)
		}
		stub.held.Store(10 * each)
		time.Sleep(minCount)
		for range 5 {
			send("")
		}
		if n := stub.puts.Load(); n != fit+5 {
			t.Errorf("%d copies were made, want %d", n, fit+5)
		}
	})
}

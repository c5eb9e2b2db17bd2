package wan

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"
	"time"
)

// captureBacklog is how many octets may wait for a capture's writer. What comes while they do is left out of the
// capture, so that a slow disk does not delay packets.
const captureBacklog = 16 << 20

// CaptureLinger is how long a capture's writer may take over what was not written yet when the capture ends, and over
// the head when it begins. After that it is left alone with what it has, and is given no more.
const CaptureLinger = 5 * time.Second

// Numbers of the capture file: https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-05.html
const (
	pcapMagic    = 0xa1b23c4d // times are in nanoseconds
	pcapLinkRaw  = 101        // packets begin with their IP header
	pcapSnap     = 65535
	pcapFileHead = 24
	pcapHead     = 16 // of each packet
)

// A capture writes packets to a file. One goroutine does the writing.
type capture struct {
	w     io.Writer
	wake  chan struct{} // something is pending, or end was called
	begun chan struct{} // the head is written, or cannot be
	done  chan struct{} // the goroutine has ended

	mu      sync.Mutex // guards what follows; never held while w is written to, for add must not wait
	pending []byte
	missed  int // packets left out
	ended   bool
	err     error // of w
}

// newCapture starts the goroutine, which ends with end, and has it write the head of the file.
func newCapture(w io.Writer) (*capture, error) {
	c := &capture{w: w, wake: make(chan struct{}, 1), begun: make(chan struct{}), done: make(chan struct{})}
	go c.run()
	c.await(c.begun)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil, c.err
	}
	return c, nil
}

func captureHead() []byte {
	head := make([]byte, 0, pcapFileHead)
	head = binary.LittleEndian.AppendUint32(head, pcapMagic)
	head = binary.LittleEndian.AppendUint16(head, 2) // version 2.4
	head = binary.LittleEndian.AppendUint16(head, 4)
	head = append(head, make([]byte, 8)...) // reserved
	head = binary.LittleEndian.AppendUint32(head, pcapSnap)
	return binary.LittleEndian.AppendUint32(head, pcapLinkRaw)
}

// add takes a packet over, at once.
func (c *capture) add(packet []byte, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.ended || c.err != nil:
		return
	case len(c.pending)+pcapHead+len(packet) > captureBacklog:
		c.missed++
		return
	}
	kept := min(len(packet), pcapSnap)
	c.pending = binary.LittleEndian.AppendUint32(c.pending, uint32(at.Unix()))
	c.pending = binary.LittleEndian.AppendUint32(c.pending, uint32(at.Nanosecond()))
	c.pending = binary.LittleEndian.AppendUint32(c.pending, uint32(kept))
	c.pending = binary.LittleEndian.AppendUint32(c.pending, uint32(len(packet)))
	c.pending = append(c.pending, packet[:kept]...)
	c.signal()
}

func (c *capture) signal() {
	select {
	case c.wake <- struct{}{}:
	default: // it is awake already
	}
}

// run writes what is pending until end was called and nothing is.
func (c *capture) run() {
	defer close(c.done)
	_, err := c.w.Write(captureHead())
	if err != nil {
		c.fail(err)
	}
	close(c.begun)
	if err != nil {
		return
	}
	var spare []byte
	for {
		c.mu.Lock()
		batch, ended := c.pending, c.ended
		c.pending = spare[:0]
		c.mu.Unlock()
		spare = batch
		switch {
		case len(batch) > 0:
			if _, err := c.w.Write(batch); err != nil {
				c.fail(err)
				return
			}
		case ended:
			return
		default:
			<-c.wake
		}
	}
}

func (c *capture) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pending = nil; c.err == nil {
		c.err = fmt.Errorf("wan: capture: %w", err)
	}
}

// await waits until the writer is done with something, or fails the capture: the writer has then the goroutine to
// itself, which ends when the writer returns.
func (c *capture) await(done <-chan struct{}) {
	linger := time.NewTimer(CaptureLinger)
	defer linger.Stop()
	select {
	case <-done:
	case <-linger.C:
		c.mu.Lock()
		c.ended = true
		c.mu.Unlock()
		c.fail(errStuck)
	}
}

// errStuck says why a capture was given up.
var errStuck = fmt.Errorf("the writer did not return within %v; what it has not written is lost", CaptureLinger)

// end has the goroutine write out what is pending and waits for it, no longer than CaptureLinger. The error says why the
// file is not complete.
func (c *capture) end() error {
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	c.signal()
	c.await(c.done)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil && c.missed > 0 {
		return fmt.Errorf("wan: capture: %d packets left out: the writer was too slow", c.missed)
	}
	return c.err
}

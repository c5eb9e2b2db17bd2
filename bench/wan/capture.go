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
	w    io.Writer
	wake chan struct{} // something is pending, or end was called
	done chan struct{} // the goroutine has ended

	mu      sync.Mutex // guards what follows; never held while w is written to, for add must not wait
	pending []byte
	missed  int // packets left out
	ended   bool
	err     error // of w
}

// newCapture writes the head of the file and starts the goroutine, which ends with end.
func newCapture(w io.Writer) (*capture, error) {
	head := make([]byte, 0, pcapFileHead)
	head = binary.LittleEndian.AppendUint32(head, pcapMagic)
	head = binary.LittleEndian.AppendUint16(head, 2) // version 2.4
	head = binary.LittleEndian.AppendUint16(head, 4)
	head = append(head, make([]byte, 8)...) // reserved
	head = binary.LittleEndian.AppendUint32(head, pcapSnap)
	head = binary.LittleEndian.AppendUint32(head, pcapLinkRaw)
	if _, err := w.Write(head); err != nil {
		return nil, fmt.Errorf("wan: capture: %w", err)
	}
	c := &capture{w: w, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go c.run()
	return c, nil
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
	c.err, c.pending = fmt.Errorf("wan: capture: %w", err), nil
}

// end has the goroutine write out what is pending and waits for it. The error says why the file is not complete.
func (c *capture) end() error {
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	c.signal()
	<-c.done
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil && c.missed > 0 {
		return fmt.Errorf("wan: capture: %d packets left out: the writer was too slow", c.missed)
	}
	return c.err
}

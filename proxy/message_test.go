package proxy

import (
	"errors"
	"strings"
	"testing"
)

func TestHeadScan(t *testing.T) {
	received := "Received: from a by b; date\r\n"
	tests := []struct {
		name     string
		text     string
		size     int64
		max      int
		received int
		err      error
	}{
		{name: "counts Received fields, whatever their case",
			text: received + "RECEIVED: x\r\nreceived: y\r\nSubject: z\r\n\r\n", received: 3},
		{name: "stops at the blank line",
			text: received + "\r\n" + received + received, received: 1},
		{name: "a continuation line is not a field",
			text: "Subject: x\r\n Received: y\r\n\r\n", received: 0},
		{name: "a longer name is another field",
			text: "Received-SPF: pass\r\nX-Received: y\r\n\r\n", received: 0},
		{name: "a message that is all header",
			text: received + "Received: last", received: 1},
		{name: "a first line that is blank",
			text: "\r\n" + received, received: 0},
		{name: "too many hops",
			text: strings.Repeat(received, 4) + "\r\n", max: 3, received: 4, err: errTooManyHops},
		{name: "as many as allowed",
			text: strings.Repeat(received, 3) + "\r\n", max: 3, received: 3},
		{name: "a header section without end",
			text: strings.Repeat("X: y\r\n", 100), size: 100, err: errHeaderTooLarge},
		{name: "a single line without end",
			text: strings.Repeat("x", 101), size: 100, err: errHeaderTooLarge},
		{name: "a large body is none of its business",
			text: "A: b\r\n\r\n" + strings.Repeat("x", 1000), size: 100},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, step := range []int{1, 2, 3, 7, len(tt.text)} {
				h := headScan{maxSize: tt.size, maxReceived: tt.max}
				var err error
				for rest := tt.text; rest != "" && err == nil; {
					n := min(step, len(rest))
					err = h.scan([]byte(rest[:n]))
					rest = rest[n:]
				}
				if !errors.Is(err, tt.err) {
					t.Fatalf("in steps of %d: err = %v, want %v", step, err, tt.err)
				}
				if err == nil && h.received != tt.received {
					t.Errorf("in steps of %d: %d Received fields, want %d", step, h.received, tt.received)
				}
			}
		})
	}
}

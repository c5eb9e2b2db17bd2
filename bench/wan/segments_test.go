package wan

import (
	"bytes"
	"testing"
	"time"

	"slipstream/bench/meter"
)

func all(m *segments) []meter.Segment {
	var s []meter.Segment
	for i := 0; ; i++ {
		block, ok := m.block(i)
		if !ok {
			return s
		}
		s = append(s, block...)
	}
}

func TestSegmentsCopyTheirData(t *testing.T) {
	m := segments{snap: 4}
	data := []byte("first text")
	m.add(meter.Segment{Len: len(data), Data: data})
	copy(data, "other")
	m.add(meter.Segment{Len: 2, Data: data[:2]})
	m.add(meter.Segment{})
	got := all(&m)
	if len(got) != 3 || string(got[0].Data) != "firs" || got[0].Len != 10 || string(got[1].Data) != "ot" ||
		got[2].Data != nil {
		t.Errorf("%+v", got)
	}
	// What was returned cannot run into its neighbour.
	_ = append(got[0].Data, "XX"...)
	if again := all(&m); string(again[1].Data) != "ot" {
		t.Errorf("%+v", again)
	}
}

func TestSegmentsArrived(t *testing.T) {
	m := segments{}
	at := time.Unix(1000, 0)
	var places []place
	for range 2*blockSegments + 1 {
		places = append(places, m.add(meter.Segment{Arrives: at}))
	}
	m.arrived(places[0], at.Add(time.Second))
	m.arrived(places[2*blockSegments], time.Time{})
	m.arrived(place{}, time.Time{})
	got := all(&m)
	if !got[0].Arrives.Equal(at.Add(time.Second)) || !got[2*blockSegments].Lost() || !got[1].Arrives.Equal(at) {
		t.Error("a segment has another's arrival")
	}
	m.reset()
	m.add(meter.Segment{Arrives: at})
	m.arrived(places[0], time.Time{}) // of a segment that is forgotten
	if got := all(&m); len(got) != 1 || got[0].Lost() {
		t.Errorf("%+v", got)
	}
}

func TestSegmentsLimits(t *testing.T) {
	m := segments{}
	for range MaxSegments {
		m.add(meter.Segment{})
	}
	if m.overflow {
		t.Error("overflow at the limit")
	}
	p := m.add(meter.Segment{})
	if !m.overflow || p != (place{}) || len(all(&m)) != MaxSegments {
		t.Errorf("beyond the limit: overflow %v, %v, %d segments", m.overflow, p, len(all(&m)))
	}
	m.reset()
	if m.overflow || len(all(&m)) != 0 {
		t.Error("reset forgot too little")
	}
}

func TestSegmentsDataLimit(t *testing.T) {
	const snap = 3 * blockData // blocks of its own
	m := segments{snap: snap}
	data := bytes.Repeat([]byte("x"), snap)
	for range MaxData / snap {
		m.add(meter.Segment{Len: snap, Data: data})
	}
	if m.overflow || m.octets > MaxData {
		t.Fatalf("overflow %v with %d octets", m.overflow, m.octets)
	}
	m.add(meter.Segment{Len: snap, Data: data})
	got := all(&m)
	if last := got[len(got)-1]; !m.overflow || last.Data != nil || last.Len != snap || m.octets > MaxData {
		t.Errorf("beyond the limit: overflow %v, %d octets, %d kept", m.overflow, m.octets, len(last.Data))
	}
}

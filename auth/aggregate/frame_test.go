package aggregate

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func mustFrame(t testing.TB, key uint64, payload string) []byte {
	t.Helper()
	b, err := appendFrame(nil, key, []byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// readAll returns what a reader makes of a file: "key:payload" of each frame, and the octets in none.
func readAll(t testing.TB, r io.Reader) (list []string, skipped int64) {
	t.Helper()
	frames := newFrameReader(r)
	for {
		f, err := frames.next()
		if errors.Is(err, io.EOF) {
			return list, frames.skipped
		}
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, fmt.Sprintf("%d:%s", f.key, f.payload))
	}
}

func TestFrames(t *testing.T) {
	a, b := mustFrame(t, 1, `{"a":1}`), mustFrame(t, 2, `{"b":2}`)
	long := mustFrame(t, 3, strings.Repeat("x", maxPayload))
	flipped := bytes.Clone(a)
	flipped[len(flipped)-1] ^= 1
	huge := bytes.Clone(a)
	huge[7] = 0xff
	cat := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	tests := []struct {
		name string
		file []byte
		want string
	}{
		{"empty", nil, ""},
		{"two", cat(a, b), `1:{"a":1} 2:{"b":2}`},
		{"torn", cat(a, b[:len(b)-1]), `1:{"a":1}`},
		{"torn in the magic", cat(a, b[:2]), `1:{"a":1}`},
		{"torn, then more", cat(a, b[:len(b)-1], a, b), `1:{"a":1} 1:{"a":1} 2:{"b":2}`},
		{"torn in the length, then more", cat(a, b[:6], b), `1:{"a":1} 2:{"b":2}`},
		{"a bit flipped", cat(a, flipped, b), `1:{"a":1} 2:{"b":2}`},
		{"a length flipped", cat(huge, b), `2:{"b":2}`},
		{"zeros", cat(a, make([]byte, 10*maxFrame), b), `1:{"a":1} 2:{"b":2}`},
		{"magic again and again", cat(bytes.Repeat([]byte(frameMagic), 1000), b), `2:{"b":2}`},
		{"first octets again and again", cat(bytes.Repeat([]byte{frameMagic[0]}, 1000), b), `2:{"b":2}`},
		{"empty payload", mustFrame(t, 7, ""), `7:`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, r := range []io.Reader{bytes.NewReader(test.file), iotest.OneByteReader(bytes.NewReader(test.file))} {
				if got, _ := readAll(t, r); strings.Join(got, " ") != test.want {
					t.Errorf("read %q, want %s", got, test.want)
				}
			}
		})
	}
	t.Run("longest", func(t *testing.T) {
		got, skipped := readAll(t, bytes.NewReader(cat(long, a, long)))
		if len(got) != 3 || skipped != 0 {
			t.Errorf("%d frames, %d octets skipped", len(got), skipped)
		}
		f, err := readFrameAt(bytes.NewReader(cat(a, long)), int64(len(a)))
		if err != nil || len(f.payload) != maxPayload {
			t.Error(len(f.payload), err)
		}
	})
	if _, err := appendFrame(nil, 0, make([]byte, maxPayload+1)); !errors.Is(err, errFrameTooLong) {
		t.Error(err)
	}
}

func TestGoodEnd(t *testing.T) {
	a := mustFrame(t, 1, `{"a":1}`)
	long := mustFrame(t, 3, strings.Repeat("x", maxPayload))
	tests := []struct {
		name       string
		good, tail []byte
	}{
		{"empty", nil, nil},
		{"whole", a, nil},
		{"torn", a, a[:9]},
		{"torn long", bytes.Repeat(long, 3), long[:len(long)-1]},
		{"zeros", a, make([]byte, 5*maxFrame)},
		{"nothing good", nil, a[:9]},
	}
	for _, test := range tests {
		file := append(bytes.Clone(test.good), test.tail...)
		end, err := goodEnd(bytes.NewReader(file), int64(len(file)))
		if err != nil || end != int64(len(test.good)) {
			t.Errorf("%s: %d, %v; want %d", test.name, end, err, len(test.good))
		}
	}
}

// FuzzFrames: whatever stands in a file, it is read the same in whatever pieces it comes, what is good behind it is
// found, and no octet is counted twice.
func FuzzFrames(f *testing.F) {
	f.Add([]byte(nil), []byte("{}"))
	f.Add([]byte(frameMagic), []byte("{}"))
	whole, err := appendFrame(nil, 9, []byte(`{"p":{}}`))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole, []byte(`{"r":{}}`))
	f.Add(whole[:len(whole)-2], []byte(`{"r":{}}`))
	f.Fuzz(func(t *testing.T, file, payload []byte) {
		if len(payload) > maxPayload {
			return
		}
		good, err := appendFrame(nil, 42, payload)
		if err != nil {
			t.Fatal(err)
		}
		file = append(bytes.Clone(file), good...)
		got, skipped := readAll(t, bytes.NewReader(file))
		pieces, _ := readAll(t, iotest.HalfReader(bytes.NewReader(file)))
		if strings.Join(got, "\n") != strings.Join(pieces, "\n") {
			t.Errorf("whole %q, in pieces %q", got, pieces)
		}
		if len(got) == 0 || got[len(got)-1] != "42:"+string(payload) {
			t.Errorf("the last of %q is not the good one", got)
		}
		frames := newFrameReader(bytes.NewReader(file))
		var octets int64
		for {
			next, err := frames.next()
			if err != nil {
				break
			}
			octets += int64(frameHeader + len(next.payload))
			again, err := readFrameAt(bytes.NewReader(file), next.at)
			if err != nil || string(again.payload) != string(next.payload) {
				t.Errorf("frame at %d: %v", next.at, err)
			}
		}
		if octets+skipped != int64(len(file)) {
			t.Errorf("%d octets of frames and %d skipped are not %d", octets, skipped, len(file))
		}
		if end, err := goodEnd(bytes.NewReader(file), int64(len(file))); err != nil || end != int64(len(file)) {
			t.Errorf("good end at %d of %d: %v", end, len(file), err)
		}
	})
}

// FuzzRecord: a record that can be read makes a report that can be written, or is left out.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"p":{"d":"example.com","m":"psl","p":"none","sp":"none","np":"none","ad":"r","as":"s",` +
		`"rua":["mailto:a@example.com"]},"r":{"ip":"::1","do":"none","hf":"example.com","mf":"<>"}}`))
	f.Add([]byte(`{"p":{"d":"EXAMPLE"},"r":{}}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		if len(payload) > maxPayload {
			return
		}
		var sum Summary
		m := &maker{day: 20000, sum: &sum, config: Config{Submitter: "mx.example.org", MaxMessage: 1 << 20}}
		documents := 0
		m.yield = func(r *Report) error {
			documents++
			var b bytes.Buffer
			if err := r.WriteXML(&b); err != nil {
				return err
			}
			for _, c := range b.String() {
				if c == 0xfffd || c < ' ' && c != '\n' {
					return fmt.Errorf("%q in the document", c)
				}
			}
			return nil
		}
		d := &domainRows{final: Published{Domain: "example.com"}}
		if err := m.add(d, payload); err != nil {
			t.Fatal(err)
		}
		if err := m.finish(d); err != nil {
			t.Fatal(err)
		}
		if documents+int(sum.LeftOut) != 1 {
			t.Errorf("%d documents, %d left out", documents, sum.LeftOut)
		}
	})
}

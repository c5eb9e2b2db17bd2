package aggregate

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
)

// A file is a row of frames: four octets that begin no JSON, the length of the payload, a CRC-32C of key and payload,
// all three of 4 octets, a key of 8, and the payload, which is JSON. All numbers have their lowest octet first.
//
// A frame that is not whole, because the machine stopped in the midst of it or the disk lost it, costs itself only:
// whoever reads goes on at the next four octets of that kind.
const (
	frameMagic  = "\xfbSR\x01" // no octet of JSON is 0xfb: strings are UTF-8
	frameHeader = len(frameMagic) + 4 + 4 + 8

	// maxPayload is far more than a [Record] within its own bounds needs.
	maxPayload = 16 << 10
	maxFrame   = frameHeader + maxPayload
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errFrameTooLong = errors.New("record too long")

// appendFrame appends a frame to dst.
func appendFrame(dst []byte, key uint64, payload []byte) ([]byte, error) {
	if len(payload) > maxPayload {
		return dst, errFrameTooLong
	}
	dst = append(dst, frameMagic...)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(payload)))
	sum := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint64(dst, key)
	dst = append(dst, payload...)
	binary.LittleEndian.PutUint32(dst[sum:], crc32.Checksum(dst[sum+4:], castagnoli))
	return dst, nil
}

// A frame is one that was read. Its payload is good until the next one is.
type frame struct {
	key     uint64
	payload []byte
	at      int64 // where it begins
}

// parseFrame reads the frame that b begins with; size is what it takes. need is how many octets must be there for that
// to be known; 0: here begins none.
func parseFrame(b []byte) (f frame, size, need int) {
	if len(b) < frameHeader {
		if bytes.HasPrefix(b, []byte(frameMagic)[:min(len(b), len(frameMagic))]) {
			return frame{}, 0, frameHeader
		}
		return frame{}, 0, 0
	}
	length := binary.LittleEndian.Uint32(b[4:])
	if string(b[:4]) != frameMagic || length > maxPayload {
		return frame{}, 0, 0
	}
	if size = frameHeader + int(length); len(b) < size {
		return frame{}, 0, size
	}
	if binary.LittleEndian.Uint32(b[8:]) != crc32.Checksum(b[12:size], castagnoli) {
		return frame{}, 0, 0
	}
	return frame{key: binary.LittleEndian.Uint64(b[12:]), payload: b[frameHeader:size]}, size, 0
}

// A frameReader reads frames, and over what is none.
type frameReader struct {
	r       *bufio.Reader
	at      int64 // of what comes next
	last    int   // size of the frame that was given away
	end     int64 // of the last good frame
	skipped int64 // octets that belong to no frame
}

func newFrameReader(r io.Reader) *frameReader {
	const atOnce = 4 * maxFrame
	return &frameReader{r: bufio.NewReaderSize(r, atOnce)}
}

// next returns the next frame; io.EOF is the end.
func (f *frameReader) next() (frame, error) {
	f.advance(f.last)
	f.last = 0
	want := frameHeader
	for {
		b, err := f.r.Peek(want)
		if err != nil && !errors.Is(err, io.EOF) {
			return frame{}, err
		}
		if len(b) == 0 {
			return frame{}, io.EOF
		}
		found, size, need := parseFrame(b)
		switch {
		case size > 0:
			found.at = f.at
			f.last, f.end = size, f.at+int64(size)
			return found, nil
		case need > len(b) && err == nil:
			want = need
		default:
			f.skip()
			want = frameHeader
		}
	}
}

// skip goes to where the next frame may begin.
func (f *frameReader) skip() {
	b, _ := f.r.Peek(f.r.Buffered())
	n := bytes.IndexByte(b[1:], frameMagic[0]) + 1
	if n == 0 {
		n = len(b)
	}
	f.skipped += int64(n)
	f.advance(n)
}

func (f *frameReader) advance(n int) {
	_, _ = f.r.Discard(n) // they are in the buffer
	f.at += int64(n)
}

// readFrameAt reads the frame that begins at an offset.
func readFrameAt(r io.ReaderAt, at int64) (frame, error) {
	const most = 2 << 10 // frames take
	b := make([]byte, most)
	for {
		n, err := r.ReadAt(b, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return frame{}, err
		}
		f, size, need := parseFrame(b[:n])
		if size > 0 {
			f.at = at
			return f, nil
		}
		if need <= len(b) {
			return frame{}, io.ErrUnexpectedEOF
		}
		b = make([]byte, need)
	}
}

// goodEnd returns where the last good frame of a file of some size ends: what stands behind it is what is left of a
// write that was cut short.
func goodEnd(r io.ReaderAt, size int64) (int64, error) {
	const window = int64(2 * maxFrame) // has the end of the last frame, and all of the one before if both are long
	for from := max(0, size-window); ; from = 0 {
		frames := newFrameReader(io.NewSectionReader(r, from, size-from))
		for {
			_, err := frames.next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return 0, err
			}
		}
		if frames.end > 0 {
			return from + frames.end, nil
		}
		if from == 0 {
			return 0, nil
		}
	}
}

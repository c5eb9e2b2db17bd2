package meter

import "bytes"

// maxLine is how long a line may be that is made sense of: far more than
// https://www.rfc-editor.org/rfc/rfc4954#section-4 asks for.
const maxLine = 64 << 10

// cursor reads a stream.
type cursor struct {
	s   *stream
	i   int // of the piece
	pos int64
}

func (s *stream) cursor(pos int64) cursor { return cursor{s, s.at(pos), pos} }

// chunk returns what lies ahead in one piece: how many octets, and the octets themselves unless they are hidden.
// There are none at the end.
func (c *cursor) chunk() (data []byte, n int64) {
	if c.i >= len(c.s.pieces) {
		return nil, 0
	}
	c.s.steps++
	p := c.s.pieces[c.i]
	if p.data != nil {
		data = p.data[c.pos-p.pos:]
	}
	return data, p.end - c.pos
}

// skip goes ahead by n octets, or to the end.
func (c *cursor) skip(n int64) {
	c.pos += min(n, c.s.end()-c.pos)
	for c.i < len(c.s.pieces) && c.s.pieces[c.i].end <= c.pos {
		c.i++
	}
}

// read takes the next n octets. Where they are not all there, or not all to be seen, it takes none.
func (c *cursor) read(n int) ([]byte, bool) {
	start := *c
	b := make([]byte, 0, n)
	for len(b) < n {
		data, _ := c.chunk()
		if data == nil {
			*c = start
			return nil, false
		}
		data = data[:min(len(data), n-len(b))]
		b = append(b, data...)
		c.skip(int64(len(data)))
	}
	return b, true
}

// line takes the next line and returns it without its end. Where there is none that is complete and to be seen, it
// takes nothing.
func (c *cursor) line() (string, bool) {
	start := *c
	var line []byte
	for {
		data, _ := c.chunk()
		if data == nil || len(line) > maxLine {
			*c = start
			return "", false
		}
		if i := bytes.IndexByte(data, '\n'); i >= 0 {
			c.s.steps += i
			c.skip(int64(i + 1))
			return string(bytes.TrimSuffix(append(line, data[:i]...), []byte("\r"))), true
		}
		c.s.steps += len(data)
		line = append(line, data...)
		c.skip(int64(len(data)))
	}
}

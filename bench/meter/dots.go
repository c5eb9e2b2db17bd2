package meter

// textEnd is the dot that ends the text of a message; its first CRLF may be that of the line before.
const textEnd = "\r\n.\r\n"

// dots finds the ends of texts in one stream. Where a text is hidden in part, the next may begin long before the dot
// that was found; so it keeps that, and does not look for it again. The beginnings must not go back.
type dots struct {
	pos, end int64 // of the textEnd that was found last
	none     bool  // there is no other
	hidden   int   // index of the first hidden piece that may matter still
}

// follow goes from the beginning of a text to behind its dot, or to the end. hidden says that there were octets on the
// way which could not be seen; found, that it came to a dot.
func (d *dots) follow(c *cursor) (hidden, found bool) {
	start := *c
	if b, ok := c.read(3); ok && string(b) == textEnd[2:] {
		return false, true
	}
	if !d.none && d.pos < start.pos {
		d.search(start)
	}
	end := d.end
	if d.none {
		end = c.s.end()
	}
	hidden = d.hiddenIn(c.s.pieces, start.pos, end)
	*c = c.s.cursor(end)
	return hidden, !d.none
}

// search finds the next textEnd that is all to be seen.
func (d *dots) search(c cursor) {
	matched := 0
	for {
		data, n := c.chunk()
		if n == 0 {
			d.none = true
			return
		}
		if data == nil {
			matched = 0
		}
		for i, b := range data {
			switch {
			case b == textEnd[matched]:
				matched++
			case b == '\r':
				matched = 1
			default:
				matched = 0
			}
			if matched == len(textEnd) {
				c.s.steps += i
				d.end = c.pos + int64(i) + 1
				d.pos = d.end - int64(len(textEnd))
				return
			}
		}
		c.s.steps += len(data)
		c.skip(n)
	}
}

// hiddenIn says whether something is hidden of a part of the stream.
func (d *dots) hiddenIn(pieces []piece, from, to int64) bool {
	for d.hidden < len(pieces) && (pieces[d.hidden].data != nil || pieces[d.hidden].end <= from) {
		d.hidden++
	}
	return d.hidden < len(pieces) && pieces[d.hidden].pos < to
}

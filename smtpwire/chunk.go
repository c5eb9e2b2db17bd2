package smtpwire

import "io"

// ReadChunk reads the n octets behind a BDAT command and writes them to w as
// they are, in pieces as large as they arrive
// (https://www.rfc-editor.org/rfc/rfc3030#section-2). s follows the text from
// chunk to chunk: a line end may be divided between two. Behind the last chunk
// ask [BodyScan.End]. nil stands for a new scan, fit for chunks that are
// thrown away (w is [io.Discard]).
//
// All n octets are consumed whatever is wrong with them. The errors are those of
// [Reader.ReadData]; once a chunk had a *[BodyError], every later one of the
// same scan has it too, and w gets nothing of it. A CR at the end of a chunk is
// written even though its LF is still to come.
//
// n is the client's word and may be anything up to math.MaxInt64: how much is
// kept is limited by w, how long it may take by the session's deadlines.
func (r *Reader) ReadChunk(w io.Writer, n int64, s *BodyScan) error {
	if r.broken != nil {
		return r.broken
	}
	sink := newBodySink(w, s)
	for n > 0 {
		p := r.buf[r.r:r.w]
		if int64(len(p)) >= n {
			p = p[:n]
		} else if len(p) > 0 && p[len(p)-1] == '\r' {
			// Judged with what follows, so that w never sees a bare one.
			p = p[:len(p)-1]
		}
		r.r += len(p)
		n -= int64(len(p))
		sink.take(p, n == 0)
		if n == 0 {
			break
		}
		if err := r.fill(true); err != nil {
			r.endBody()
			return r.fail(err)
		}
	}
	r.endBody()
	return sink.result()
}

package logfmt

import (
	"strconv"
	"time"

	"go.uber.org/zap/zapcore"
)

// elements collects an array. Plain values go into one value together; objects
// and arrays become pairs of their own at once, since a value has no room for
// keys.
type elements struct {
	e      *encoder
	key    string
	n      int    // elements so far
	left   int    // of those, left out
	values int    // of those, in joined
	joined []byte // as between quotes
	quote  bool   // joined needs its quotes
	cut    int    // octets cut off the values
}

var _ zapcore.ArrayEncoder = (*elements)(nil)

// next counts an element and reports whether there is room for it.
func (a *elements) next() bool {
	a.n++
	if a.n > MaxElements || len(a.joined) > MaxValue {
		a.left++
		return false
	}
	return true
}

// name is the key of the element that next has counted.
func (a *elements) name() string { return a.key + "." + strconv.Itoa(a.n-1) }

// end writes the joined values, unless all elements had pairs of their own.
func (a *elements) end() {
	if a.values > 0 || a.n == 0 {
		a.e.key(a.key)
		if a.quote || a.n == 0 {
			a.e.buf.AppendByte('"')
			a.e.buf.AppendBytes(a.joined)
			a.e.buf.AppendByte('"')
		} else {
			a.e.buf.AppendBytes(a.joined)
		}
	}
	if a.cut > 0 {
		a.e.AddInt(a.key+".cut", a.cut)
	}
	if a.left > 0 {
		a.e.AddInt(a.key+".more", a.left)
	}
}

// comma begins another value.
func (a *elements) comma() {
	if a.values++; a.values > 1 {
		a.joined = append(a.joined, ',')
	}
}

// AppendString implements [zapcore.ArrayEncoder].
func (a *elements) AppendString(value string) {
	if !a.next() {
		return
	}
	if over := len(value) - MaxValue; over > 0 {
		a.cut += over
		value = value[:MaxValue]
	}
	a.comma()
	a.quote = a.quote || !plain(value)
	a.e.scratch = strconv.AppendQuote(a.e.scratch[:0], value)
	for _, c := range a.e.scratch[1 : len(a.e.scratch)-1] {
		if c == ',' {
			a.quote = true
			a.joined = append(a.joined, `\x2c`...)
		} else {
			a.joined = append(a.joined, c)
		}
	}
}

// AppendArray implements [zapcore.ArrayEncoder].
func (a *elements) AppendArray(array zapcore.ArrayMarshaler) error {
	if !a.next() {
		return nil
	}
	return a.e.AddArray(a.name(), array)
}

// AppendObject implements [zapcore.ArrayEncoder].
func (a *elements) AppendObject(object zapcore.ObjectMarshaler) error {
	if !a.next() {
		return nil
	}
	return a.e.AddObject(a.name(), object)
}

// AppendReflected implements [zapcore.ArrayEncoder]. The value is JSON.
func (a *elements) AppendReflected(value any) error {
	text, err := a.e.reflected(value)
	if err == nil {
		a.AppendString(text)
	}
	return err
}

// What follows never needs quotes and has no commas.

// AppendBool implements [zapcore.ArrayEncoder].
func (a *elements) AppendBool(v bool) {
	if a.next() {
		a.comma()
		a.joined = strconv.AppendBool(a.joined, v)
	}
}

// AppendInt64 implements [zapcore.ArrayEncoder].
func (a *elements) AppendInt64(v int64) {
	if a.next() {
		a.comma()
		a.joined = strconv.AppendInt(a.joined, v, 10)
	}
}

// AppendUint64 implements [zapcore.ArrayEncoder].
func (a *elements) AppendUint64(v uint64) {
	if a.next() {
		a.comma()
		a.joined = strconv.AppendUint(a.joined, v, 10)
	}
}

// AppendTime implements [zapcore.ArrayEncoder].
func (a *elements) AppendTime(t time.Time) {
	if a.next() {
		a.comma()
		a.joined = t.AppendFormat(a.joined, timeLayout)
	}
}

// AppendDuration implements [zapcore.ArrayEncoder]. The value is in seconds.
func (a *elements) AppendDuration(d time.Duration) {
	if a.next() {
		a.comma()
		a.joined = appendSeconds(a.joined, d)
	}
}

func (a *elements) float(f float64, bits int) {
	if a.next() {
		a.comma()
		a.joined = appendFloat(a.joined, f, bits)
	}
}

// The rest of zapcore.ArrayEncoder are the same for other widths.

func (a *elements) AppendComplex128(v complex128) {
	a.AppendString(strconv.FormatComplex(v, 'g', -1, 128))
}
func (a *elements) AppendComplex64(v complex64) {
	a.AppendString(strconv.FormatComplex(complex128(v), 'g', -1, 64))
}
func (a *elements) AppendByteString(v []byte) { a.AppendString(string(v)) }
func (a *elements) AppendFloat64(v float64)   { a.float(v, 64) }
func (a *elements) AppendFloat32(v float32)   { a.float(float64(v), 32) }
func (a *elements) AppendInt(v int)           { a.AppendInt64(int64(v)) }
func (a *elements) AppendInt32(v int32)       { a.AppendInt64(int64(v)) }
func (a *elements) AppendInt16(v int16)       { a.AppendInt64(int64(v)) }
func (a *elements) AppendInt8(v int8)         { a.AppendInt64(int64(v)) }
func (a *elements) AppendUint(v uint)         { a.AppendUint64(uint64(v)) }
func (a *elements) AppendUint32(v uint32)     { a.AppendUint64(uint64(v)) }
func (a *elements) AppendUint16(v uint16)     { a.AppendUint64(uint64(v)) }
func (a *elements) AppendUint8(v uint8)       { a.AppendUint64(uint64(v)) }
func (a *elements) AppendUintptr(v uintptr)   { a.AppendUint64(uint64(v)) }

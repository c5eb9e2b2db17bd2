package aggregate

import (
	"fmt"
	"time"
)

// A Day is a day in UTC, counted from 1 January 1970: what one report speaks of.
// https://www.rfc-editor.org/rfc/rfc9990#section-3.1.1.4
type Day int64

const secondsPerDay = 24 * 60 * 60

// DayOf returns the day of a moment.
func DayOf(t time.Time) Day {
	seconds := t.Unix()
	if seconds < 0 {
		return 0
	}
	return Day(seconds / secondsPerDay)
}

// ParseDay reads what String writes.
func ParseDay(s string) (Day, error) {
	t, err := time.Parse(time.DateOnly, s)
	if err != nil || t.Unix() < 0 {
		return 0, fmt.Errorf("%.20q is not a day such as 2026-05-31", s)
	}
	return DayOf(t), nil
}

// Begin is the first second of the day.
func (d Day) Begin() time.Time { return time.Unix(int64(d)*secondsPerDay, 0).UTC() }

// End is the first second after the day.
func (d Day) End() time.Time { return (d + 1).Begin() }

// String returns the day as "2026-05-31".
func (d Day) String() string { return d.Begin().Format(time.DateOnly) }

// MarshalText implements [encoding.TextMarshaler].
func (d Day) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (d *Day) UnmarshalText(text []byte) error {
	day, err := ParseDay(string(text))
	*d = day
	return err
}

package proxy

import (
	"encoding"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2/unstable"
)

// A configField is one key of a table.
type configField struct {
	v    reflect.Value
	tag  reflect.StructTag
	path string
}

// value sets one field from a value at the given offset.
func (d *configDecoder) value(f configField, n *unstable.Node, offset int) {
	target := f.v.Addr().Interface()
	switch {
	case isTable(f.v.Type()) && n.Kind == unstable.InlineTable:
		d.inline(configTable{f.v, f.path}, n)
	case isTables(f.v.Type()) && n.Kind == unstable.Array:
		d.elements(f, n, offset, func(e *unstable.Node, at int) {
			t := f.grow()
			d.at[t.path] = at
			if e.Kind != unstable.InlineTable {
				d.problem(at, t.path, "is %s; allowed: a table", kindWord(e.Kind))
				return
			}
			d.inline(t, e)
		})
	case isList(f.v.Type()) && n.Kind == unstable.Array:
		f.v.Set(reflect.MakeSlice(f.v.Type(), 0, 0))
		d.elements(f, n, offset, func(e *unstable.Node, at int) {
			i := f.v.Len()
			f.v.Set(reflect.Append(f.v, reflect.Zero(f.v.Type().Elem())))
			element := configField{f.v.Index(i), f.tag, indexed(f.path, i)}
			d.at[element.path] = at
			d.value(element, e, at)
		})
	case f.v.Kind() == reflect.Bool && n.Kind == unstable.Bool:
		f.v.SetBool(string(n.Data) == "true")
	case isNumber(target) && n.Kind == unstable.Integer:
		i, err := strconv.ParseInt(string(n.Data), 0, 64)
		if err != nil {
			d.problem(offset, f.path, "%s is too large; allowed: %s", n.Data, wants(f.v.Type()))
			return
		}
		d.set(f, offset, func() error { f.v.SetInt(i); return nil })
	case f.v.Kind() == reflect.Float64 && (n.Kind == unstable.Float || n.Kind == unstable.Integer):
		x, err := strconv.ParseFloat(strings.ReplaceAll(string(n.Data), "_", ""), 64)
		if err != nil || !(x >= 0 && x <= 1) {
			d.problem(offset, f.path, "is %s; allowed: %s", n.Data, wants(f.v.Type()))
			return
		}
		f.v.SetFloat(x)
	case takesText(target) && n.Kind == unstable.String:
		d.set(f, offset, func() error { return setText(target, string(n.Data)) })
	default:
		d.problem(offset, f.path, "is %s; allowed: %s", kindWord(n.Kind), wants(f.v.Type()))
	}
}

// elements calls do for each element of an array.
func (d *configDecoder) elements(f configField, n *unstable.Node, offset int, do func(e *unstable.Node, at int)) {
	for it := n.Children(); it.Next(); {
		e, at := it.Node(), offset
		if e.Raw.Length > 0 { // arrays have no place of their own
			at = d.base + int(e.Raw.Offset)
		}
		do(e, at)
	}
}

func (d *configDecoder) inline(t configTable, n *unstable.Node) {
	for it := n.Children(); it.Next(); {
		d.keyValue(t, it.Node())
	}
}

// set runs assign, checks the result against the field's tags, and takes it
// back if anything is wrong with it.
func (d *configDecoder) set(f configField, offset int, assign func() error) {
	before := reflect.New(f.v.Type()).Elem()
	before.Set(f.v)
	err := assign()
	if err == nil {
		err = f.inBounds()
	}
	if err != nil {
		if forms := f.tag.Get("forms"); forms != "" {
			err = fmt.Errorf("%w; allowed: %s", err, choice(forms))
		}
		f.v.Set(before)
		d.problem(offset, f.path, "%v", err)
	}
}

// grow appends a table to a list of tables.
func (f configField) grow() configTable {
	i := f.v.Len()
	f.v.Set(reflect.Append(f.v, reflect.Zero(f.v.Type().Elem())))
	switch door := f.v.Index(i).Addr().Interface().(type) {
	case *InboundConfig:
		*door = unsetInbound()
	case *OutboundConfig:
		*door = unsetOutbound()
	}
	return configTable{f.v.Index(i), indexed(f.path, i)}
}

// inBounds checks a value against the "oneof", "forms", "min" and "max" tags.
// Numbers, sizes and durations are at least 1 of their unit, unless "min" is 0.
func (f configField) inBounds() error {
	if e, ok := f.v.Interface().(Endpoint); ok {
		if !e.IsZero() && !slices.Contains(strings.Fields(f.tag.Get("forms")), e.form()) {
			return fmt.Errorf("%s is of a kind that has no place here", quoted(e.String()))
		}
		return nil
	}
	if f.v.Kind() == reflect.String {
		allowed := strings.Fields(f.tag.Get("oneof"))
		if len(allowed) > 0 && !slices.Contains(allowed, f.v.String()) {
			return valueError(f.v.String(), "is not known", choice(f.tag.Get("oneof")))
		}
		return nil
	}
	bound, ok := f.tag.Lookup("max")
	if !ok {
		return nil
	}
	most, err := f.bound(bound)
	if err != nil {
		return err
	}
	least, from := int64(1), "more than 0"
	if low, ok := f.tag.Lookup("min"); ok {
		if least, err = f.bound(low); err != nil {
			return err
		}
		from = "at least " + low
		if least == 0 {
			from = "0 or more"
		}
	}
	switch v := f.v.Int(); {
	case v < least:
		return fmt.Errorf("%v is too small; allowed: %s, at most %s", f.v, from, bound)
	case v > most:
		return fmt.Errorf("%v is too large; allowed: at most %s", f.v, bound)
	}
	return nil
}

// bound reads a bound as the file would have it.
func (f configField) bound(text string) (int64, error) {
	v := reflect.New(f.v.Type()).Elem()
	if takesText(v.Addr().Interface()) {
		err := setText(v.Addr().Interface(), text)
		return v.Int(), err
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err
}

// choice shows the words of a tag as the file would have them.
func choice(words string) string {
	return `"` + strings.Join(strings.Fields(words), `", "`) + `"`
}

// setText sets what target points to from a string.
func setText(target any, s string) (err error) {
	if i := strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }); i >= 0 {
		return fmt.Errorf("%s has a control character", quoted(s))
	}
	switch t := target.(type) {
	case *string:
		*t = s
	case *time.Duration:
		*t, err = parseDuration(s)
	case *netip.Prefix:
		*t, err = parsePrefix(s)
	case *netip.AddrPort:
		*t, err = parseServer(s)
	case *netip.Addr:
		*t, err = parseAddr(s)
	case encoding.TextUnmarshaler:
		err = t.UnmarshalText([]byte(s))
	}
	return err
}

func takesText(target any) bool {
	switch target.(type) {
	case *string, *time.Duration, encoding.TextUnmarshaler:
		return true
	}
	return false
}

func isNumber(target any) bool {
	switch target.(type) {
	case *int, *Size:
		return true
	}
	return false
}

func isTable(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && !reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

func isList(t reflect.Type) bool { return t.Kind() == reflect.Slice }

func isTables(t reflect.Type) bool { return isList(t) && isTable(t.Elem()) }

func joined(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func indexed(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// kindWord says what a value is.
func kindWord(k unstable.Kind) string {
	switch k {
	case unstable.String:
		return "a string"
	case unstable.Bool:
		return "true or false"
	case unstable.Integer:
		return "a whole number"
	case unstable.Float:
		return "a number with a fraction"
	case unstable.Array:
		return "a list"
	case unstable.InlineTable:
		return "a table"
	}
	return "a date or time"
}

// wants says what a type takes.
func wants(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return `a number with a unit in quotes, such as "30s" or "5m"`
	case t == reflect.TypeFor[Size]():
		return `a whole number of octets, or a string such as "25MB"`
	case isTable(t):
		return "a table"
	case isTables(t):
		return "a list of tables"
	case isList(t):
		return "a list of strings in brackets"
	case t.Kind() == reflect.Bool:
		return "true, false"
	case t.Kind() == reflect.Int:
		return "a whole number"
	case t.Kind() == reflect.Float64:
		return "a share from 0 to 1, such as 0.05"
	}
	return "a string in quotes"
}

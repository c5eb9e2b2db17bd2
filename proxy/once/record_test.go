package once

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"slipstream/tlsstore"
)

func sampleRecord() (id, record) {
	k := key("a@b.example", "text")
	return k.id(), record{
		written: time.UnixMilli(1_700_000_000_123), life: DefaultKeep, code: 550, text: "5.1.1 no\nreally\n",
	}
}

// reseal puts a good checksum behind what was changed.
func reseal(i id, b []byte) []byte {
	b = bytes.Clone(b[:len(b)-sumSize])
	sum := checksum(i, b)
	return append(b, sum[:]...)
}

func TestRecord(t *testing.T) {
	i, r := sampleRecord()
	b := appendRecord(nil, i, r)
	if got, err := parseRecord(i, b); err != nil || got != r {
		t.Errorf("%+v, %v; want %+v", got, err, r)
	}
	if got, ok := parseKey(i.key()); !ok || got != i {
		t.Errorf("key %v, %v; want %v", got, ok, i)
	}
	for at := range b {
		bad := bytes.Clone(b)
		bad[at] ^= 0x10
		if _, err := parseRecord(i, bad); err == nil {
			t.Errorf("octet %d was changed, and nobody noticed", at)
		}
		if _, err := parseRecord(i, b[:at]); err == nil {
			t.Errorf("cut to %d octets, and nobody noticed", at)
		}
	}
	other := i
	other.recipient[0]++
	if _, err := parseRecord(other, b); err == nil {
		t.Error("taken for another's")
	}
}

// TestRecordStrict: what has a good checksum, but was never made by us, is refused all the same.
func TestRecordStrict(t *testing.T) {
	i, r := sampleRecord()
	change := func(f func(b []byte) []byte) []byte {
		return reseal(i, f(appendRecord(nil, i, r)))
	}
	const longest = uint32(MaxKeep / time.Second)
	long := r
	long.text = strings.Repeat("x", MaxText+1)
	for name, b := range map[string][]byte{
		"no life":        change(func(b []byte) []byte { binary.BigEndian.PutUint32(b[9:], 0); return b }),
		"a long life":    change(func(b []byte) []byte { binary.BigEndian.PutUint32(b[9:], longest+1); return b }),
		"code 354":       change(func(b []byte) []byte { binary.BigEndian.PutUint16(b[13:], 354); return b }),
		"code 2500":      change(func(b []byte) []byte { binary.BigEndian.PutUint16(b[13:], 2500); return b }),
		"before 1970":    change(func(b []byte) []byte { b[1] = 0xff; return b }),
		"no lines":       change(func(b []byte) []byte { b[15] = 0; return b }),
		"a line less":    change(func(b []byte) []byte { b[15]--; return b }),
		"a line more":    change(func(b []byte) []byte { b[15]++; return b }),
		"too many lines": change(func(b []byte) []byte { b[15] = MaxLines + 1; return b }),
		"a line feed":    change(func(b []byte) []byte { b[headerSize+lineHead] = '\n'; return b }),
		"NUL":            change(func(b []byte) []byte { b[headerSize+lineHead] = 0; return b }),
		"a long line":    change(func(b []byte) []byte { b[headerSize] = 0xff; return b }),
		"an octet more":  change(func(b []byte) []byte { return append(b[:len(b)-sumSize], make([]byte, 1+sumSize)...) }),
		"too long":       appendRecord(nil, i, long),
		"empty":          {},
	} {
		if got, err := parseRecord(i, b); err == nil {
			t.Errorf("%s: taken for %+v", name, got)
		}
	}
	if _, err := parseRecord(i, change(func(b []byte) []byte { b[0]++; return b })); err != errVersion {
		t.Errorf("a record of another version: %v", err)
	}
	largest := record{written: r.written, life: MaxKeep, code: 250}
	largest.text = strings.Repeat("x", MaxText-MaxLines+1) + strings.Repeat("\n", MaxLines-1)
	if b := appendRecord(nil, i, largest); len(b)+keySize > MaxRecord {
		t.Errorf("a record has %d octets with its key, more than %d", len(b)+keySize, MaxRecord)
	} else if got, err := parseRecord(i, b); err != nil || got != largest {
		t.Errorf("the largest: %v", err)
	}
}

// FuzzRecord: whatever lies in the store, what is taken is what we would have written.
func FuzzRecord(f *testing.F) {
	i, r := sampleRecord()
	f.Add(appendRecord(nil, i, r))
	f.Add(appendRecord(nil, i, record{written: r.written, life: time.Second, code: 250, text: ""}))
	f.Add([]byte{recordFormat})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= headerSize+sumSize {
			b = reseal(i, b) // else nothing would get behind it
		}
		got, err := parseRecord(i, b)
		if err != nil {
			return
		}
		if again := appendRecord(nil, i, got); !bytes.Equal(again, b) {
			t.Errorf("%q was taken for %q", b, again)
		}
		if text := replyText(strings.Split(got.text, "\n")); text != got.text {
			t.Errorf("%q would not be kept as it is, but as %q", got.text, text)
		}
	})
}

// FuzzReply: whatever a hop says, it is kept so that it comes back, with no line that was not one.
func FuzzReply(f *testing.F) {
	f.Add("5.1.1 no such user\nreally")
	f.Add(strings.Repeat("ü\n", 200))
	f.Add(strings.Repeat("\xff", 5000))
	i, r := sampleRecord()
	f.Fuzz(func(t *testing.T, all string) {
		lines := strings.Split(all, "\n")
		r.text = replyText(lines)
		if n := strings.Count(r.text, "\n") + 1; n > len(lines) || n > MaxLines || len(r.text) > MaxText {
			t.Fatalf("%d lines of %d octets are kept of %d", n, len(r.text), len(lines))
		}
		if got, err := parseRecord(i, appendRecord(nil, i, r)); err != nil || got != r {
			t.Errorf("%q came back as %q, %v", r.text, got.text, err)
		}
	})
}

// FuzzKey: a key in the store is one of ours, or is not taken for one.
func FuzzKey(f *testing.F) {
	i, _ := sampleRecord()
	f.Add(i.key())
	f.Add([]byte{kindOutcome})
	f.Fuzz(func(t *testing.T, b []byte) {
		if i, ok := parseKey(b); ok && !bytes.Equal(i.key(), b) {
			t.Errorf("%x was taken for %x", b, i.key())
		}
	})
}

// TestBrokenRecords: one damaged record costs itself alone, and somebody hears of it.
func TestBrokenRecords(t *testing.T) {
	d := newDisk()
	m := openTest(t, d, Options{})
	all := many(40, "text")
	mustRemember(t, m, all...)
	mustClose(t, m)
	spoil := func(o Outcome, f func(b []byte) []byte) {
		t.Helper()
		k := o.Key.id().key()
		b, err := d.Get(k)
		if err == nil {
			err = d.KV.Set(k, f(b), time.Hour)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, o := range all[:20] {
		spoil(o, func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
	}
	spoil(all[20], func(b []byte) []byte { return nil })
	spoil(all[21], func(b []byte) []byte { return reseal(all[21].Key.id(), append([]byte{recordFormat + 1}, b[1:]...)) })
	first, err := d.Get(all[0].Key.id().key())
	if err != nil {
		t.Fatal(err)
	}
	spoil(all[22], func([]byte) []byte { return first })
	if err := d.KV.Set([]byte{kindOutcome, 1}, []byte("x"), time.Hour); err != nil {
		t.Fatal(err)
	}
	var log watchedLog
	m = openTest(t, d, Options{Log: log.logger()})
	wantRecalled(t, m, all[23:]...)
	for _, o := range all[:23] {
		wantForgotten(t, m, o.Key)
	}
	if s := m.Stats(); s.Broken != 23 || s.Outcomes != 17 {
		t.Errorf("%+v", s)
	}
	wantReady(t, m, 1, "")
	said := log.String()
	for word, times := range map[string]int{
		"a record of an outcome was damaged, and was dropped": maxSaid, `{"records": 23}`: 1,
		"another version": 1, `{"records": 1}`: 1,
	} {
		if n := strings.Count(said, word); n != times {
			t.Errorf("said %q %d times, want %d:\n%s", word, n, times, said)
		}
	}
	mustClose(t, m)
	if n := d.outcomes(t); n != 18 {
		t.Errorf("%d records are left, want 17 good ones and that of another version", n)
	}
	log = watchedLog{}
	m = openTest(t, d, Options{Log: log.logger()})
	wantRecalled(t, m, all[23:]...)
	mustClose(t, m)
	if strings.Contains(log.String(), "damaged") {
		t.Errorf("the second time: %s", log.String())
	}
}

// TestTooManyRecords: what is more than may be held is left out, aloud.
func TestTooManyRecords(t *testing.T) {
	d := newDisk()
	m := openTest(t, d, Options{})
	mustRemember(t, m, many(spare+50, "text")...)
	mustClose(t, m)
	var log watchedLog
	m = openTest(t, d, Options{Max: 10, Log: log.logger()})
	defer mustClose(t, m)
	told := fmt.Sprintf(`{"left_out": %d}`, 50-overfull*10)
	if s := m.Stats(); s.Outcomes != spare+overfull*10 || !strings.Contains(log.String(), told) {
		t.Errorf("%+v; %s", s, log.String())
	}
	wantReady(t, m, 1, "no room")
}

// TestUnreadable: a KV that cannot be read is not opened.
func TestUnreadable(t *testing.T) {
	kv := tlsstore.Memory()
	if err := kv.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(kv, Options{}); err == nil {
		t.Error("opened")
	}
}

package once

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"slipstream/smtpwire"
	"slipstream/tlsstore"
)

// Clients, and what they send.
var (
	mta   = netip.MustParseAddr("192.0.2.1")
	local = netip.MustParseAddr("127.0.0.1")
)

const sender = "news@sender.example"

func key(to, text string) Key {
	return Key{Client: mta, Sender: sender, Recipient: to, Content: sha256.Sum256([]byte(text))}
}

func delivered(to, text string) Outcome {
	return Outcome{key(to, text), smtpwire.NewReply(250, "2.0.0", "queued as "+to)}
}

func refused(to, text string) Outcome {
	return Outcome{key(to, text), smtpwire.NewReply(550, "5.1.1", "no "+to+" here\nreally not")}
}

func openTest(t testing.TB, kv tlsstore.KV, o Options) *Memory {
	t.Helper()
	m, err := Open(kv, o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func mustRemember(t testing.TB, m *Memory, outcomes ...Outcome) {
	t.Helper()
	if err := m.Remember(outcomes); err != nil {
		t.Fatal(err)
	}
}

func mustClose(t testing.TB, m *Memory) {
	t.Helper()
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

// wantRecalled checks that outcomes are remembered, word for word.
func wantRecalled(t testing.TB, m *Memory, outcomes ...Outcome) {
	t.Helper()
	for _, o := range outcomes {
		if got, ok := m.Recall(o.Key); !ok || got.String() != o.Reply.String() || len(got.Lines) != len(o.Reply.Lines) {
			t.Errorf("of %s is remembered %q, %v; want %q", o.Key.Recipient, got, ok, o.Reply)
		}
	}
}

// wantForgotten checks that nothing is remembered.
func wantForgotten(t testing.TB, m *Memory, keys ...Key) {
	t.Helper()
	for _, k := range keys {
		if got, ok := m.Recall(k); ok {
			t.Errorf("of %s is remembered %q", k.Recipient, got)
		}
	}
}

// wantReady checks what Ready says: "" is nil.
func wantReady(t testing.TB, m *Memory, room int, word string) {
	t.Helper()
	switch err := m.Ready(room); {
	case word == "" && err != nil:
		t.Errorf("not ready for %d: %v", room, err)
	case word != "" && (err == nil || !strings.Contains(err.Error(), word)):
		t.Errorf("ready for %d: %v, want a word of %q", room, err, word)
	}
}

// A disk is a KV that outlives those who open it, and fails as told.
type disk struct {
	tlsstore.KV // in memory

	mu     sync.Mutex
	wrong  error           // of writes
	room   error           // of Room
	hang   <-chan struct{} // writes wait for this; nil: they do not
	writes int
	closed int
}

func newDisk() *disk { return &disk{KV: tlsstore.Memory()} }

var errDisk = errors.New("the disk is on fire")

func (d *disk) set(f func(*disk)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(d)
}

func (d *disk) breakDown(err error) { d.set(func(d *disk) { d.wrong = err }) }

func (d *disk) count() (writes, closed int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.writes, d.closed
}

func (d *disk) write(f func() error) error {
	d.mu.Lock()
	d.writes++
	wrong, hang := d.wrong, d.hang
	d.mu.Unlock()
	if hang != nil {
		<-hang
	}
	if wrong != nil {
		return wrong
	}
	return f()
}

func (d *disk) Room() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.room
}

func (d *disk) Set(key, value []byte, ttl time.Duration) error {
	return d.write(func() error { return d.KV.Set(key, value, ttl) })
}

func (d *disk) Delete(key []byte) error {
	return d.write(func() error { return d.KV.Delete(key) })
}

func (d *disk) Apply(changes []tlsstore.Change) error {
	return d.write(func() error { return d.KV.(tlsstore.Batcher).Apply(changes) })
}

func (d *disk) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed++
	return nil
}

// outcomes is how many there are on the disk.
func (d *disk) outcomes(t testing.TB) (n int) {
	t.Helper()
	if err := d.Iterate([]byte{kindOutcome}, func(_, _ []byte) bool { n++; return true }); err != nil {
		t.Fatal(err)
	}
	return n
}

// A watchedLog is a log to look at.
type watchedLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *watchedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *watchedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *watchedLog) logger() *zap.Logger {
	conf := zapcore.EncoderConfig{MessageKey: "m", LevelKey: "l", EncodeLevel: zapcore.LowercaseLevelEncoder}
	return zap.New(zapcore.NewCore(zapcore.NewConsoleEncoder(conf), zapcore.AddSync(l), zapcore.InfoLevel))
}

// many are outcomes for so many recipients of one message.
func many(n int, text string) (all []Outcome) {
	for i := range n {
		all = append(all, delivered(fmt.Sprintf("to%d@rcpt.example", i), text))
	}
	return all
}

//go:build linux

package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"slipstream/proxy"
)

// The hops and the MTA of the killings are processes of their own: this test
// binary again, told what to be by its environment.
const (
	fanoutRole    = "SLIPSTREAM_FANOUT_ROLE" // "hop" or "mta"; what follows is for both
	fanoutJournal = "SLIPSTREAM_FANOUT_JOURNAL"
	fanoutAddr    = "SLIPSTREAM_FANOUT_ADDR" // where the hop listens, or the MTA connects to
	fanoutSeed    = "SLIPSTREAM_FANOUT_SEED"
	fanoutMails   = "SLIPSTREAM_FANOUT_MAILS" // how many the MTA sends
)

// TestFanoutChild is the body of those processes, and nothing without a role.
func TestFanoutChild(t *testing.T) {
	role := os.Getenv(fanoutRole)
	if role == "" {
		return
	}
	go func() { // until the test, however it ends, lets go of us
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(4)
	}()
	roles := map[string]func(*fanoutBook) error{"hop": fanoutHopMain, "mta": fanoutMTAMain}
	err := roles[role](&fanoutBook{name: os.Getenv(fanoutJournal)})
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", role, err)
		os.Exit(3)
	}
	os.Exit(0)
}

// A fanoutBook is a journal in a file. An entry is one write, so that it is there
// whole or not at all, and it is there however we end.
type fanoutBook struct {
	name string
	mu   sync.Mutex
	file *os.File
}

func (b *fanoutBook) note(events ...proxy.FanoutEvent) {
	var lines []byte
	for _, e := range events {
		line, err := json.Marshal(e)
		if err != nil {
			panic(err)
		}
		lines = append(append(lines, line...), '\n')
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var err error
	if b.file == nil {
		b.file, err = os.OpenFile(b.name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	}
	if err == nil {
		_, err = b.file.Write(lines)
	}
	if err != nil { // without its journal nobody goes on
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
}

// read returns what is in it so far.
func (b *fanoutBook) read() (events []proxy.FanoutEvent, err error) {
	text, err := os.ReadFile(b.name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	for line := range bytes.Lines(text) {
		var e proxy.FanoutEvent
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("%s: %w in %q", b.name, err, line)
		}
		events = append(events, e)
	}
	return events, err
}

// fanoutHopMain is a hop.
func fanoutHopMain(book *fanoutBook) error {
	addr := os.Getenv(fanoutAddr)
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("%s/%d/%d", addr, os.Getpid(), time.Now().UnixNano())
	hop := &proxy.FanoutHop{Name: name, Draw: rand.New(rand.NewPCG(rand.Uint64(), 0)), Note: book.note,
		Slow: 30 * time.Millisecond}
	srv := hop.Server()
	srv.Record, srv.Brief = -1, true
	return srv.Serve(context.Background(), &fanoutListener{ln, book})
}

// A fanoutListener's connections write down which copies were told of.
type fanoutListener struct {
	net.Listener
	book *fanoutBook
}

func (l *fanoutListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &fanoutHopConn{conn.(*net.TCPConn), l.book}, nil
}

type fanoutHopConn struct {
	*net.TCPConn
	book *fanoutBook
}

func (c *fanoutHopConn) Write(p []byte) (int, error) {
	n, err := c.TCPConn.Write(p)
	var told []proxy.FanoutEvent
	if err == nil {
		for _, number := range proxy.FanoutTellings(string(p)) {
			told = append(told, proxy.FanoutEvent{At: time.Now(), Kind: proxy.FanoutTold, Copy: number})
		}
	}
	if len(told) > 0 {
		c.book.note(told...)
	}
	return n, err
}

// fanoutMailOf is message number i, always the same.
func fanoutMailOf(seed uint64, i int) proxy.FanoutMail {
	draw := rand.New(rand.NewPCG(seed, uint64(i)))
	mail := proxy.FanoutMail{ID: fmt.Sprint("m", i), From: fmt.Sprintf("s%d@a.test", draw.IntN(3))}
	for _, n := range draw.Perm(15)[:1+draw.IntN(6)] {
		local := fmt.Sprint("r", n%5)
		if draw.IntN(20) == 0 {
			local = fmt.Sprint("nobody", n%5)
		}
		mail.To = append(mail.To, fmt.Sprintf("%s@%s.test", local, fanoutDomains[n/5]))
	}
	filling := strings.Repeat(".text\r\n", []int{1, 100, 20000}[min(2, draw.IntN(20)/9)])
	mail.Text = fmt.Sprintf("X-Nonce: %d\r\n\r\n%send %d\r\n", i, filling, i)
	return mail
}

var fanoutDomains = [3]string{"b", "c", "d"}

// fanoutAgents is how many messages the MTA sends at a time.
const fanoutAgents = 24

// fanoutMTAMain is the MTA. It goes on where its journal ends, and ends when every
// recipient is settled.
func fanoutMTAMain(book *fanoutBook) error {
	var n int
	var seed uint64
	if _, err := fmt.Sscan(os.Getenv(fanoutMails)+" "+os.Getenv(fanoutSeed), &n, &seed); err != nil {
		return err
	}
	past, err := book.read()
	if err != nil {
		return err
	}
	q := &fanoutQueue{}
	q.fill(seed, n, past)
	var work sync.WaitGroup
	for range fanoutAgents {
		work.Go(func() {
			agent := fanoutAgentTo(os.Getenv(fanoutAddr), book)
			defer agent.Leave()
			for {
				item, ok := q.next()
				if !ok {
					return
				}
				var err error
				item.open, item.try, err = agent.Deliver(item.mail, item.open, item.try, fanoutMost)
				q.back(item, err)
			}
		})
	}
	work.Wait()
	return q.err
}

// A fanoutQueue is the MTA's.
type fanoutQueue struct {
	mu    sync.Mutex
	items []fanoutItem
	out   int // with agents
	err   error
}

// A fanoutItem is a message that is not settled yet.
type fanoutItem struct {
	mail proxy.FanoutMail
	open []string
	try  int
	at   time.Time // not before
}

// fill makes the queue of so many messages, as the journal has left it.
func (q *fanoutQueue) fill(seed uint64, n int, past []proxy.FanoutEvent) {
	settled, tries, lost := map[string]bool{}, map[string]int{}, map[string]time.Time{}
	for _, e := range past {
		switch {
		case e.Kind == proxy.FanoutBegun:
			tries[e.Mail], lost[e.Mail] = max(tries[e.Mail], e.Try), time.Now()
		case e.Kind == proxy.FanoutEnded:
			lost[e.Mail] = time.Time{}
		case e.Kind == proxy.FanoutHeard && e.Words[0] != '4':
			settled[e.Mail+" "+e.Rcpt] = true
		}
	}
	for i := range n {
		item := fanoutItem{mail: fanoutMailOf(seed, i)}
		item.try = tries[item.mail.ID] + 1
		for _, rcpt := range item.mail.To {
			if !settled[item.mail.ID+" "+rcpt] {
				item.open = append(item.open, rcpt)
			}
		}
		if !lost[item.mail.ID].IsZero() {
			item.at = fanoutDue()
		}
		if len(item.open) > 0 {
			q.items = append(q.items, item)
		}
	}
}

// fanoutDue is when a message is tried again that was under way when somebody
// died: when its earlier attempt is over.
func fanoutDue() time.Time {
	return time.Now().Add(proxy.FanoutHandedOver + 100*time.Millisecond + rand.N(500*time.Millisecond))
}

// next waits for a message that is due. There is none where all are settled, or
// something is wrong.
func (q *fanoutQueue) next() (item fanoutItem, ok bool) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		q.mu.Lock()
		if q.err != nil || len(q.items) == 0 && q.out == 0 {
			q.mu.Unlock()
			return item, false
		}
		if i := slices.IndexFunc(q.items, func(o fanoutItem) bool { return !o.at.After(time.Now()) }); i >= 0 {
			item = q.items[i]
			q.items = slices.Delete(q.items, i, i+1)
			q.out++
			q.mu.Unlock()
			return item, true
		}
		q.mu.Unlock()
		<-tick.C
	}
}

// back takes a message back from an agent.
func (q *fanoutQueue) back(item fanoutItem, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.out--
	switch {
	case err == nil && item.try > fanoutMost:
		err = fmt.Errorf("%s is open for %q after %d transactions", item.mail.ID, item.open, item.try)
	case len(item.open) > 0:
		item.at = fanoutDue()
		q.items = append(q.items, item)
	}
	q.err = errors.Join(q.err, err)
}

// fanoutMost is how many transactions are enough for a message, whatever happens.
const fanoutMost = 400

// fanoutAgentTo is a delivery agent that sends to a door.
func fanoutAgentTo(door string, book *fanoutBook) *proxy.FanoutMTA {
	return &proxy.FanoutMTA{
		Draw: rand.New(rand.NewPCG(rand.Uint64(), 0)), Note: book.note, Patience: 20 * time.Second, Mortal: true,
		Hasty: rand.IntN(2) == 0,
		Pause: func(most time.Duration) { time.Sleep(rand.N(most)) }, Away: func() {},
		Dial: func() (*proxy.FanoutConn, error) {
			conn, err := net.Dial("tcp", door)
			if err != nil {
				return nil, err
			}
			peek, err := fanoutPeek(conn.(*net.TCPConn))
			return &proxy.FanoutConn{Conn: conn, Peek: peek}, err
		},
	}
}

// fanoutPeek looks at what has arrived without taking it.
func fanoutPeek(conn *net.TCPConn) (func(have int) ([]byte, error), error) {
	raw, err := conn.SyscallConn()
	buf := make([]byte, 64<<10)
	return func(have int) ([]byte, error) {
		n, looks, err := 0, 0, error(nil)
		late := raw.Read(func(fd uintptr) bool {
			n, _, err = syscall.Recvfrom(int(fd), buf, syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
			if looks++; n > 0 && n == have && looks > 1 {
				err = io.ErrUnexpectedEOF // something happened, and it is nothing to be read
			}
			return !errors.Is(err, syscall.EAGAIN) && (err != nil || n == 0 || n > have)
		})
		switch {
		case late != nil:
			return nil, late
		case err != nil:
			return nil, err
		case n == 0:
			return nil, io.EOF
		}
		return buf[:n], nil
	}, err
}

// A fanoutChild is one of the processes, which can be killed and started again.
type fanoutChild struct {
	role, addr string
	env        []string
	book       *fanoutBook
	errors     string // file

	cmd   *exec.Cmd
	stdin io.Closer
	done  chan struct{}
	err   error // after done
}

func newFanoutChild(t *testing.T, role, addr string, env ...string) *fanoutChild {
	t.Helper()
	dir := t.TempDir()
	c := &fanoutChild{role: role, addr: addr, book: &fanoutBook{name: filepath.Join(dir, "journal")},
		errors: filepath.Join(dir, "errors")}
	c.env = append(os.Environ(), append(env, fanoutRole+"="+role, fanoutAddr+"="+addr, fanoutJournal+"="+c.book.name)...)
	t.Cleanup(c.kill)
	return c
}

func (c *fanoutChild) start() error {
	out, err := os.OpenFile(c.errors, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	c.cmd = exec.Command(os.Args[0], "-test.run=^TestFanoutChild$", "-test.timeout=0")
	c.cmd.Env, c.cmd.Stdout, c.cmd.Stderr = c.env, out, out
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return err
	}
	if err := c.cmd.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	c.done = done
	go func() { // ends with the process
		defer close(done)
		c.err = c.cmd.Wait()
	}()
	return nil
}

func (c *fanoutChild) kill() {
	if c.done == nil {
		return
	}
	_ = c.cmd.Process.Kill() // it may have ended already
	<-c.done
	_ = c.stdin.Close()
}

// said is what it wrote to its standard error, at its end.
func (c *fanoutChild) said() string {
	f, err := os.Open(c.errors)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	var lines []string
	for s := bufio.NewScanner(f); s.Scan(); {
		lines = append(lines, s.Text())
	}
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}

func fanoutInt(t *testing.T, name string, otherwise int) int {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q is no number of fan-outs", name, s)
	}
	return n
}

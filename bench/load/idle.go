package load

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"slipstream/bench/refpeer"
)

const (
	// idleSessions open and warm up at once.
	idleSessions = 20
	// settleTries and settleWait bound the wait for memory that still grows.
	settleTries, settleWait = 50, 10 * time.Millisecond
)

// idle measures what a connection holds that said EHLO, with STARTTLS before if there is TLS, and then nothing. It is
// to be asked of a process that has not worked yet, since those that have keep what they will need again.
func (a *arena) idle(ctx context.Context, c *contestant) (Memory, error) {
	m := Memory{Way: c.way, Connections: a.options.Idle}
	if c.accounts == nil {
		return m, nil
	}
	defer a.sink.change()
	if err := a.few(ctx, c); err != nil {
		return m, err
	}
	before, err := c.settled(ctx)
	if err != nil {
		return m, err
	}
	clients, err := a.open(ctx, c)
	defer func() {
		for _, client := range clients {
			_ = client.Conn.Close() // nothing is under way
		}
	}()
	if err != nil {
		return m, fmt.Errorf("idle connections: %w", err)
	}
	after, err := c.settled(ctx)
	m.Bare, m.PerConnection = before, max(0, after-before)/int64(a.options.Idle)
	return m, err
}

// few sends as many messages first, each on its own connection, so that what is needed once is not counted.
func (a *arena) few(ctx context.Context, c *contestant) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var begun atomic.Int64
	tally := newTally(cancel)
	crew := &crew{addr: c.addr, tls: c.tls, perConn: 1, letters: newLetters("first-", a.options.Size), note: tally.note}
	crew.take = func() (arrival, bool) {
		return arrival{due: time.Now()}, begun.Add(1) <= int64(a.options.Idle) && ctx.Err() == nil
	}
	crew.work(ctx, idleSessions)
	return tally.first
}

// open makes idle connections. Those that are made are returned also when there is an error.
func (a *arena) open(ctx context.Context, c *contestant) ([]*refpeer.Client, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	crew := &crew{addr: c.addr, tls: c.tls}
	var (
		wg    sync.WaitGroup
		begun atomic.Int64
		mu    sync.Mutex
		all   []*refpeer.Client
	)
	for range idleSessions {
		wg.Go(func() {
			for begun.Add(1) <= int64(a.options.Idle) && ctx.Err() == nil {
				client, err := crew.dial(ctx)
				if err == nil {
					mu.Lock()
					all = append(all, client)
					mu.Unlock()
					err = client.Open(ctx)
				}
				if err != nil {
					cancel(err) // the first one counts
				}
			}
		})
	}
	wg.Wait()
	return all, context.Cause(ctx)
}

// settled reads the resident memory once it stays the same.
func (c *contestant) settled(ctx context.Context) (int64, error) {
	last := int64(-1)
	for range settleTries {
		used, err := c.accounts.read()
		if err != nil || used.rss == last {
			return used.rss, err
		}
		last = used.rss
		wait(ctx, time.Now().Add(settleWait))
	}
	return last, context.Cause(ctx)
}

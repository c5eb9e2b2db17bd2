package aggregate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/mail"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/auth"
)

// fakeMTA takes messages, or says what answer says.
type fakeMTA struct {
	mu     sync.Mutex
	got    []sentMessage
	tries  int
	answer func(ctx context.Context, to, domain string, try int) error
}

type sentMessage struct {
	from, to, domain, id string
	at                   time.Time
}

func (m *fakeMTA) Send(ctx context.Context, from, to string, message []byte) error {
	parsed, err := mail.ReadMessage(bytes.NewReader(message))
	if err != nil {
		return err
	}
	words := strings.Fields(parsed.Header.Get("Subject")) // Report Domain: D Submitter: S Report-ID: <I>
	s := sentMessage{from, to, words[2], strings.Trim(words[6], "<>"), time.Now()}
	m.mu.Lock()
	m.tries++
	answer, try := m.answer, m.tries
	m.mu.Unlock()
	if answer != nil {
		if err := answer(ctx, to, s.domain, try); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.got = append(m.got, s)
	return nil
}

// says has it answer otherwise.
func (m *fakeMTA) says(answer func(ctx context.Context, to, domain string, try int) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.answer = answer
}

// tried is how often it was asked to take a message.
func (m *fakeMTA) tried() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tries
}

// take returns "domain to" of what came, in order, and forgets it.
func (m *fakeMTA) take() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []string
	for _, s := range m.got {
		list = append(list, s.domain+" "+s.to)
	}
	m.got = nil
	slices.Sort(list)
	return list
}

// schedule runs a test at noon of a day, with a journal and an MTA.
func schedule(t *testing.T, f func(t *testing.T, w *scheduled)) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(12 * time.Hour) // the bubble begins at midnight
		w := &scheduled{t: t, dir: t.TempDir(), mta: &fakeMTA{}, destinations: asked{}}
		w.today = DayOf(time.Now())
		f(t, w)
		w.stop()
	})
}

type scheduled struct {
	t            *testing.T
	dir          string
	today        Day
	mta          *fakeMTA
	destinations asked
	seen         events
	journal      *Journal
	scheduler    *Scheduler
}

func (w *scheduled) start() {
	w.t.Helper()
	j, err := Open(Options{Dir: w.dir, Observe: w.seen.observe})
	if err != nil {
		w.t.Fatal(err)
	}
	w.journal = j
	w.scheduler, err = NewScheduler(j, SchedulerOptions{
		Config: testConfig(), Destinations: w.destinations, Mailer: w.mta, Observe: w.seen.observe,
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *scheduled) stop() {
	w.t.Helper()
	if w.scheduler == nil {
		return
	}
	if err := errors.Join(w.scheduler.Close(), w.journal.Close()); err != nil {
		w.t.Error(err)
	}
	w.scheduler = nil
}

func (w *scheduled) want(list ...string) {
	w.t.Helper()
	if got := w.mta.take(); !slices.Equal(got, list) {
		w.t.Errorf("at %s the MTA had %v, want %v", time.Now().UTC(), got, list)
	}
}

func TestSchedule(t *testing.T) {
	schedule(t, func(t *testing.T, w *scheduled) {
		w.start()
		w.journal.Add(sample("a.example", 1), sample("b.example", 1), sample("a.example", 2))
		time.Sleep(time.Until(w.today.End().Add(earliest)))
		w.want()
		time.Sleep(spread)
		w.want("a.example rua@a.example", "b.example rua@b.example")
		first := w.seen.take(KindDay)
		if len(first) != 1 || first[0].Day != w.today || first[0].Count != 3 {
			t.Errorf("%+v", first)
		}
		// The same again, at the same time of the day.
		w.journal.Add(sample("a.example", 1))
		time.Sleep(24 * time.Hour)
		w.mta.mu.Lock()
		if len(w.mta.got) != 1 || w.mta.got[0].from != "postmaster@mx.example.org" {
			t.Errorf("%+v", w.mta.got)
		} else if late := w.mta.got[0].at.Sub((w.today + 1).End()) - w.scheduler.offset; late < 0 || late > time.Second {
			t.Errorf("it came %v after its time", late)
		}
		w.mta.mu.Unlock()
		w.want("a.example rua@a.example")
		time.Sleep(5 * 24 * time.Hour)
		w.want()
	})
}

// TestCatchUp: after a pause the last seven days are reported on, once.
func TestCatchUp(t *testing.T) {
	schedule(t, func(t *testing.T, w *scheduled) {
		for n := range KeepDays + 1 {
			writeDay(t, w.dir, w.today-Day(n), sample(fmt.Sprintf("d%d.example", n), 1))
		}
		var want []string
		for n := 1; n <= catchUp; n++ {
			want = append(want, fmt.Sprintf("d%d.example rua@d%d.example", n, n))
		}
		w.start()
		time.Sleep(startDelay - 1)
		w.want()
		time.Sleep(time.Minute)
		w.want(want...)
		// A restart sends nothing again.
		w.stop()
		w.start()
		time.Sleep(11 * time.Hour)
		w.want()
		time.Sleep(4 * time.Hour)
		w.want("d0.example rua@d0.example")
	})
}

// TestRetry: what does not work now is tried again, alone, ever less often, and for a day.
func TestRetry(t *testing.T) {
	schedule(t, func(t *testing.T, w *scheduled) {
		yesterday := w.today - 1
		writeDay(t, w.dir, yesterday, sample("a.example", 1), sample("b.example", 1), sample("c.example", 1))
		w.mta.says(func(_ context.Context, _, domain string, _ int) error {
			switch domain {
			case "b.example":
				return errors.New("451 later")
			case "c.example":
				return fmt.Errorf("at the end: %w", &auth.Refusal{Code: 550, Text: "no such user"})
			}
			return nil
		})
		w.start()
		time.Sleep(2 * time.Minute)
		w.want("a.example rua@a.example")
		if refused := w.seen.take(KindRefused); len(refused) != 1 || refused[0].To != "rua@c.example" {
			t.Errorf("%+v", refused)
		}
		time.Sleep(12 * time.Hour)
		if deferred := w.seen.take(KindDeferred); w.mta.tried() < 8 || w.mta.tried() > 15 || len(deferred) < 5 {
			t.Errorf("%d tries in 12 hours, %d deferred", w.mta.tried(), len(deferred))
		}
		w.want()
		time.Sleep(16 * time.Hour)
		gaveUp := w.seen.take(KindGaveUp)
		if len(gaveUp) != 1 || gaveUp[0].Domain != "b.example" || gaveUp[0].Err == nil {
			t.Errorf("%+v", gaveUp)
		}
		tries := w.mta.tried()
		w.mta.says(nil)
		time.Sleep(48 * time.Hour)
		if w.want(); w.mta.tried() != tries {
			t.Error("it goes on")
		}
	})
}

// TestRetryAcrossRestart: what is left is sent after a restart, however long that took, and nothing else.
func TestRetryAcrossRestart(t *testing.T) {
	for _, pause := range []time.Duration{time.Minute, 3 * 24 * time.Hour} {
		schedule(t, func(t *testing.T, w *scheduled) {
			writeDay(t, w.dir, w.today-1, sample("a.example", 1), sample("b.example", 1))
			w.mta.says(func(_ context.Context, _, domain string, _ int) error {
				if domain == "b.example" {
					return errors.New("451 later")
				}
				return nil
			})
			w.start()
			time.Sleep(2 * time.Minute)
			w.want("a.example rua@a.example")
			w.stop()
			time.Sleep(pause)
			w.mta.says(nil)
			w.start()
			time.Sleep(2 * time.Minute)
			w.want("b.example rua@b.example")
		})
	}
}

// TestNobodyKnows: the DNS does not say who wants a report until later; who does not want it never gets one.
func TestNobodyKnows(t *testing.T) {
	schedule(t, func(t *testing.T, w *scheduled) {
		r := sample("a.example", 1)
		r.Published.RUA = []string{"mailto:x@b.example", "mailto:y@c.example", "mailto:z@a.example", "mailto:z@a.example"}
		writeDay(t, w.dir, w.today-1, r)
		w.destinations["x@b.example"] = askedAnswer{err: errors.New("no answer")}
		w.destinations["y@c.example"] = askedAnswer{}
		w.start()
		time.Sleep(2 * time.Minute)
		w.want("a.example z@a.example")
		if unwanted := w.seen.take(KindUnwanted); len(unwanted) != 1 || unwanted[0].To != "y@c.example" {
			t.Errorf("%+v", unwanted)
		}
		time.Sleep(time.Hour)
		w.want()
		w.stop()
		delete(w.destinations, "x@b.example")
		w.start()
		time.Sleep(2 * time.Minute)
		w.want("a.example x@b.example")
	})
}

// TestUnreachable: where there is no MTA, it is not tried once for each report.
func TestUnreachable(t *testing.T) {
	schedule(t, func(t *testing.T, w *scheduled) {
		var records []Record
		var want []string
		for n := range 100 {
			domain := fmt.Sprintf("d%02d.example", n)
			records = append(records, sample(domain, n))
			want = append(want, domain+" rua@"+domain)
		}
		writeDay(t, w.dir, w.today-1, records...)
		w.mta.says(func(context.Context, string, string, int) error {
			return fmt.Errorf("mailer: %w", &net.OpError{Op: "dial", Err: errors.New("connection refused")})
		})
		w.start()
		time.Sleep(2 * time.Minute)
		if w.mta.tried() != maxUnreachable {
			t.Errorf("%d tries", w.mta.tried())
		}
		time.Sleep(12 * time.Hour) // more often than MaxAttempts
		w.mta.says(nil)
		time.Sleep(maxRetry)
		w.want(want...)
	})
}

// TestSlowMTA: an MTA that never answers is not waited for, and does not hold up a stop.
func TestSlowMTA(t *testing.T) {
	schedule(t, func(t *testing.T, w *scheduled) {
		writeDay(t, w.dir, w.today-1, sample("a.example", 1))
		w.mta.says(func(ctx context.Context, _, _ string, try int) error {
			if try != 2 {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		})
		w.start()
		time.Sleep(startDelay + sendTime + firstRetry + time.Second)
		w.want("a.example rua@a.example")
		writeDayUnlocked(t, w.dir, w.today-2, sample("b.example", 1))
		for w.mta.tried() < 3 {
			time.Sleep(time.Second)
		}
		before := time.Now()
		w.stop()
		if waited := time.Since(before); waited != 0 {
			t.Errorf("the stop took %v", waited)
		}
		w.mta.says(nil)
		w.start()
		time.Sleep(2 * time.Minute)
		w.want("b.example rua@b.example")
	})
}

// writeDayUnlocked writes a day into a directory that is in use.
func writeDayUnlocked(t *testing.T, dir string, day Day, records ...Record) {
	t.Helper()
	d := &directory{path: dir, maxSize: DefaultMaxSize}
	j := &Journal{dir: d}
	for _, r := range records {
		j.take(mustQueue(t, day, r))
	}
	j.write()
	if err := d.close(); err != nil || j.lost.Load() > 0 {
		t.Fatal(err, j.lost.Load())
	}
}

// TestDeadlyReport: a report that ends the process whenever it is sent is given up.
func TestDeadlyReport(t *testing.T) {
	day := DayOf(time.Now()) - 1
	dir := written(t, day, sample("a.example", 1))
	var seen events
	for n := range MaxAttempts + 1 {
		j := openJournal(t, Options{Dir: dir})
		ctx, cancel := context.WithCancel(t.Context())
		mta := &fakeMTA{answer: func(context.Context, string, string, int) error {
			cancel() // as if the process ended here
			return errors.New("gone")
		}}
		s, err := newScheduler(j, SchedulerOptions{
			Config: testConfig(), Destinations: asked{}, Mailer: mta, Observe: seen.observe,
		})
		if err != nil {
			t.Fatal(err)
		}
		s.work(ctx, day, time.Now())
		cancel()
		if err := errors.Join(s.sent.close(), j.Close()); err != nil {
			t.Fatal(err)
		}
		if want := n < MaxAttempts; (mta.tries > 0) != want {
			t.Errorf("try %d is made: %v", n, !want)
		}
	}
	if list := seen.take(KindGaveUp); len(list) != 1 || !errors.Is(list[0].Err, errAttempts) {
		t.Errorf("%+v", list)
	}
}

// TestState: what was sent is read as it was written, damaged or made anew.
func TestState(t *testing.T) {
	dir := t.TempDir()
	today := DayOf(someTime)
	s, err := openSent(dir, today)
	if err != nil {
		t.Fatal(err)
	}
	put := func(e sentEntry) {
		t.Helper()
		if err := s.set(e); err != nil {
			t.Fatal(err)
		}
	}
	put(sentEntry{Day: today - 1, Outcome: outcomeBegun, At: someTime.Unix()})
	put(sentEntry{Day: today - 1, Outcome: outcomeTrying, Report: "r1", To: "a@b.example"})
	put(sentEntry{Day: today - 1, Outcome: outcomeSent, Report: "r1", To: "a@b.example"})
	for range 2 {
		put(sentEntry{Day: today - 1, Outcome: outcomeTrying, Report: "r2", To: "a@b.example"})
	}
	put(sentEntry{Day: today - 1, Outcome: outcomeTrying, Report: "r3", To: "a@b.example"})
	put(sentEntry{Day: today - 1, Outcome: outcomeDeferred, Report: "r3", To: "a@b.example"})
	put(sentEntry{Day: today - 2, Outcome: outcomeComplete})
	put(sentEntry{Day: today - 3 - KeepDays, Outcome: outcomeComplete})
	check := func(s *sentState) {
		t.Helper()
		d := s.day(today - 1)
		if !d.begun.Equal(someTime) || d.complete || !s.day(today-2).complete ||
			d.deliveries[delivery{"r1", "a@b.example"}] != (deliveryState{1, outcomeSent}) ||
			d.deliveries[delivery{"r2", "a@b.example"}] != (deliveryState{2, ""}) ||
			d.deliveries[delivery{"r3", "a@b.example"}] != (deliveryState{}) {
			t.Errorf("%+v", d)
		}
	}
	check(s)
	for range 3 { // read, written anew, read
		read, err := readSent(dir)
		if err != nil {
			t.Fatal(err)
		}
		check(read)
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
		if s, err = openSent(dir, today); err != nil {
			t.Fatal(err)
		}
		check(s)
		if s.days[today-3-KeepDays] != nil {
			t.Error("an old day is still there")
		}
		if _, err := s.file.Write([]byte("\xfbgarbage")); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
}

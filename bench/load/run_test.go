package load

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// brief options measure nothing that means anything, but everything.
func brief(character string) Options {
	return Options{
		Command: command(character), Version: "v0.0.0", Peers: "no such directory",
		Sessions: []int{1, 3}, PerConnection: []int{1, 7}, Duration: 60 * time.Millisecond, Rounds: 2, Size: 1000, Idle: 5,
	}
}

// elsewhere gives a test a temporary directory that is looked at in the end: nothing may be left in it.
func elsewhere(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	t.Setenv("PATH", dir) // no proxies that happen to be installed
	t.Cleanup(func() {
		if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	})
}

func TestRun(t *testing.T) {
	elsewhere(t)
	for _, test := range []struct {
		name string
		edit func(*Options)
		way  []Way
	}{
		{"closed loop", func(*Options) {}, []Way{Direct, Outbound, Inbound}},
		{"open loop", func(o *Options) { o.Rate = 200 }, []Way{Direct, Outbound, Inbound}},
		{"constant clock", func(o *Options) { o.Rate, o.Clock = 200, Constant }, []Way{Direct, Outbound, Inbound}},
		{"without Slipstream", func(o *Options) { o.Command = nil }, []Way{Direct}},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := brief("honest")
			test.edit(&o)
			var steps []Step
			o.Progress = func(s Step) { steps = append(steps, s) }
			r, err := Run(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			points := 3 * len(test.way) // 1 and 3 sessions with 1 message, 3 sessions with 7
			if len(r.Points) != points || len(steps) != 2*points || len(r.Absent) != len(ways())-len(test.way) {
				t.Fatalf("%d points, %d steps, absent: %v", len(r.Points), len(steps), r.Absent)
			}
			for i, p := range r.Points {
				if p.Way != test.way[i%len(test.way)] || len(p.Turns) != 2 || p.Failed > 0 {
					t.Errorf("point %d: %+v", i, p)
				}
			}
			last := steps[len(steps)-1]
			if last.Done != last.Total-1 || !strings.HasPrefix(last.Point, "round 2 of 2, 3 sessions, 7") {
				t.Errorf("last step: %+v", last)
			}
			checkTurns(t, r.Points, o.Rate)
		})
	}
}

// checkTurns looks at the sum of all points: a busy machine may give a short turn nothing.
func checkTurns(t *testing.T, points []Point, rate float64) {
	t.Helper()
	messages, counted := 0, 0
	for _, p := range points {
		counted += p.Counted
		for _, turn := range p.Turns {
			messages += turn.Messages
			if l := turn.Latency; l.P50 > l.P90 || l.P90 > l.P99 || l.P99 > l.P999 || l.P999 > l.Max {
				t.Errorf("latencies do not rise: %+v", l)
			}
		}
		if rate == 0 && (p.Queued > 0 || p.Unsent > 0) {
			t.Errorf("a closed loop knows no queue: %+v", p)
		}
	}
	if messages == 0 || counted == 0 {
		t.Errorf("%d messages, %d counted", messages, counted)
	}
}

func TestRunRotates(t *testing.T) {
	elsewhere(t)
	o := brief("honest")
	o.Sessions, o.PerConnection, o.Rounds, o.Duration = []int{1}, []int{1}, 3, 30*time.Millisecond
	var turns []string
	o.Progress = func(s Step) { turns = append(turns, s.Way) }
	if _, err := Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"direct", "outbound door", "inbound door",
		"outbound door", "inbound door", "direct",
		"inbound door", "direct", "outbound door",
	}
	if !slices.Equal(turns, want) {
		t.Errorf("turns: %q", turns)
	}
}

func TestRunFails(t *testing.T) {
	elsewhere(t)
	for character, check := range map[string]func(*Report, error) string{
		"losing": func(r *Report, err error) string {
			if audit := new(AuditError); r != nil || !errors.As(err, &audit) || audit.Lost == 0 || audit.Twice != 0 {
				return "no loss was found"
			}
			return ""
		},
		"doubling": func(r *Report, err error) string {
			if audit := new(AuditError); r != nil || !errors.As(err, &audit) || audit.Lost != 0 || audit.Twice == 0 {
				return "no second copy was found"
			}
			return ""
		},
		"broken": func(r *Report, err error) string {
			if r != nil || !strings.Contains(err.Error(), "it ended before it listened") ||
				!strings.Contains(err.Error(), "the door is stuck") {
				return "its last words are missing"
			}
			return ""
		},
	} {
		t.Run(character, func(t *testing.T) {
			o := brief(character)
			o.Duration = 400 * time.Millisecond
			r, err := Run(t.Context(), o)
			if err == nil {
				t.Fatal("no error")
			}
			if complaint := check(r, err); complaint != "" {
				t.Errorf("%s: %v", complaint, err)
			}
		})
	}
}

func TestTurnOfRefusals(t *testing.T) {
	elsewhere(t)
	o := brief("refusing").withDefaults()
	o.Duration = MaxDuration // it ends earlier
	a, err := openArena(t.Context(), o)
	defer a.close()
	if err != nil {
		t.Fatal(err)
	}
	r := &Report{}
	for _, c := range a.contestants[1:] {
		turn, tally, err := a.turn(t.Context(), c, spot{2, 3}, "test", 0)
		if err != nil {
			t.Fatal(err)
		}
		p := Point{Way: c.way, Sessions: 2, PerConnection: 3}
		p.add(turn, tally)
		r.Points = append(r.Points, p)
	}
	err = r.failures()
	if err == nil || !strings.Contains(err.Error(), "inbound door, 2 sessions, 3 messages per connection: ") ||
		!strings.Contains(err.Error(), "a message was refused: 451 4.3.0 not today") {
		t.Errorf("failures: %v", err)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	elsewhere(t)
	for _, character := range []string{"honest", "mute"} {
		ctx, cancel := context.WithCancelCause(t.Context())
		o := brief(character)
		o.Duration = MaxDuration
		o.Progress = func(s Step) {
			if s.Done == 0 {
				cancel(os.ErrProcessDone)
			}
		}
		if character == "mute" {
			cancel(os.ErrProcessDone)
		}
		if r, err := Run(ctx, o); r != nil || !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("%s: %v, %v", character, r, err)
		}
	}
}

func TestRunWithSTARTTLS(t *testing.T) {
	elsewhere(t)
	o := brief("honest")
	o.TLS, o.Sessions, o.PerConnection, o.Command, o.Duration = true, []int{2}, []int{3}, nil, time.Second
	r, err := Run(t.Context(), o)
	if err != nil || len(r.Points) != 1 {
		t.Fatal(r, err)
	}
	checkTurns(t, r.Points, 0)
}

package aggregate

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"
)

// TestSilentDestinations: where the DNS says nothing about two hundred domains, the reports on others leave the same
// night, and those on the next day, too.
func TestSilentDestinations(t *testing.T) {
	schedule(t, func(t *testing.T, w *scheduled) {
		const silent, honest = 200, 20
		never := askedAnswer{late: 1000 * time.Hour}
		var records []Record
		var want []string
		for n := range silent {
			r := sample(fmt.Sprintf("s%d.example", n), n)
			w.destinations["rua@"+r.Published.Domain] = never
			records = append(records, r)
		}
		for n := range honest {
			r := sample(fmt.Sprintf("h%02d.example", n), n)
			records = append(records, r)
			want = append(want, r.Published.Domain+" rua@"+r.Published.Domain)
		}
		slow := sample("slow.example", 1)
		w.destinations["rua@slow.example"] = askedAnswer{to: []string{"rua@slow.example"}, late: askTime - time.Second}
		// One address of several does not keep the others from their report.
		several := sample("several.example", 1)
		several.Published.RUA = []string{"mailto:a@gone.example", "mailto:b@several.example", "mailto:c@late.example"}
		w.destinations["a@gone.example"] = never
		w.destinations["c@late.example"] = askedAnswer{to: []string{"c@late.example"}, late: askTime - time.Second}
		writeDay(t, w.dir, w.today-1, append(records, slow, several)...)
		w.start()
		first := time.Duration(silent/askers+2) * quickAskTime
		time.Sleep(startDelay + first)
		w.want(want...)
		time.Sleep(time.Duration(silent/askers+2) * askTime)
		w.want("several.example b@several.example", "several.example c@late.example", "slow.example rua@slow.example")
		w.journal.Add(records...)
		time.Sleep(time.Until(w.today.End().Add(earliest + spread + askBudget)))
		w.want(want...)
	})
}

// TestAskBudget: a round does not go on asking, and who was not asked is in the next.
func TestAskBudget(t *testing.T) {
	schedule(t, func(t *testing.T, w *scheduled) {
		var list []question
		answers := make(asked)
		for n := range 3 * askers {
			r := sample(fmt.Sprintf("d%d.example", n), n)
			answers["rua@"+r.Published.Domain] = askedAnswer{late: askTime - time.Second}
			list = append(list, question{published: r.Published})
		}
		s := &Scheduler{options: SchedulerOptions{Destinations: answers}}
		r := &round{Scheduler: s, recipients: make(map[string][]Recipient)}
		began := time.Now()
		r.ask(t.Context(), list, askTime, began.Add(3*askTime/2))
		if took := time.Since(began); took != 3*askTime/2 || len(r.recipients) != askers {
			t.Errorf("it took %v and found out about %d", took, len(r.recipients))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began = time.Now()
		r.ask(ctx, list, askTime, began.Add(askBudget))
		if took := time.Since(began); took != time.Second {
			t.Errorf("the end came after %v", took)
		}
	})
}

// TestRoundEnds: a round that would take days ends a day after the first try, with all that is left.
func TestRoundEnds(t *testing.T) {
	schedule(t, func(t *testing.T, w *scheduled) {
		const reports = 24*60/5 + 50
		var records []Record
		for n := range reports {
			records = append(records, sample(fmt.Sprintf("d%d.example", n), n))
		}
		writeDay(t, w.dir, w.today-1, records...)
		w.mta.says(func(context.Context, string, string, int) error {
			time.Sleep(sendTime)
			return nil
		})
		w.start()
		time.Sleep(startDelay + giveUp + sendTime)
		gaveUp, sent := w.seen.take(KindGaveUp), len(w.mta.take())
		if len(gaveUp)+sent != reports || sent < reports-60 || len(gaveUp) == 0 {
			t.Errorf("%d given up, %d sent", len(gaveUp), sent)
		}
		if i := slices.IndexFunc(gaveUp, func(e Event) bool { return e.Err != errNotAsked }); i >= 0 {
			t.Errorf("%+v", gaveUp[i])
		}
		time.Sleep(time.Hour)
		w.want()
	})
}

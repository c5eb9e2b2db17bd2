package proxy

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/refpeer"
	"slipstream/tlsstore"
)

// Where all hops agree and the MTA has heard so, the memory costs no write: not at
// the text, not when the next message comes, not when the MTA leaves. Where they
// differ, it does: the count is no idle one.
func TestFanoutCost(t *testing.T) {
	ok, no, later := "250 2.0.0 taken", "554 5.7.1 no one@a.example one@b.example", "451 4.3.0 later"
	for _, test := range []struct {
		a, b   string
		domain string // of the second recipient
		writes bool
	}{
		{ok, ok, "b", false}, {no, no, "b", false}, {later, later, "b", false}, {ok, ok, "a", false}, {no, no, "a", false},
		{ok, no, "b", true}, {ok, later, "b", true}, {no, later, "b", true},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := &fanoutWorld{world: newWorld(t), kv: &fanoutKV{KV: tlsstore.Memory()}}
			for name, reply := range map[string]string{"a": test.a, "b": test.b} {
				hop := &refpeer.Server{Keywords: refpeer.Modern(), Behave: lmtpFinal(refpeer.Say(reply))}
				w.lmtpDomain(name+".example", map[string]string{"a": "203.0.113.11", "b": "203.0.113.12"}[name], hop)
			}
			w.outbound(func(out *OutboundConfig) { out.Split, out.Offer = splitFanout, append(out.Offer, "DSN") })
			shut := w.open()
			synctest.Wait()
			before := w.kv.counted()
			mta := &FanoutMTA{Draw: rand.New(rand.NewPCG(1, 2)), Note: w.note, Patience: time.Minute,
				Pause: func(time.Duration) {}, Away: func() {}, Dial: func() (*FanoutConn, error) {
					conn, err := w.net.Dial(t.Context(), clientHost, outboundAt)
					return &FanoutConn{Conn: conn}, err
				}}
			to := []string{"one@a.example", "one@" + test.domain + ".example"}
			if test.domain == "a" {
				to[1] = "two@a.example"
			}
			for i := range 20 {
				mail := FanoutMail{ID: fmt.Sprint("m", i), From: "s@client.example", To: to,
					Text: fmt.Sprintf("X: %d\r\n\r\ntext\r\n", i)}
				if _, _, err := mta.Deliver(mail, to, 1, 1); err != nil {
					t.Fatal(err)
				}
			}
			mta.Leave()
			time.Sleep(time.Minute)
			after := w.kv.counted()
			if wrote := after != before; wrote != test.writes {
				t.Errorf("%q and %q: written %+v, before %+v; %+v", test.a, test.b, after, before, w.once.Stats())
			}
			if n := w.once.Stats().Outcomes; (n > 0) != test.writes {
				t.Errorf("%q and %q: %d outcomes are remembered", test.a, test.b, n)
			}
			if err := shut(); err != nil {
				t.Error(err)
			}
		})
	}
}

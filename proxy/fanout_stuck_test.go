package proxy

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"slipstream/bench/refpeer"
	"slipstream/proxy/once"
	"slipstream/tlsstore"
)

// Two messages of one sender to the same two recipients cross: one is refused by
// the first's hop, the other by the second's. Each comes to its end, whatever is
// known of the other.
func TestFanoutCrossedRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		memory, err := once.Open(tlsstore.Memory(), once.Options{})
		if err != nil {
			t.Fatal(err)
		}
		w.once = memory
		t.Cleanup(func() { _ = memory.Close() })
		w.refuses("a", "203.0.113.11", "first")
		w.refuses("b", "203.0.113.12", "second")
		w.outbound(func(out *OutboundConfig) { out.Split, out.Offer = splitFanout, append(out.Offer, "DSN") })
		w.start()
		first, second := w.client(outboundAt), w.client(outboundAt)
		both := []string{"x@a.example", "x@b.example"}
		for _, c := range []*dialog{first, second} {
			c.ask("EHLO mta.example", "250")
		}
		first.fanoutEnvelope("first", both)
		second.fanoutEnvelope("second", both) // before anything is known
		first.fanoutText("first", "451 4.3.0")
		second.fanoutText("second", "451 4.3.0")
		for name, c := range map[string]*dialog{"first": first, "second": second} {
			open := both
			for range 12 {
				open = c.fanoutAgain(name, open)
			}
			if len(open) > 0 {
				t.Errorf("the %s message is open for %q after 12 attempts", name, open)
			}
		}
	})
}

// refuses adds a hop that refuses the text of the message that ENVID calls so.
func (w *world) refuses(domain, addr, id string) {
	ids := map[int]string{} // by connection
	var mu sync.Mutex
	w.lmtpDomain(domain+".example", addr, &refpeer.Server{Keywords: refpeer.Modern(),
		Behave: func(ev refpeer.Event) refpeer.Action {
			mu.Lock()
			defer mu.Unlock()
			switch {
			case ev.Verb == "MAIL":
				ids[ev.Conn] = fanoutEnvelope(ev.Line).mail
			case ev.Kind == refpeer.EndOfData && ids[ev.Conn] == id:
				return refpeer.Say("554 5.7.1 no " + id)
			}
			return refpeer.Action{}
		}})
}

// fanoutEnvelope asks for recipients and returns those that are accepted.
func (d *dialog) fanoutEnvelope(id string, to []string) (taken []string) {
	d.t.Helper()
	d.ask("MAIL FROM:<s@client.example> ENVID="+id+"/1", "250")
	for _, rcpt := range to {
		if strings.HasPrefix(d.ask("RCPT TO:<"+rcpt+">", ""), "250") {
			taken = append(taken, rcpt)
		}
	}
	return taken
}

func (d *dialog) fanoutText(text, want string) string {
	d.t.Helper()
	d.ask("DATA", "354")
	return d.ask("Subject: x\r\n\r\n"+text+"\r\n.", want)
}

// fanoutAgain is one more attempt. It returns who is still open.
func (d *dialog) fanoutAgain(text string, to []string) (open []string) {
	d.t.Helper()
	if len(to) == 0 {
		return nil
	}
	taken := d.fanoutEnvelope(text, to)
	if len(taken) == 0 {
		d.ask("RSET", "250")
		return to
	}
	if d.fanoutText(text, "")[0] == '4' {
		return to
	}
	for _, rcpt := range to {
		if !strings.Contains(strings.Join(taken, " "), rcpt) {
			open = append(open, rcpt)
		}
	}
	return open
}

package proxy_test

import (
	"bytes"
	"strings"
	"testing"

	"slipstream/auth"
	"slipstream/bench/mta"
	"slipstream/bench/mta/mtatest"
)

// TestRealAuthEnforce: what policies ask for is done where the door says so. Exim bounces what is rejected, and who
// wrote it reads why; what is quarantined arrives and says so.
func TestRealAuthEnforce(t *testing.T) {
	const rejected, quarantined, delivered = "rejected", auth.QuarantineField, ""
	footer := chainSteps(chainSigned("good.example", "rsa"), chainEnd("-- \r\nthe list\r\n"))
	sealed := append(footer[:2:2], chainSealed("arc=none; spf=pass smtp.mailfrom=good.example; "+
		"dkim=pass header.d=good.example; dmarc=pass header.from=good.example"))
	rows := []struct {
		mail   chainMail
		author string // whom a refusal or the field names
		want   string
	}{
		{chainMail{to: "reject.test"}, "good.example", rejected},
		{chainMail{to: "reject.test", text: chainBy("a@sub.good.example")}, "sub.good.example", rejected},
		{chainMail{to: "reject.test", steps: footer}, "good.example", rejected},
		{chainMail{to: "reject.test", text: "From: b@other.example\r\n" + chainPlain}, "other.example", rejected},
		{chainMail{to: "reject.test", steps: sealed}, "", delivered},
		{chainMail{to: "reject.test", steps: footer[:1]}, "", delivered},
		{chainMail{to: "reject.test", text: chainBy("a@quar.example")}, "quar.example", quarantined},
		{chainMail{to: "reject.test", text: chainBy("a@test.example")}, "test.example", quarantined},
		{chainMail{to: "reject.test", text: chainBy("a@none.example")}, "", delivered},
		{chainMail{to: "reject.test", text: chainBy("a@nodmarc.example")}, "", delivered},
		{chainMail{to: "reject.test", text: chainBy("a@lame.example")}, "", delivered},
		{chainMail{to: "quarantine.test"}, "good.example", quarantined},
		{chainMail{to: "quarantine.test", text: chainBy("a@quar.example")}, "quar.example", quarantined},
		{chainMail{to: "quarantine.test", text: chainBy("a@none.example")}, "", delivered},
		{chainMail{to: "tree.test"}, "", delivered},
	}
	var mails []chainMail
	arrive, bounce := 0, 0
	for i := range rows {
		m := &rows[i].mail
		m.name, m.client, m.from = "enforce", "127.0.0.14", "author"+chainRecipient(i)+"@sender.test"
		m.fill()
		mails = append(mails, *m)
		if rows[i].want == rejected {
			bounce++
		} else {
			arrive++
		}
	}
	w := newChainWorld(t, mails)
	texts, kept := w.composeAll(t, mails)
	w.submitAll(t, mails, texts)

	ctx := mtatest.Context(t)
	bounces, err := w.exim.WaitDelivered(ctx, bounce)
	if err != nil {
		t.Fatal(err)
	}
	arrived, err := w.postfix.WaitDelivered(ctx, arrive)
	if err != nil {
		t.Fatal(err)
	}
	for i, row := range rows {
		m := mails[i]
		passed := chainTo(arrived, chainRecipient(i)+"@"+m.to)
		returned := chainTo(bounces, m.from)
		if (passed == nil) != (row.want == rejected) || (returned == nil) == (row.want == rejected) {
			t.Errorf("%d: %s, from %q: delivered %t, bounced %t", i, m.to, row.author, passed != nil, returned != nil)
			continue
		}
		if row.want == rejected {
			// https://www.rfc-editor.org/rfc/rfc9989#section-7.2
			if text := string(returned); !strings.Contains(text, "550 5.7.26") || !strings.Contains(text, row.author) {
				t.Errorf("%d: %s, from %s: the bounce says\n%s", i, m.to, row.author, text)
			}
			continue
		}
		top, whole := bytes.CutSuffix(passed, kept[i])
		if !whole {
			t.Errorf("%d: below our fields is not what was sent:\n%q", i, passed)
		}
		want := ""
		if row.want == quarantined {
			want = "\r\n" + auth.QuarantineField + ": dmarc " + row.author + "\r\n"
		}
		has := bytes.Contains(top, []byte(auth.QuarantineField))
		if has != (want != "") || !bytes.Contains(top, []byte(want)) {
			t.Errorf("%d: %s, from %q: on top stands\n%s", i, m.to, row.author, top)
		}
	}
}

// chainTo finds the one message to a recipient; nil: there is none.
func chainTo(messages []mta.Message, recipient string) []byte {
	for _, m := range messages {
		if m.Recipient == recipient {
			return m.Raw
		}
	}
	return nil
}

package mta

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseDelivery(t *testing.T) {
	tests := []struct {
		text string
		want Message
		bad  bool
	}{
		{text: "Return-Path: <a@a.test>\nX-Original-To: b@b.test\nDelivered-To: b@b.test\nReceived: x\n\nhello\n",
			want: Message{Sender: "a@a.test", Recipient: "b@b.test", Raw: []byte("Received: x\r\n\r\nhello\r\n")}},
		{text: "Return-Path: <>\nDelivered-To: b@b.test\nDelivered-To: the message's own\n\n",
			want: Message{Recipient: "b@b.test", Raw: []byte("Delivered-To: the message's own\r\n\r\n")}},
		{text: "Return-Path: <>\nReceived: x\n\n", bad: true},
		{text: "Return-Path: <>\n", bad: true},
		{text: "", bad: true},
	}
	for _, test := range tests {
		got, err := parseDelivery([]byte(test.text))
		if test.bad {
			if err == nil {
				t.Errorf("%q: no error", test.text)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", test.text, err)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%q: -want +got\n%s", test.text, diff)
		}
	}
}

func TestParseQueue(t *testing.T) {
	const exim = ` 0m   443 1xUsyi-00000J-0T <a@a.test>
          b@b.test
        D c@c.test

24h  1.2K 1xUsyi-00000K-0T <> *** frozen ***
          d@d.test
`
	const postfix = `{"queue_name": "active", "queue_id": "8873B985EE4", "sender": "a@a.test", "recipients": [{"address": "b@b.test"}, {"address": "c@c.test"}]}
{"queue_name": "deferred", "queue_id": "8873B985EE4", "sender": "a@a.test", "recipients": [{"address": "b@b.test", "delay_reason": "x"}]}
{"queue_name": "active", "queue_id": "8873B985EE5", "sender": "MAILER-DAEMON", "recipients": [{"address": "d@d.test"}]}
`
	want := func(ids ...string) []Queued {
		return []Queued{
			{ID: ids[0], Sender: "a@a.test", Recipients: []string{"b@b.test"}},
			{ID: ids[1], Recipients: []string{"d@d.test"}},
		}
	}
	got, err := parseEximBp([]byte(exim))
	if diff := cmp.Diff(want("1xUsyi-00000J-0T", "1xUsyi-00000K-0T"), got); err != nil || diff != "" {
		t.Errorf("%v, -want +got\n%s", err, diff)
	}
	got, err = parsePostqueue([]byte(postfix))
	if diff := cmp.Diff(want("8873B985EE4", "8873B985EE5"), got); err != nil || diff != "" {
		t.Errorf("%v, -want +got\n%s", err, diff)
	}
	if got, err := parseEximBp(nil); len(got) != 0 || err != nil {
		t.Errorf("empty queue: %v, %v", got, err)
	}
}

// What a kind cannot do is said before anything is started.
func TestConfigRefused(t *testing.T) {
	tests := []struct {
		kind   Kind
		config Config
		want   string
	}{
		{Exim, Config{XCLIENT: []string{"127.0.0.1"}}, "XCLIENT"},
		{Postfix, Config{PipeConnect: true}, "early"},
		{Exim, Config{Cert: []byte("x")}, "key"},
		{Exim, Config{ImplicitTLS: true}, "certificate"},
		{Postfix, Config{Via: "nowhere"}, "Via"},
		{Postfix, Config{DNS: "127.0.0.1:53"}, "address alone"},
		{Postfix, Config{Refusals: []Refusal{{"x", "250 ok"}}}, "refusal"},
		{Postfix, Config{Refusals: []Refusal{{"x", "550 no\r\n250 yes"}}}, "refusal"},
		{Postfix, Config{Listen: "127.0.0.1"}, "port"},
	}
	for _, test := range tests {
		_, err := Start(t.Context(), test.kind, test.config)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s, %+v: %v; want something about %q", test.kind, test.config, err, test.want)
		}
	}
}

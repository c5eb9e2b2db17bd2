package proxy_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"strings"
	"testing"

	"slipstream/bench/mta"
	"slipstream/bench/mta/mtatest"
	"slipstream/bench/refpeer"
	"slipstream/proxy"
)

// A realBounce is a way for mail to come back, and what its author then reads.
type realBounce struct {
	name    string
	how     string // reply_attribution
	hop     func(refpeer.Event) refpeer.Action
	secured bool
	later   bool // the MTA is told to come again, and gives up
	says    []string
}

// realBounces are read back from servers of every kind. %s is the hop.
func realBounces() []realBounce {
	say := func(kind refpeer.Kind, verb, line string) func(refpeer.Event) refpeer.Action {
		return func(ev refpeer.Event) refpeer.Action {
			if ev.Kind == kind && (verb == "" || ev.Verb == verb) {
				return refpeer.Say(line)
			}
			return refpeer.Action{}
		}
	}
	const notHere = "554 5.7.1 mx.b.test does not talk to you"
	many := "550-5.7.1 The message looks like spam.\r\n550 5.7.1 See https://mx.b.test/spam"
	return []realBounce{
		{name: "recipient, host", how: "host", hop: say(refpeer.Command, "RCPT", "550 5.1.1 no such user here"),
			says: []string{"550 5.1.1 no such user here (said by %s)"}},
		{name: "recipient, off", how: "off", hop: say(refpeer.Command, "RCPT", "550 5.1.1 no such user here"),
			says: []string{"550 5.1.1 no such user here"}},
		{name: "text, TLS, full", how: "full", secured: true, hop: say(refpeer.EndOfData, "", many),
			says: []string{"5.7.1 The message looks like spam.",
				"5.7.1 See https://mx.b.test/spam (said by %s, TLSv1.3)"}},
		{name: "greeting, full", how: "full", later: true, hop: say(refpeer.Connect, "", notHere),
			says: []string{`451 4.3.2 Slipstream: %s said "` + notHere + `" while waiting for the greeting`}},
		{name: "EHLO, full", how: "full", later: true, hop: say(refpeer.Command, "EHLO", "421 4.7.1 not you"),
			says: []string{`451 4.7.1 Slipstream: %s said "421 4.7.1 not you" while waiting for the answer to EHLO ` +
				`(no TLS, greeting "220 mx.b.test ESMTP Brand 1.0")`}},
	}
}

// The author of a message that comes back reads in the MTA's own bounce which host
// refused it.
func TestRealBounces(t *testing.T) {
	for _, kind := range mta.Kinds() {
		for _, b := range realBounces() {
			t.Run(fmt.Sprintf("%s, %s", kind, b.name), func(t *testing.T) {
				t.Parallel()
				b.run(t, kind)
			})
		}
	}
}

func (b realBounce) run(t *testing.T, kind mta.Kind) {
	at := realNeighbours(t, 1)[0]
	hop := &refpeer.Server{
		Hostname: "mx.b.test", Banner: "mx.b.test ESMTP Brand 1.0", Keywords: refpeer.Modern(), Behave: b.hop,
	}
	cfg := realConfig(t)
	addOutbound(cfg, doorSMTP, portOf(at), func(out *proxy.OutboundConfig) {
		out.ReplyAttribution = b.how
		if b.secured {
			cert := newRealCert(t, "mx.b.test")
			hop.TLS = serverTLS(t, cert)
			out.TLS, out.TLSCAFile = "verify", cert.certFile
		}
	})
	serveReference(t, at, hop)
	px := startReal(t, cfg, serveDomains(t, map[string]string{"b.test": at}))
	sends := mta.Config{}
	if b.later {
		sends.Extra = map[mta.Kind][]string{
			mta.Postfix: {"maximal_queue_lifetime = 0"},
			mta.Exim:    {"delay_warning = 1s"}, // the retry rules go on for a day; this one says the same
		}[kind]
	}
	sender := sendThrough(t, kind, px.at(doorSMTP), doorSMTP, sends)
	realSubmit(t, sender, realMessage("bounce", 0), "you@b.test")
	got, err := sender.WaitDelivered(mtatest.Context(t), 1)
	if err != nil {
		t.Fatal(err)
	}
	if got[0].Sender != "" || got[0].Recipient != realSender {
		t.Fatalf("from <%s> to <%s>", got[0].Sender, got[0].Recipient)
	}
	report := readBounce(t, got[0].Raw)
	t.Logf("%s\n---\n%s", report.words, report.status)
	label := fmt.Sprintf("mx.b.test[%s]:%d", strings.Split(at, ":")[0], portOf(at))
	for _, want := range b.says {
		if strings.Contains(want, "%s") {
			want = fmt.Sprintf(want, label)
		}
		if !strings.Contains(report.words, want) {
			t.Errorf("its author does not read %q in\n%s", want, report.words)
		}
	}
	if b.how == "off" && strings.Contains(report.words, "mx.b.test[") {
		t.Errorf("its author reads more than the hop said:\n%s", report.words)
	}
}

// A bounceReport is a bounce as people and as programs read it, white space made
// one blank.
type bounceReport struct{ words, status string }

func readBounce(t *testing.T, raw []byte) (r bounceReport) {
	t.Helper()
	m, err := mail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/report" {
		body, _ := io.ReadAll(m.Body)
		return bounceReport{words: strings.Join(strings.Fields(string(body)), " ")}
	}
	for parts := multipart.NewReader(m.Body, params["boundary"]); ; {
		part, err := parts.NextPart()
		if err == io.EOF {
			return r
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(part)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Join(strings.Fields(string(body)), " ")
		switch kind, _, _ := mime.ParseMediaType(part.Header.Get("Content-Type")); kind {
		case "text/plain":
			r.words = text
		case "message/delivery-status", "message/global-delivery-status":
			r.status = text
		}
	}
}

func serverTLS(t *testing.T, c realCert) *tls.Config {
	t.Helper()
	pair, err := tls.X509KeyPair(c.cert, c.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}}
}

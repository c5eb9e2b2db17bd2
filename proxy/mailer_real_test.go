package proxy_test

import (
	"errors"
	"net"
	"strconv"
	"strings"
	"testing"

	"slipstream/auth"
	"slipstream/bench/mta"
	"slipstream/bench/mta/mtatest"
	"slipstream/proxy"
)

// Real MTAs take our own mail whatever they expect of a proxy, and take it for ours: no client is named.
func TestRealMailer(t *testing.T) {
	t.Parallel()
	here := []string{"127.0.0.1"}
	const text = "From: reports@proxy.test\r\nTo: you@b.test\r\nSubject: report\r\n" +
		"Date: Wed, 01 Jul 2026 12:30:00 +0000\r\nMessage-ID: <1@proxy.test>\r\n\r\n.\r\n..dots\r\n.\r\nQUIT\r\n"
	for _, test := range []struct {
		name, clientAddress string
		kind                mta.Kind
		config              mta.Config
	}{
		{name: "postfix", kind: mta.Postfix},
		{name: "postfix, XCLIENT", kind: mta.Postfix, clientAddress: "xclient", config: mta.Config{XCLIENT: here}},
		{name: "postfix, PROXY 1", kind: mta.Postfix, clientAddress: "proxy-v1", config: mta.Config{Proxy: here}},
		{name: "postfix, PROXY 2", kind: mta.Postfix, clientAddress: "proxy-v2", config: mta.Config{Proxy: here}},
		{name: "exim", kind: mta.Exim},
		{name: "exim, PROXY 1", kind: mta.Exim, clientAddress: "proxy-v1", config: mta.Config{Proxy: here}},
		{name: "exim, PROXY 2", kind: mta.Exim, clientAddress: "proxy-v2", config: mta.Config{Proxy: here}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.config.Hostname, test.config.Local = "mx.b.test", []string{"b.test"}
			receiver := mtatest.Start(t, test.kind, test.config)
			host, digits, err := net.SplitHostPort(receiver.Addr())
			mtatest.Check(t, err)
			port, err := strconv.ParseUint(digits, 10, 16)
			mtatest.Check(t, err)
			m, err := proxy.NewMailer(proxy.MailerOptions{
				To: proxy.Endpoint{Host: host, Port: uint16(port)}, Hostname: "proxy.test", ClientAddress: test.clientAddress,
			})
			mtatest.Check(t, err)
			if err := m.Send(mtatest.Context(t), "", "you@b.test", []byte(text)); err != nil {
				t.Fatal(err)
			}
			got, err := receiver.WaitDelivered(mtatest.Context(t), 1)
			mtatest.Check(t, err)
			raw := string(got[0].Raw)
			if got[0].Sender != "" || !strings.HasSuffix(raw, text) {
				t.Errorf("from %q:\n%s", got[0].Sender, raw)
			}
			if trace, _, _ := strings.Cut(raw, "From: "); !strings.Contains(trace, "[127.0.0.1]") {
				t.Errorf("it came from somewhere else:\n%s", trace)
			}
			// This MTA relays for nobody, us included.
			err = m.Send(mtatest.Context(t), "", "ruf@elsewhere.test", []byte(text))
			var refusal *auth.Refusal
			if !errors.As(err, &refusal) || refusal.Code/100 != 5 {
				t.Errorf("a report to elsewhere: %v", err)
			}
		})
	}
}

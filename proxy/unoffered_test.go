package proxy

import (
	"testing"
	"testing/synctest"

	"slipstream/bench/refpeer"
)

// A BDAT that was not offered is refused, and its text must not have travelled
// on with the envelope before: the client would hear 503 about a message that
// was delivered, and send it again.
func TestUnofferedBdatGoesNowhere(t *testing.T) {
	tests := map[string]struct {
		hello string
		door  string
	}{
		"a door that does not offer it": {"EHLO old.example", outboundAt},
		"a client that said HELO":       {"HELO old.example", inboundAt},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				mx := w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern()})
				backend := w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
				w.inbound()
				w.outbound(func(o *OutboundConfig) { o.Offer = DefaultOutbound().Offer })
				w.start()
				c := w.client(tt.door)
				c.ask(tt.hello, "250")
				c.raw("MAIL FROM:<a@old.example>\r\nRCPT TO:<b@example.org>\r\nBDAT 14 LAST\r\nSubject: x\r\n\r\n")
				c.want("250 ")
				c.want("250 ")
				c.want("503 5.5.1")
				c.ask("RSET", "250 ")
				if n := len(mx.Messages()) + len(backend.Messages()); n != 0 {
					t.Errorf("%d messages were delivered behind a refusal", n)
				}
			})
		})
	}
}

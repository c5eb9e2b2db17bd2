package proxy

import (
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"slipstream/bench/refpeer"
)

// Who is told PIPECONNECT, in clear and inside TLS. Those who are not are served
// early all the same: what they once learned may be old.
func TestEarlyOffer(t *testing.T) {
	client := netip.MustParsePrefix(clientHost + "/32")
	other := netip.MustParsePrefix("203.0.113.0/24")
	tests := []struct {
		name   string
		hosts  Prefixes
		header string // PROXY
		want   bool
	}{
		{"everybody", DefaultInbound().PipeconnectAdvertiseHosts, "", true},
		{"nobody", Prefixes{}, "", false},
		{"this one", Prefixes{client}, "", true},
		{"others", Prefixes{other}, "", false},
		{"who comes through a proxy", Prefixes{other}, "PROXY TCP4 203.0.113.9 192.0.2.1 4321 25\r\n", true},
		{"the proxy alone", Prefixes{client}, "PROXY TCP4 203.0.113.9 192.0.2.1 4321 25\r\n", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cert := newTestCert(t, "proxy.example")
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				b := w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
				w.inbound(func(in *InboundConfig) {
					in.PipeconnectAdvertiseHosts = tt.hosts
					in.TLSCert, in.TLSKey = cert.certFile, cert.keyFile
					if tt.header != "" {
						in.ProxyProtocolFrom = Prefixes{client}
					}
				})
				w.start()
				c := w.connect(inboundAt)
				c.raw(tt.header + earlyMail + earlyChunk(earlyText)) // one segment
				for _, want := range []string{"220 ", "250", "250 ", "250 ", "250 2.0.0"} {
					c.want(want)
				}
				clear := c.ask("EHLO client.example", "250")
				c.startTLS()
				for _, ehlo := range []string{clear, c.ask("EHLO client.example", "250")} {
					if got := strings.Contains(ehlo, "\n250-PIPELINING\n250-PIPECONNECT\n"); got != tt.want {
						t.Errorf("told: %t, want %t: %q", got, tt.want, ehlo)
					}
				}
				if n := len(b.Messages()); n != 1 {
					t.Errorf("%d messages came", n)
				}
			})
		})
	}
	t.Run("the MTA at an outbound door", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			mx := w.serve(mxAddr, &refpeer.Server{Keywords: refpeer.Modern()})
			w.outbound()
			w.start()
			c := w.connect(outboundAt)
			c.raw(strings.ReplaceAll(earlyMail, "example.net", "example.org") + earlyChunk(earlyText))
			c.want("220 ")
			if ehlo := c.want("250"); strings.Contains(ehlo, "PIPECONNECT") {
				t.Errorf("told: %q", ehlo)
			}
			for _, want := range []string{"250 ", "250 ", "250 2.0.0"} {
				c.want(want)
			}
			if n := len(mx.Messages()); n != 1 {
				t.Errorf("%d messages came", n)
			}
		})
	})
}

// A client that talks early goes by what the backend could do when they last
// met. If that has changed it must not hear a final word for our sake.
func TestEarlyTalkOfWhatWasOffered(t *testing.T) {
	for _, tt := range []struct {
		name, mail, rcpt string
		replies          string
		lockstep         string // what one hears that was told better
	}{
		{"a parameter that can be left out", " RET=HDRS", " NOTIFY=NEVER", "250 | 250 ", "555 "},
		{"one that cannot", " BODY=8BITMIME SMTPUTF8", "", "451 4.3.2", "555 "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				b := w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Keywords{Pipelining: true, Chunking: true}})
				w.inbound()
				w.start()
				mail := "MAIL FROM:<a@client.example>" + tt.mail
				c := w.client(inboundAt)
				c.ask("EHLO client.example", "250")
				c.ask(mail, tt.lockstep)

				c = w.connect(inboundAt)
				c.raw(earlyHello + mail + "\r\nRCPT TO:<b@example.net>" + tt.rcpt + "\r\n" + earlyChunk(earlyText) + "QUIT\r\n")
				c.want("220 ")
				c.want("250")
				for want := range strings.SplitSeq(tt.replies, " | ") {
					c.want(strings.TrimSpace(want))
				}
				if strings.HasPrefix(tt.replies, "250") {
					c.want("250 2.0.0")
					c.want("221 ")
				}
				synctest.Wait()
				for _, m := range b.Messages() {
					if strings.Contains(m.From+strings.Join(m.Rcpts, ""), "R=") || strings.Contains(m.From, "RET") {
						t.Errorf("the backend heard what it does not know: %+v", m)
					}
				}
			})
		})
	}
}

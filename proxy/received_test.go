package proxy

import (
	"strings"
	"testing"
	"testing/synctest"

	"slipstream/bench/refpeer"
)

// A text whose first line begins with a blank would continue the field that we
// put above it, and so speak in our name about who was there.
func TestTextCannotContinueOurReceived(t *testing.T) {
	forged := "from bank.example ([192.0.2.99]) by proxy.example with ESMTPSA id forged; now\r\n" + hostileText
	for name, text := range map[string]string{
		"a tab":               "\t" + forged,
		"a space":             " " + forged,
		"a blank line":        " \r\n" + hostileText,
		"a tab behind a dot":  ".\t" + forged, // the dot is transparency, and goes
		"nothing but a blank": " \r\n",
	} {
		for _, adds := range []bool{true, false} {
			t.Run(name+map[bool]string{true: "/adds", false: "/adds none"}[adds], func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					hop := w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
					w.inbound(func(in *InboundConfig) { in.AddReceived = adds })
					w.start()
					c := w.client(inboundAt)
					c.ask("EHLO client.example", "250")
					want := "554 5.6.0 Slipstream: message refused"
					if !adds {
						want = "250 " // there is nothing that it could continue (P4)
					}
					c.talk(hostileMail+"\r\nDATA", "250 | 250 | 354 ", text+".", want)
					arrived := receivedTexts(hop)
					if adds && len(arrived) != 0 || !adds && (len(arrived) != 1 || arrived[0] != strings.TrimPrefix(text, ".")) {
						t.Errorf("the hop has %q", arrived)
					}
					c.send()
				})
			})
		}
	}
}

// The same in chunks, wherever they are cut.
func TestChunksCannotContinueOurReceived(t *testing.T) {
	for name, chunks := range map[string][]string{
		"whole":             {"BDAT 5 LAST\r\n\tx\r\nx"},
		"one octet first":   {"BDAT 1\r\n\t", "BDAT 4 LAST\r\nx\r\nx"},
		"nothing first":     {"BDAT 0\r\n", "BDAT 5 LAST\r\n\tx\r\nx"},
		"one octet, no end": {"BDAT 1\r\n ", "BDAT 0 LAST\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				hop := w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Modern()})
				w.inbound(func(in *InboundConfig) { in.AddReceived = true })
				w.start()
				c := w.client(inboundAt)
				c.ask("EHLO client.example", "250")
				c.talk(hostileMail, "250 | 250 ")
				refused := ""
				for _, chunk := range chunks {
					c.raw(chunk)
					if r := c.want(""); refused == "" && !strings.HasPrefix(r, "250 ") {
						refused = r
					}
				}
				if !strings.HasPrefix(refused, "554 5.6.0 ") {
					t.Errorf("heard %q", refused)
				}
				if got := receivedTexts(hop); len(got) != 0 {
					t.Errorf("the hop has %q", got)
				}
				c.talk("RSET", "250 ")
				c.send()
			})
		})
	}
}

// receivedTexts are the texts that a hop has taken.
func receivedTexts(hop *refpeer.Server) []string {
	var texts []string
	for _, m := range hop.Messages() {
		texts = append(texts, string(m.Body))
	}
	return texts
}

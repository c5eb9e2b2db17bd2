package proxy

import (
	"strings"
	"testing"
	"testing/synctest"

	"slipstream/auth"
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
					c.talk(hostileMail+"\r\nDATA", "250 | 250 | 354 ", text+".", "250 ")
					want := strings.TrimPrefix(text, ".")
					if adds {
						want = auth.Shield + want
					} // else there is nothing that it could continue (P4)
					arrived := receivedTexts(hop)
					if len(arrived) != 1 {
						t.Fatalf("the hop has %q", arrived)
					}
					above, rest := cutReceived(arrived[0])
					if adds != (above != "") || rest != want {
						t.Errorf("the hop has %q and below it %q, want %q", above, rest, want)
					}
					c.send()
				})
			})
		}
	}
}

// The same by BDAT, where the first octet may come alone.
func TestChunksCannotContinueOurReceived(t *testing.T) {
	for name, tt := range map[string]struct {
		chunks []string
		text   string
	}{
		"whole":             {[]string{"BDAT 5 LAST\r\n\tx\r\nx"}, "\tx\r\nx"},
		"one octet first":   {[]string{"BDAT 1\r\n\t", "BDAT 4 LAST\r\nx\r\nx"}, "\tx\r\nx"},
		"nothing first":     {[]string{"BDAT 0\r\n", "BDAT 5 LAST\r\n\tx\r\nx"}, "\tx\r\nx"},
		"one octet, no end": {[]string{"BDAT 1\r\n ", "BDAT 0 LAST\r\n"}, " "},
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
				for _, chunk := range tt.chunks {
					c.raw(chunk)
					c.want("250 ")
				}
				got := receivedTexts(hop)
				if len(got) != 1 {
					t.Fatalf("the hop has %q", got)
				}
				if above, rest := cutReceived(got[0]); above == "" || strings.TrimSuffix(rest, "\r\n") != auth.Shield+tt.text {
					t.Errorf("the hop has %q and below it %q", above, rest)
				}
				c.send()
			})
		})
	}
}

// cutReceived divides a text behind the Received field of ours that it begins with, which may be none.
func cutReceived(text string) (field, rest string) {
	if !strings.HasPrefix(text, "Received: from ") {
		return "", text
	}
	lines := strings.SplitAfterN(text, "\r\n", 4) // the field has three
	return strings.Join(lines[:3], ""), lines[3]
}

// receivedTexts are the texts that a hop has taken.
func receivedTexts(hop *refpeer.Server) []string {
	var texts []string
	for _, m := range hop.Messages() {
		texts = append(texts, string(m.Body))
	}
	return texts
}

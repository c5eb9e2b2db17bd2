package proxy

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// FuzzRelayAuth: whatever a client says in whatever pieces, the backend hears a
// response only where it asked for one, never what the client had sent before it
// was asked, and never two lines where one is due.
func FuzzRelayAuth(f *testing.F) {
	const glue = "R2x1ZQ==" // only ever sent ahead of time
	lines := []string{
		"AUTH PLAIN AGEAYg==", "AUTH PLAIN AGEAYw==", "AUTH PLAIN", "AUTH LOGIN", "AUTH LOGIN YQ==", "AUTH CRAM-MD5",
		"AUTH EXTERNAL =",
		"YQ==", "Yg==", "AGEAYg==", "YSBkaWdlc3Q=", "*", "", "=", "MAIL FROM:<a@example.org>", "RCPT TO:<b@far.example>",
		"RSET", "NOOP",
		"AUTH", "AUTH PLAIN $", "VRFY a", "ETRN a", "EHLO client.example", "YQ==\rYg==", "YQ==\nYg==", strings.Repeat("A",
			13000),
	}
	f.Add([]byte{3, 7, 8, 14, 15}, []byte{0})
	f.Add([]byte{5, 10, 14, 16, 3}, []byte{1, 3})
	f.Add([]byte{3, 7 + 128, 8, 14}, []byte{2})
	f.Add([]byte{3 + 128, 7, 8, 14}, []byte(nil))
	f.Add([]byte{0 + 128, 14, 20, 25, 2, 9}, []byte{200})
	f.Add([]byte{2, 11, 2, 25, 2, 23, 2, 24}, []byte{7})
	f.Fuzz(func(t *testing.T, said, sizes []byte) {
		said = said[:min(len(said), 20)]
		synctest.Test(t, func(t *testing.T) {
			w, b, logs := loginWorld(t, &loginBackend{}, func(in *InboundConfig) {
				in.RelayCommands = []string{"VRFY",
					"ETRN"}
			})
			d := w.secured()
			for i, n := range said {
				octets := lines[int(n&127)%len(lines)] + "\r\n"
				size := len(octets)
				if n&128 != 0 {
					octets += glue + "\r\n"
					size = len(octets)
				} else if len(sizes) > 0 {
					size = 1 + int(sizes[i%len(sizes)])
				}
				for piece := range slices.Chunk([]byte(octets), size) {
					_, _ = d.conn.Write(piece) // it may be over
					if len(octets) < 100 {
						time.Sleep(time.Millisecond)
					}
				}
				time.Sleep(100 * time.Millisecond)
			}
			_ = d.conn.Close()
			synctest.Wait()
			verbs := []string{"EHLO", "AUTH", "MAIL", "RCPT", "RSET", "QUIT", "VRFY", "ETRN", "BDAT", "DATA"}
			for _, c := range b.all() {
				due := 0
				for _, line := range c.lines() {
					verb, _, _ := strings.Cut(line.text, " ")
					switch {
					case line.text == glue:
						t.Fatalf("the backend heard what was sent ahead: %q", c.heard)
					case !line.asked && !slices.Contains(verbs, verb):
						t.Fatalf("the backend heard %q unasked: %q", line.text, c.heard)
					}
					if line.asked {
						due++
					}
				}
				if due > maxLoginRounds*maxLoginFailures {
					t.Fatalf("%d responses", due)
				}
			}
			keepsSecrets(t, logs, "AGEAY", "Yg==", "YQ==", "YSBkaWdlc3Q", glue)
		})
	})
}

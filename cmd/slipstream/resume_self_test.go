package main

import (
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"slipstream/bench/mta/mtatest"
	"slipstream/bench/refpeer"
)

// Two services, each a process of its own: the first sends through its outbound door to the inbound door of the second.
// When the first is restarted, its sessions go on. When the second is, its keys are gone: a full handshake, and the
// mail arrives all the same.
func TestResumesWithItselfAfterRestart(t *testing.T) {
	backend := &refpeer.Server{Keywords: refpeer.Modern()}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	backend.Start(ln)
	t.Cleanup(backend.Close)

	ctx := mtatest.Context(t)
	there, here := t.TempDir(), t.TempDir()
	cert, err := newCertificate("mx.example.org")
	if err == nil {
		err = cert.write(filepath.Join(there, "cert.pem"), filepath.Join(there, "key.pem"))
	}
	if err != nil {
		t.Fatal(err)
	}
	atB, atA := spareAddr(t), spareAddr(t)
	configB := writeConfig(t, there, "", "[[inbound]]\nauth.enabled = false\nlisten = [%q]\nbackend = %q\nbackend_trusts_us = true\n"+
		"tls_cert = \"cert.pem\"\ntls_key = \"key.pem\"\n", atB, ln.Addr())
	configA := writeConfig(t, here, "", "[[outbound]]\nlisten = [%q]\nrelay = %q\ntls = \"encrypt\"\npool_idle = \"0s\"\n", atA, atB)

	b := live(ctx, t, configB, atB)
	a := live(ctx, t, configA, atA)
	sent := 0
	send := func() {
		t.Helper()
		sent++
		to := fmt.Sprintf("you%d@example.org", sent)
		sendMail(ctx, t, atA, refpeer.Client{Style: refpeer.LockStep}, to)
		got, err := backend.WaitMessages(ctx, sent)
		if err != nil || len(got) != sent || !strings.Contains(got[sent-1].Rcpts[0], to) {
			t.Fatalf("message %d: %v, %d messages", sent, err, len(got))
		}
	}
	wantBits := func(log string, want ...string) {
		t.Helper()
		if got := resumptions(log, "tls_session"); !slices.Equal(got, want) {
			t.Errorf("bits %q, want %q\n%s", got, want, log)
		}
		if n := strings.Count(log, `tls="TLS 1.3`); n != len(want) {
			t.Errorf("%d messages went over TLS 1.3, want %d\n%s", n, len(want), log)
		}
	}

	// At its start the first service asks what the relay offers, so even the first message has something to resume.
	const resumed, refused = "0x1f", "0x0f"
	send()
	wantBits(a.end(), resumed)
	a = live(ctx, t, configA, atA)
	send()
	first := b.end()
	b = live(ctx, t, configB, atB)
	send()
	send()
	wantBits(a.end(), resumed, refused, resumed)

	second := b.end()
	if got, want := resumptions(first, "client_tls_session"), []string{resumed, resumed}; !slices.Equal(got, want) {
		t.Errorf("the receiver saw the bits %q, want %q\n%s", got, want, first)
	}
	if got, want := resumptions(second, "client_tls_session"), []string{refused, resumed}; !slices.Equal(got, want) {
		t.Errorf("the receiver, restarted, saw the bits %q, want %q\n%s", got, want, second)
	}
}

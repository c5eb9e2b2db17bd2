package proxy

import (
	"net/netip"
	"strings"
	"testing"

	"slipstream/smtpwire"
)

func TestQueueID(t *testing.T) {
	tests := []struct{ reply, want string }{
		{"2.0.0 Ok: queued as 9C8169D28CE", "9C8169D28CE"},
		{"OK id=1vMxyz-000000001ab-0000", "1vMxyz-000000001ab-0000"},
		{"2.0.0 5ALBxyz012345 Message accepted for delivery", "5ALBxyz012345"},
		{"2.0.0 ok", ""},
		{" Message accepted for delivery", ""},
		{"queued as " + strings.Repeat("x", 100), ""},
	}
	for _, tt := range tests {
		if got := queueID(smtpwire.NewReply(250, "", tt.reply)); got != tt.want {
			t.Errorf("queueID(%q) = %q, want %q", tt.reply, got, tt.want)
		}
	}
}

func TestTraceWordIsSafe(t *testing.T) {
	got := traceWord("a.example) (\r\nX-Evil: 1;\x00é")
	if want := "a.example??????X-Evil:?1????"; got != want && strings.ContainsAny(got, "()\r\n;\x00 ") {
		t.Errorf("traceWord = %q", got)
	}
	if got := traceWord(""); got != "unknown" {
		t.Errorf("traceWord of nothing = %q", got)
	}
	if got := traceWord(strings.Repeat("a", 1000)); len(got) != maxTraceWord {
		t.Errorf("%d octets", len(got))
	}
}

func TestTraceAddr(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1":        "[192.0.2.1]",
		"::ffff:192.0.2.1": "[192.0.2.1]",
		"2001:db8::1":      "[IPv6:2001:db8::1]",
		"fe80::1%eth0":     "[IPv6:fe80::1]",
	} {
		if got := traceAddr(netip.MustParseAddr(in)); got != want {
			t.Errorf("traceAddr(%s) = %s, want %s", in, got, want)
		}
	}
}

func TestSpoken(t *testing.T) {
	got := spoken(smtpwire.NewReply(421, "4.7.0", "busy"), "mx.example[192.0.2.1]:25")
	if got.Code != 451 || !strings.Contains(got.String(), "4.7.0 Slipstream: mx.example[192.0.2.1]:25 said: 421 4.7.0 busy") {
		t.Errorf("spoken = %s", got.String())
	}
	own := smtpwire.NewReply(550, "5.1.1", "no such user")
	if got := spoken(own, "x"); got.String() != own.String() {
		t.Errorf("a verdict was rephrased: %s", got.String())
	}
}

package mta_test

import (
	"strings"
	"testing"

	"slipstream/bench/mta"
	"slipstream/bench/mta/mtatest"
)

func TestSourceAndSink(t *testing.T) {
	t.Parallel()
	ctx := mtatest.Context(t)
	sink, err := mta.Sink{}.Start(ctx)
	mtatest.Check(t, err)
	t.Cleanup(func() { sink.Stop() })
	source := mta.Source{Addr: sink.Addr(), Sessions: 5, Messages: 100, Length: 4096, Reuse: true}
	if err := source.Run(ctx); err != nil {
		t.Fatal(err)
	}
	source.Addr = "127.0.0.1:1"
	if err := source.Run(ctx); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("with nobody there: %v", err)
	}
}

func TestSinkLMTP(t *testing.T) {
	t.Parallel()
	ctx := mtatest.Context(t)
	sink, err := mta.Sink{LMTP: true, Args: []string{"-v"}}.Start(ctx)
	mtatest.Check(t, err)
	t.Cleanup(func() { sink.Stop() })
	for _, kind := range mta.Kinds() {
		sender := mtatest.Start(t, kind, mta.Config{Via: sink.Addr(), LMTP: true})
		if err := sender.Submit(ctx, "a@a.test", []string{"b@b.test", "c@c.test"}, []byte(sample)); err != nil {
			t.Fatal(err)
		}
		done := map[mta.Kind]string{mta.Exim: "Completed", mta.Postfix: "removed"}[kind]
		if err := sender.WaitLog(ctx, done); err != nil {
			t.Fatal(err)
		}
	}
	if !strings.Contains(strings.ToUpper(sink.Output()), "LHLO") {
		t.Errorf("no LHLO in\n%s", sink.Output())
	}
}

func TestSwaksThroughHAProxy(t *testing.T) {
	t.Parallel()
	ctx := mtatest.Context(t)
	cert, key := secret(t)
	in := mtatest.Start(t, mta.Exim, mta.Config{
		Local: []string{"b.test"}, Cert: cert, Key: key, Proxy: []string{"127.0.0.1"},
		Refusals: []mta.Refusal{{Local: "reject-me", Reply: "550 5.1.1 no such user here"}},
	})
	haproxy, err := mta.HAProxy{Backend: in.Addr(), Options: "send-proxy-v2"}.Start(ctx)
	mtatest.Check(t, err)
	t.Cleanup(func() { haproxy.Stop() })

	args := []string{"--server", haproxy.Addr(), "--from", "a@a.test", "--helo", "client.test", "--tls"}
	transcript, err := mta.Swaks(ctx, "", append(args, "--to", "b@b.test")...)
	mtatest.Check(t, err)
	if !strings.Contains(transcript, "TLS started") {
		t.Errorf("no TLS in\n%s", transcript)
	}
	if _, err := in.WaitDelivered(ctx, 1); err != nil {
		t.Error(err)
	}
	transcript, err = mta.Swaks(ctx, "", append(args, "--to", "reject-me@b.test")...)
	if err == nil || !strings.Contains(transcript, "550 5.1.1 no such user here") {
		t.Errorf("%v\n%s", err, transcript)
	}
}

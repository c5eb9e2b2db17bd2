package mta_test

import (
	"errors"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"slipstream/bench/mta"
	"slipstream/bench/mta/mtatest"
)

// What is queued when a server is killed is delivered by the next one in the same directory.
func TestKillKeepsQueue(t *testing.T) {
	for _, kind := range mta.Kinds() {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			ctx := mtatest.Context(t)
			c := mta.Config{Dir: t.TempDir(), Via: "127.0.0.1:1"} // nobody listens on port 1
			first, err := mta.Start(ctx, kind, c)
			mtatest.Check(t, err)
			defer first.Kill()
			if err := first.Submit(ctx, "a@a.test", []string{"b@b.test"}, []byte(sample)); err != nil {
				t.Fatal(err)
			}
			if err := first.WaitLog(ctx, "onnection refused"); err != nil {
				t.Fatal(err)
			}
			queue, err := first.Queue(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if len(queue) != 1 || queue[0].Sender != "a@a.test" || len(queue[0].Recipients) != 1 || queue[0].Recipients[0] != "b@b.test" {
				t.Errorf("queue %+v", queue)
			}
			if err := first.Kill(); err != nil {
				t.Fatal(err)
			}
			if conn, err := net.Dial("tcp", first.Addr()); err == nil {
				conn.Close()
				t.Error("still listens after Kill")
			}
			if _, err := first.Run(ctx, nil, "true"); err == nil {
				t.Error("Run after Kill succeeds")
			}

			receiver := mtatest.Start(t, mta.Exim, mta.Config{Local: []string{"b.test"}})
			c.Via = receiver.Addr()
			second := mtatest.Start(t, kind, c)
			if err := second.Flush(ctx); err != nil {
				t.Fatal(err)
			}
			got, err := receiver.WaitDelivered(ctx, 1)
			if err != nil {
				t.Fatalf("%v\n%s", err, second.Log())
			}
			if !strings.HasSuffix(string(got[0].Raw), sample) {
				t.Errorf("came as\n%s", got[0].Raw)
			}
		})
	}
}

// The machine sees nothing of an instance, and nothing is left of it.
func TestStopLeavesNothing(t *testing.T) {
	for _, kind := range mta.Kinds() {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			in, err := mta.Start(mtatest.Context(t), kind, mta.Config{})
			mtatest.Check(t, err)
			if during := mounts(t); strings.Contains(during, in.Dir()) {
				t.Errorf("the machine sees mounts of the instance:\n%s", during)
			}
			if err := in.Stop(); err != nil {
				t.Error(err)
			}
			if err := in.Stop(); err != nil {
				t.Error("a second time:", err)
			}
			if _, err := os.Stat(in.Dir()); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is still there: %v", in.Dir(), err)
			}
		})
	}
}

func mounts(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The way out without a smarthost: DNS says where.
func TestMX(t *testing.T) {
	for _, kind := range mta.Kinds() {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			ctx := mtatest.Context(t)
			receiver := mtatest.Start(t, mta.Postfix, mta.Config{Hostname: "mx.b.test", Local: []string{"b.test"}})
			_, port, _ := net.SplitHostPort(receiver.Addr())
			mxPort, err := net.LookupPort("tcp", port)
			if err != nil {
				t.Fatal(err)
			}
			server := map[mta.Kind]string{mta.Exim: "127.53.0.1", mta.Postfix: "127.53.0.2"}[kind]
			serveDNS(t, server)
			sender := mtatest.Start(t, kind, mta.Config{DNS: server, MXPort: mxPort})
			if err := sender.Submit(ctx, "a@a.test", []string{"b@b.test"}, []byte(sample)); err != nil {
				t.Fatal(err)
			}
			if _, err := receiver.WaitDelivered(ctx, 1); err != nil {
				t.Fatalf("%v\n%s", err, sender.Log())
			}
		})
	}
}

// serveDNS answers MX with mx.b.test and A with 127.0.0.1, whatever the name, and nothing else.
func serveDNS(t *testing.T, addr string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", net.JoinHostPort(addr, "53"))
	if errors.Is(err, os.ErrPermission) {
		t.Skip("port 53 is not ours:", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if reply, err := answerDNS(buf[:n]); err == nil {
				conn.WriteTo(reply, from)
			}
		}
	}()
}

func answerDNS(query []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil || len(m.Questions) != 1 {
		return nil, errors.New("not a question")
	}
	q := m.Questions[0]
	m.Response, m.Additionals, m.Answers = true, nil, nil
	header := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60}
	switch q.Type {
	case dnsmessage.TypeMX:
		mx := &dnsmessage.MXResource{Pref: 10, MX: dnsmessage.MustNewName("mx.b.test.")}
		m.Answers = []dnsmessage.Resource{{Header: header, Body: mx}}
	case dnsmessage.TypeA:
		m.Answers = []dnsmessage.Resource{{Header: header, Body: &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}}}}
	}
	return m.Pack()
}

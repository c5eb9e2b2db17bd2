package mta_test

import (
	"crypto/tls"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"slipstream/bench/mta"
	"slipstream/bench/mta/mtatest"
	"slipstream/bench/refpeer"
)

// startNginx runs nginx before a reference server.
func startNginx(t *testing.T, n mta.NginxMail) (*mta.Tool, *refpeer.Server) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	mtatest.Check(t, err)
	sink := refpeer.Sink("sink.test")
	sink.Start(ln)
	t.Cleanup(sink.Close)
	n.Backend = ln.Addr().String()
	nginx, err := n.Start(mtatest.Context(t))
	mtatest.Check(t, err)
	t.Cleanup(func() {
		if err := nginx.Stop(); err != nil {
			t.Error(err)
		}
	})
	return nginx, sink
}

func TestNginxMail(t *testing.T) {
	t.Parallel()
	cert, key := secret(t)
	for _, test := range []struct {
		name  string
		nginx mta.NginxMail
		tls   *tls.Config
	}{
		{name: "clear"},
		{name: "STARTTLS", nginx: mta.NginxMail{Cert: cert, Key: key}, tls: &tls.Config{InsecureSkipVerify: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			nginx, sink := startNginx(t, test.nginx)
			for _, style := range []refpeer.Style{refpeer.LockStep, refpeer.Pipelining} {
				for _, perConn := range []int{1, 5} {
					source := refpeer.Source{
						Addr: nginx.Addr(), Sessions: 2, Messages: 10, PerConn: perConn, Size: 8 << 10, Style: style, TLS: test.tls,
						Prefix: style.String() + string(rune('a'+perConn)),
					}
					stats := source.Run(mtatest.Context(t))
					if stats.Err != nil || len(stats.Acknowledged) != 10 {
						t.Errorf("%v, %d on a connection: %d of 10 arrived: %v", style, perConn, len(stats.Acknowledged), stats.Err)
					}
				}
			}
			if ids := sink.IDs(); len(ids) != 40 {
				t.Errorf("%d of 40 messages are there", len(ids))
			}
			if v := sink.Violations(); len(v) > 0 {
				t.Error(v)
			}
		})
	}
}

func TestToolPID(t *testing.T) {
	t.Parallel()
	nginx, _ := startNginx(t, mta.NginxMail{})
	pid, err := nginx.PID()
	if err != nil {
		t.Fatal(err)
	}
	comm, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
	if err != nil || strings.TrimSpace(string(comm)) != "nginx" {
		t.Errorf("process %d is %q, %v", pid, comm, err)
	}
}

func TestNginxWantsAnAddress(t *testing.T) {
	t.Parallel()
	if _, err := (mta.NginxMail{Backend: "localhost:25"}).Start(t.Context()); err == nil {
		t.Error("a name was taken")
	}
}

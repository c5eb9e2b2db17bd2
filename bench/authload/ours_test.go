//go:build linux

package authload

import (
	"bytes"
	"io"
	"net/http"
	"net/netip"
	"os"
	"testing"

	"slipstream/auth"
	"slipstream/proxy"
	"slipstream/proxy/resolver"
)

// The environment that makes this program one of the contestants.
const (
	envListen     = "SLIPSTREAM_AUTHLOAD_LISTEN"
	envNameserver = "SLIPSTREAM_AUTHLOAD_NAMESERVER"
)

func TestMain(m *testing.M) {
	if addr := os.Getenv(envListen); addr != "" {
		serveOurs(addr, os.Getenv(envNameserver))
		return
	}
	os.Exit(m.Run())
}

// serveOurs judges messages as a door does, over HTTP, until it is killed.
func serveOurs(addr, nameserver string) {
	dns, err := resolver.New(resolver.Config{Servers: []netip.AddrPort{netip.MustParseAddrPort(nameserver)}})
	if err != nil {
		panic(err)
	}
	checker := &auth.Checker{ID: authservID, Resolver: proxy.AuthResolver(dns)}
	handler := func(w http.ResponseWriter, r *http.Request) {
		message := new(bytes.Buffer)
		message.Grow(int(min(max(r.ContentLength, 0), 1<<20)))
		if _, err := io.Copy(message, r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		header, body, _ := bytes.Cut(message.Bytes(), []byte("\r\n\r\n"))
		header = message.Bytes()[:len(header)+2]
		client, _ := netip.ParseAddr(r.Header.Get("IP"))
		check := checker.Begin(r.Context(), auth.Envelope{
			Client: client, Helo: r.Header.Get("Helo"), MailFrom: r.Header.Get("From"),
		})
		check.Header(header)
		_, _ = check.Write(body) // never fails
		field, err := check.Finish(r.Context()).Fields(header)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_, _ = w.Write(field) // who asked notices
	}
	panic(http.ListenAndServe(addr, http.HandlerFunc(handler)))
}

func startOurs(tb testing.TB, _ *world, m mail) contestant {
	program, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	addr := freeAddr(tb)
	tb.Setenv(envListen, addr)
	tb.Setenv(envNameserver, nameserver+":53")
	pid := launch(tb, "", "", addr, program)
	return contestant{pids: []int{pid}, dial: func() (session, error) {
		want := []string{"iprev=pass", "spf=pass", "dkim=pass", "dmarc=pass"}
		if m.sealed {
			want = append(want, "arc=pass")
		}
		return dialHTTP(addr, want...)()
	}}
}

package proxy

import (
	"net"
	"testing"
	"time"
)

// The kernel tells how much of what we wrote a client on this machine has not
// read, over IPv4, IPv6, and IPv4 in a socket of IPv6.
func TestUnreadByClient(t *testing.T) {
	for _, tt := range []struct{ listen, dial string }{
		{"127.0.0.1:0", ""}, {"[::1]:0", ""}, {"[::]:0", "127.0.0.1"},
	} {
		ln, err := net.Listen("tcp", tt.listen)
		if err != nil {
			t.Logf("%s: %v", tt.listen, err) // there may be no IPv6 here
			continue
		}
		defer ln.Close()
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		host, _, _ := net.SplitHostPort(ln.Addr().String())
		if tt.dial != "" {
			host = tt.dial
		}
		client, err := net.Dial("tcp", net.JoinHostPort(host, port))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		server, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		w := newWire(server, false)
		want := func(n int64) {
			t.Helper()
			var got int64
			var ok bool
			for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
				if got, ok = unreadByClient(w); !ok {
					t.Skipf("%s: the kernel does not tell (sock_diag)", tt.listen)
				}
				if got == n {
					return
				}
			}
			t.Errorf("%s: %d octets unread, want %d", tt.listen, got, n)
		}
		want(0)
		if _, err := w.Write([]byte("250 one\r\n")); err != nil {
			t.Fatal(err)
		}
		want(9)
		if _, err := client.Read(make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		want(4)
		if _, err := client.Read(make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		want(0)
		_ = client.Close()
		if n, ok := unreadByClient(w); ok && n > 0 {
			t.Errorf("%d octets unread by nobody", n)
		}
	}
}

func BenchmarkUnreadByClient(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	server, err := ln.Accept()
	if err != nil {
		b.Fatal(err)
	}
	defer server.Close()
	w := newWire(server, false)
	for b.Loop() {
		if _, ok := unreadByClient(w); !ok {
			b.Skip("the kernel does not tell (sock_diag)")
		}
	}
}

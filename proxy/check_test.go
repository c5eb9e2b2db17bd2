package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"slipstream/bench/netsim"
	"slipstream/bench/refpeer"
)

// findings runs a check in a simulated network and returns what it says, one
// line each, without what depends on the machine.
func (w *world) findings(change ...func(*CheckOptions)) []string {
	w.t.Helper()
	w.cfg.Admin.Listen = ""
	o := CheckOptions{
		Resolver: w.dns, Dial: w.net.Dialer(proxyHost),
		Now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		Listen: func(_ context.Context, addr string) (net.Listener, error) {
			return w.net.Listen(addr)
		},
	}
	for _, f := range change {
		f(&o)
	}
	var lines []string
	Check(w.t.Context(), w.cfg, o, func(f Finding) {
		if f.About == "user" || f.About == "files" {
			return
		}
		lines = append(lines, f.State.String()+" "+f.About+" "+f.Text)
	})
	return lines
}

// wantFinding checks that there is a line as given; "…" stands for anything.
func wantFinding(t *testing.T, lines []string, want string) {
	t.Helper()
	parts := strings.Split(want, "…")
	for i, p := range parts {
		parts[i] = regexp.QuoteMeta(p)
	}
	pattern := regexp.MustCompile("^" + strings.Join(parts, ".*") + "$")
	if !slices.ContainsFunc(lines, pattern.MatchString) {
		t.Errorf("no finding %q in\n%s", want, strings.Join(lines, "\n"))
	}
}

func TestCheckFindsNothingWrong(t *testing.T) {
	w := newWorld(t)
	w.dns.addrs["proxy.example"] = []netip.Addr{netip.MustParseAddr(proxyHost)}
	cert := newTestCert(t, "proxy.example")
	w.serve(backendAddr, &refpeer.Server{Keywords: refpeer.Keywords{Pipelining: true, Size: 1000}, RcptReplies: foreign("550 5.7.1 no")})
	w.inbound(func(in *InboundConfig) {
		in.BackendTrustsUs = false
		in.TLSCert, in.TLSKey = cert.certFile, cert.keyFile
		in.Listen = []string{proxyHost + ":2525"}
	})
	w.outbound(func(out *OutboundConfig) { out.Relay = Endpoint{Host: "203.0.113.1", Port: 25}; out.Route = "" })
	lines := w.findings()
	for _, l := range lines {
		if !strings.HasPrefix(l, "ok ") {
			t.Errorf("finding: %s", l)
		}
	}
	wantFinding(t, lines, "ok spool "+os.TempDir()+" can be written")
	wantFinding(t, lines, "ok certificate inbound: …/cert.pem is for proxy.example, until 2100-01-01 (27028 days)")
	wantFinding(t, lines, "ok port inbound: 192.0.2.1:2525 can be opened")
	wantFinding(t, lines, "ok port outbound: 192.0.2.1:587 can be opened…")
	wantFinding(t, lines, "ok dns the servers answer: proxy.example is 192.0.2.1")
	wantFinding(t, lines, "ok backend inbound: 203.0.113.1:25 answers, and offers PIPELINING, SIZE 1000; it does not relay for strangers")
	wantFinding(t, lines, "ok relay outbound: 203.0.113.1:25 answers, and offers PIPELINING, SIZE 1000")
}

func foreign(reply string) map[string]string {
	return map[string]string{"relay-probe@example.com": reply}
}

func TestCheckBackends(t *testing.T) {
	for name, test := range map[string]struct {
		server *refpeer.Server
		conf   func(*InboundConfig)
		want   string
	}{
		"open relay": {&refpeer.Server{}, nil, "fail backend door \"inbound\" stays shut: the backend …set backend_trusts_us = true"},
		"trusted":    {&refpeer.Server{}, func(in *InboundConfig) { in.BackendTrustsUs = true }, "ok backend inbound: …(backend_trusts_us)"},
		"no verdict": {&refpeer.Server{RcptReplies: foreign("450 4.2.0 later")}, nil,
			"warn backend inbound: 203.0.113.1:25: …450 4.2.0 later; the door would open and the backend be asked again"},
		"absent": {nil, nil, "fail backend inbound: …start it, or correct backend"},
		"no TLS": {&refpeer.Server{}, func(in *InboundConfig) { in.BackendTLS = "encrypt" },
			"fail backend inbound: [203.0.113.1]:25: TLS is required, but STARTTLS is not offered; mend TLS there, or change the TLS keys of this door"},
		"no XCLIENT": {&refpeer.Server{}, func(in *InboundConfig) { in.ClientAddress = announceXclient },
			"fail backend inbound: …\"smtpd_authorized_xclient_hosts\" to our address"},
		"no XFORWARD": {&refpeer.Server{RcptReplies: foreign("550 5.7.1 no")}, func(in *InboundConfig) { in.ClientAddress = announceForward },
			"warn backend inbound: client_address = \"xforward\", but the backend does not offer XFORWARD to us…"},
		"no PROXY": {&refpeer.Server{}, func(in *InboundConfig) { in.ClientAddress = announceProxyV2 },
			"fail backend inbound: …; perhaps it does not expect the PROXY header that client_address = \"proxy-v2\" begins with: …"},
		"no such authorities": {nil, func(in *InboundConfig) { in.BackendTLS, in.BackendCAFile = "verify", "/nonexistent/ca.pem" },
			"fail certificate inbound: certificate authorities: open /nonexistent/ca.pem: …"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if test.server != nil {
				w.serve(backendAddr, test.server)
			}
			w.inbound(func(in *InboundConfig) {
				in.BackendTrustsUs = false
				if test.conf != nil {
					test.conf(in)
				}
			})
			wantFinding(t, w.findings(), test.want)
		})
	}
}

// What to do about a hop is said once, and fits.
func TestHopAdvice(t *testing.T) {
	at := func(during string, err error) error { return &peerError{hop: "mx", during: during, err: err} }
	const start, proxy = "; start it, or correct backend", "; perhaps it does not expect the PROXY header"
	for _, tt := range []struct {
		err            error
		announce, want string // what it begins with; "": nothing
	}{
		{at(duringConnect, syscall.ECONNREFUSED), announceNone, start},
		{at(duringConnect, syscall.ECONNREFUSED), announceSpoof, start},
		{at(duringConnect, syscall.EHOSTUNREACH), announceNone, start},
		{at(duringConnect, syscall.EHOSTUNREACH), announceSpoof, ""},
		{at(duringConnect, errNotFrom), announceSpoof, ""},
		{at(duringConnect, syscall.ECONNREFUSED), announceProxyV2, start},
		{at(duringEnvelope, errSurplus), announceProxyV1, proxy},
		{at(duringHello, errors.New("closed")), announceProxyV2, proxy},
		{at(duringEnvelope, errors.New("closed")), announceProxyV2, ""},
		{at(duringHello, errSurplus), announceXclient, ""},
		{&policyError{hop: "mx", why: "STARTTLS is not offered"}, announceXclient, "; mend TLS there"},
		{&policyError{hop: "mx", why: "XCLIENT", err: errors.New("TLS")}, announceXclient, ""},
		{errors.New("else"), announceProxyV1, ""},
	} {
		got := hopAdvice(tt.err, "backend", tt.announce)
		if !strings.HasPrefix(got, tt.want) || tt.want == "" && got != "" {
			t.Errorf("%v, %s: %q, want %q", tt.err, tt.announce, got, tt.want)
		}
	}
}

func TestCheckOffline(t *testing.T) {
	w := newWorld(t)
	w.inbound()
	w.outbound()
	lines := w.findings(func(o *CheckOptions) {
		o.Offline = true
		o.Dial = func(context.Context, string, netip.Addr, string) (net.Conn, error) {
			t.Error("somebody was called")
			return nil, errors.New("offline")
		}
		o.Resolver = nil
	})
	for _, l := range lines {
		if strings.HasPrefix(l, "fail") || strings.Contains(l, "backend") || strings.Contains(l, "dns") {
			t.Errorf("finding: %s", l)
		}
	}
}

func TestCheckCertificates(t *testing.T) {
	good, other := newTestCert(t, "proxy.example"), newTestCert(t, "www.example")
	for name, test := range map[string]struct {
		cert, key string
		now       time.Time
		want      string
	}{
		"missing":   {"/nonexistent/cert.pem", good.keyFile, time.Time{}, "fail certificate inbound: certificate /nonexistent/cert.pem with key …no such file or directory"},
		"mixed up":  {good.certFile, other.keyFile, time.Time{}, "fail certificate inbound: …private key does not match public key"},
		"not named": {other.certFile, other.keyFile, time.Time{}, `warn certificate inbound: …is for www.example but not for hostname = "proxy.example"; clients that verify us may not deliver`},
		"ended":     {good.certFile, good.keyFile, time.Date(2101, 1, 1, 0, 0, 0, 0, time.UTC), "fail certificate inbound: …ended on 2100-01-01; renew it"},
		"ends soon": {good.certFile, good.keyFile, time.Date(2099, 12, 28, 0, 0, 0, 0, time.UTC), "warn certificate inbound: …ends on 2100-01-01, in 4 days; renew it"},
		"too new":   {good.certFile, good.keyFile, time.Date(1969, 12, 28, 0, 0, 0, 0, time.UTC), "fail certificate inbound: …begins on 1970-01-01 only; correct it, or this machine's clock"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.inbound(func(in *InboundConfig) { in.TLSCert, in.TLSKey = test.cert, test.key })
			wantFinding(t, w.findings(func(o *CheckOptions) {
				if !test.now.IsZero() {
					o.Now = test.now
				}
			}), test.want)
		})
	}
	t.Run("open to all", func(t *testing.T) {
		cert := newTestCert(t, "proxy.example")
		if err := os.Chmod(cert.keyFile, 0o644); err != nil {
			t.Fatal(err)
		}
		w := newWorld(t)
		w.inbound(func(in *InboundConfig) { in.TLSCert, in.TLSKey = cert.certFile, cert.keyFile })
		wantFinding(t, w.findings(), "warn certificate inbound: anyone on this machine can open …(mode 0644); chmod 600 or 640")
	})
}

func TestCheckPorts(t *testing.T) {
	fails := func(err error) func(*CheckOptions) {
		return func(o *CheckOptions) {
			o.Listen = func(context.Context, string) (net.Listener, error) {
				return nil, &net.OpError{Op: "listen", Err: os.NewSyscallError("bind", err)}
			}
		}
	}
	for name, test := range map[string]struct {
		err  error
		want string
	}{
		"privilege":     {syscall.EACCES, "fail port inbound: 192.0.2.1:25 may not be opened by …below 1024; …"},
		"not here":      {syscall.EADDRNOTAVAIL, "fail port inbound: this machine does not have the address of 192.0.2.1:25; correct listen"},
		"held":          {syscall.EADDRINUSE, `fail port inbound: 192.0.2.1:25 is held by what greets with "220 mx.example ESMTP"; stop it, or move one of the two to another port`},
		"anything else": {syscall.EMFILE, "fail port inbound: 192.0.2.1:25 cannot be opened: …"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.serve(inboundAt, &refpeer.Server{})
			w.inbound()
			wantFinding(t, w.findings(fails(test.err)), test.want)
		})
	}
	t.Run("held by a door of ours", func(t *testing.T) {
		w := newWorld(t)
		w.serve(inboundAt, &refpeer.Server{Banner: "proxy.example ESMTP Slipstream"})
		w.inbound()
		wantFinding(t, w.findings(fails(syscall.EADDRINUSE)),
			`ok port inbound: 192.0.2.1:25 is open already, by what greets with "220 proxy.example ESMTP Slipstream"`)
	})
}

func TestCheckSpool(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Log("root can write everywhere, so directories are missing here instead of closed")
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	empty := t.TempDir()
	for name, test := range map[string]struct{ spool, state, want string }{
		"configured":         {empty, "", "ok spool " + empty + " can be written"},
		"configured, absent": {filepath.Join(empty, "no"), "", "fail spool " + filepath.Join(empty, "no") + ": no such file or directory; large messages would be refused with 452: create it or make it writable for …"},
		"to be made":         {"", filepath.Join(empty, "state"), "ok spool " + filepath.Join(empty, "state", "spool") + " can be written"},
		"in its place":       {"", file, "warn spool " + filepath.Join(file, "spool") + ": not a directory; large messages go to …, or set spool_dir"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.cfg.SpoolDir, w.cfg.StateDir = test.spool, test.state
			w.inbound()
			wantFinding(t, w.findings(), test.want)
		})
	}
	if left, err := os.ReadDir(empty); err != nil || len(left) != 0 {
		t.Errorf("the check left %v, %v", left, err)
	}
}

func TestCheckDNS(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(*world)
		want    string
	}{
		"no address": {func(w *world) { w.outbound() }, "warn dns the servers answer, but proxy.example has no address there…"},
		"no answer, needed": {func(w *world) { w.dns.fail["proxy.example"] = true; w.outbound() },
			"fail dns no answer about proxy.example: …correct servers in [dns] or the system's resolv.conf"},
		"no answer, not needed": {func(w *world) { w.dns.fail["proxy.example"] = true; w.inbound() },
			"warn dns no answer about proxy.example: …the doors as configured need none"},
		"no answer, backend by name": {func(w *world) {
			w.dns.fail["proxy.example"] = true
			w.inbound(func(in *InboundConfig) { in.Backend.Host = "mta.example" })
		}, "fail dns …"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			test.prepare(w)
			wantFinding(t, w.findings(), test.want)
		})
	}
}

func TestCheckAdminSocket(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p, metrics := adminWorld(t)
	held := filepath.Join(dir, "held")
	a, err := OpenAdmin("unix:"+held, p, metrics, p.log)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close(context.Background())
	for listen, want := range map[string]string{
		"unix:" + filepath.Join(dir, "free"):    "ok admin " + filepath.Join(dir, "free") + " can be opened",
		"unix:" + held:                          "ok admin " + held + " is open already, by a service that runs",
		"unix:" + file:                          "fail admin " + file + " cannot be opened: there is something that is not a socket…",
		"unix:" + filepath.Join(dir, "no/sock"): "fail admin …no such file or directory; correct that, or change admin.listen",
		proxyHost + ":9625":                     "ok port admin: 192.0.2.1:9625 can be opened",
	} {
		w := newWorld(t)
		cfg := *w.cfg
		cfg.Admin.Listen = listen
		var lines []string
		o := CheckOptions{Listen: func(_ context.Context, addr string) (net.Listener, error) { return netsim.New().Listen(addr) }}
		Check(t.Context(), &cfg, o, func(f Finding) { lines = append(lines, f.State.String()+" "+f.About+" "+f.Text) })
		wantFinding(t, lines, want)
	}
}

func TestListenerOf(t *testing.T) {
	const head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	root := fstest.MapFS{
		"proc/net/tcp": {Data: []byte(head +
			"   0: 0100007F:09DD 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n" +
			"   1: 0100007F:09DE 0100007F:09DD 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0\n" +
			"malformed\n" +
			"   2: XYZ:09DF 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0\n")},
		"proc/net/tcp6": {Data: []byte(head +
			"   0: 00000000000000000000000000000000:0019 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 5000 1 0 100 0 0 10 0\n" +
			"   1: B80D0120000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 5001 1 0 100 0 0 10 0\n")},
		"proc/12/comm":   {Data: []byte("exim4\n")},
		"proc/12/exe":    {Data: []byte("/usr/sbin/exim4"), Mode: os.ModeSymlink},
		"proc/12/fd/3":   {Data: []byte("socket:[5000]"), Mode: os.ModeSymlink},
		"proc/345/comm":  {Data: []byte("master\n")},
		"proc/345/fd/3":  {Data: []byte("socket:[4711]"), Mode: os.ModeSymlink},
		"proc/345/fd/4":  {Data: []byte("/dev/null"), Mode: os.ModeSymlink},
		"proc/self/fd/1": {Data: []byte("socket:[5001]"), Mode: os.ModeSymlink},
	}
	for addr, want := range map[string]string{
		"127.0.0.1:2525":   "master (pid 345)",
		"[::]:2525":        "master (pid 345)",
		"192.0.2.1:2525":   "",
		"127.0.0.1:2526":   "", // connected, not listening
		"192.0.2.1:25":     "exim4 (pid 12)",
		"[2001:db8::1]:80": "", // the process is not to be seen
		"127.0.0.1:7":      "",
	} {
		h, ok := listenerOf(root, netip.MustParseAddrPort(addr))
		got := ""
		if ok {
			got = h.String()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", addr, got, want)
		}
		if h.ours() {
			t.Errorf("%s: taken for ourselves", addr)
		}
	}
	if _, ok := listenerOf(fstest.MapFS{}, netip.MustParseAddrPort("127.0.0.1:25")); ok {
		t.Error("found a process where there is no /proc")
	}
}

// On a real system this very process is found.
func TestListenerOfRealProc(t *testing.T) {
	if _, err := os.Stat("/proc/net/tcp"); err != nil {
		t.Skip("there is no /proc/net/tcp here")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	h, ok := listenerOf(os.DirFS("/"), addrPort(ln.Addr()))
	if !ok || h.pid != os.Getpid() || !h.ours() {
		t.Errorf("found %v, %v; want this process, %d", h, ok, os.Getpid())
	}
}

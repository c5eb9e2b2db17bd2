package mta

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"
)

// NginxMail is a run of nginx as an SMTP proxy (its mail module), as another proxy to compare with. It accepts
// everybody. Before it connects to the backend it asks an HTTP server where that is, once for each connection; that
// server is ours, lives in this program and knows one answer.
type NginxMail struct {
	Peers     string // as Config.Peers; where no tree is there, an installed nginx with the mail module
	Listen    string // empty or port 0: a free port
	Backend   string // IP:port; nginx takes no name
	Hostname  string // in the greeting; empty: "nginx.test"
	Cert, Key []byte // PEM; STARTTLS is offered when both are set
}

const (
	// nginxConnections bounds the connections of one worker; a session takes two, and a third while it asks for the
	// backend.
	nginxConnections = 8192
	// authTimeout bounds each step of the question where the backend is, and authHeader its octets.
	authTimeout = 5 * time.Second
	authHeader  = 8 << 10
)

// Start runs nginx, one worker for each CPU, and returns once it accepts connections.
func (n NginxMail) Start(ctx context.Context) (*Tool, error) {
	backend, err := netip.ParseAddrPort(n.Backend)
	if err != nil {
		return nil, fmt.Errorf("mta: nginx: backend: %w", err)
	}
	program, tree, err := findProgram(n.Peers, "nginx", "usr/sbin/nginx")
	if err != nil {
		return nil, err
	}
	module, err := mailModule(tree)
	if err != nil {
		return nil, err
	}
	addr, err := freePort(n.Listen)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "slipstream-nginx-")
	if err != nil {
		return nil, err
	}
	auth, err := startAuth(backend)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	config, err := n.write(dir, module, addr, auth.addr)
	if err != nil {
		return nil, errors.Join(err, auth.Close(), os.RemoveAll(dir))
	}
	tool, err := startTool(ctx, addr, libraries(tree), program, "-e", "stderr", "-p", dir, "-c", config)
	if err != nil {
		return nil, errors.Join(err, auth.Close(), os.RemoveAll(dir))
	}
	tool.whenEnded(func() { _ = auth.Close() }) // nobody is left to ask it
	tool.trash = append(tool.trash, dir)
	return tool, nil
}

// write lays out the configuration and returns its name.
func (n NginxMail) write(dir, module, addr, auth string) (string, error) {
	files := map[string][]byte{"nginx.conf": []byte(n.config(dir, module, addr, auth))}
	if n.secure() {
		files["cert.pem"], files["key.pem"] = n.Cert, n.Key
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			return "", err
		}
	}
	return filepath.Join(dir, "nginx.conf"), nil
}

func (n NginxMail) secure() bool { return len(n.Cert) > 0 && len(n.Key) > 0 }

// config writes the configuration. The buffers hold a usual message in one piece: nginx leaves it to the kernel to
// gather small segments, so that the second of two pieces waits for the acknowledgment of the first, which may be
// delayed. The capabilities are those that a client may use before nginx has found the backend, and that the backend
// is known to have.
func (n NginxMail) config(dir, module, addr, auth string) string {
	var b strings.Builder
	if os.Getuid() == 0 {
		fmt.Fprintf(&b, "user %s;\n", nobody())
	}
	if module != "" {
		fmt.Fprintf(&b, "load_module %s;\n", module)
	}
	fmt.Fprintf(&b, `daemon off;
worker_processes auto;
worker_rlimit_nofile %d;
pid %s;
events {
  worker_connections %d;
}
mail {
  server_name %s;
  auth_http http://%s;
  auth_http_timeout %d;
  timeout 5m;
  smtp_auth none;
  smtp_capabilities PIPELINING 8BITMIME ENHANCEDSTATUSCODES "SIZE 52428800";
  xclient off;
  smtp_client_buffer 32k;
  proxy_buffer 32k;
  proxy_pass_error_message on;
`,
		nginxConnections, filepath.Join(dir, "pid"), nginxConnections,
		cmp.Or(n.Hostname, "nginx.test"), auth, authTimeout/time.Second)
	if n.secure() {
		b.WriteString("  starttls on;\n  ssl_protocols TLSv1.2 TLSv1.3;\n")
		fmt.Fprintf(&b, "  ssl_certificate %s;\n", filepath.Join(dir, "cert.pem"))
		fmt.Fprintf(&b, "  ssl_certificate_key %s;\n", filepath.Join(dir, "key.pem"))
	}
	fmt.Fprintf(&b, "  server {\n    listen %s;\n    protocol smtp;\n  }\n}\n", addr)
	return b.String()
}

// nobody is the user and the group that workers run as, where the master is root.
func nobody() string {
	u, err := user.Lookup("nobody")
	if err != nil {
		return "root"
	}
	g, err := user.LookupGroupId(u.Gid)
	if err != nil {
		return u.Username + " root"
	}
	return u.Username + " " + g.Name
}

// mailModule finds the mail module, which Debian packs apart. Empty: there is no such file, so it is built in, or nginx
// will say what it lacks.
func mailModule(tree string) (string, error) {
	found, err := filepath.Glob(filepath.Join(tree, "usr/lib*/nginx/modules/ngx_mail_module.so"))
	if err != nil || len(found) == 0 {
		return "", err
	}
	return found[0], nil
}

// authServer tells nginx where the backend is.
// https://nginx.org/en/docs/mail/ngx_mail_auth_http_module.html#protocol
type authServer struct {
	http.Server
	addr string
}

func startAuth(backend netip.AddrPort) (*authServer, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	secret := "/" + rand.Text() // other users of the machine need not be told
	s := &authServer{addr: ln.Addr().String() + secret, Server: http.Server{
		ReadTimeout: authTimeout, WriteTimeout: authTimeout, MaxHeaderBytes: authHeader,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if subtle.ConstantTimeCompare([]byte(r.URL.Path), []byte(secret)) != 1 {
				http.NotFound(w, r)
				return
			}
			w.Header().Set("Auth-Status", "OK")
			w.Header().Set("Auth-Server", backend.Addr().String())
			w.Header().Set("Auth-Port", fmt.Sprint(backend.Port()))
		}),
	}}
	go func() { _ = s.Serve(ln) }() // until Close
	return s, nil
}

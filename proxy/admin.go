package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
	"golang.org/x/net/netutil"
)

// Bounds of the admin socket. Who may connect to it is trusted, but may be broken.
const (
	adminConnections = 16
	adminScrapes     = 4
	adminHeader      = 8 << 10 // octets
	adminReadTime    = 5 * time.Second
	adminWriteTime   = 30 * time.Second
	adminIdleTime    = time.Minute
)

// adminServer is how the admin socket of a running service is told from others.
const adminServer = "Slipstream"

// An Admin answers questions about a running Proxy over HTTP:
//
//	/metrics  its counters, for Prometheus
//	/healthz  200 while the process is alive
//	/readyz   200 while every door is open, else 503 and the reason
//
// It only tells and changes nothing, so it asks for no password.
type Admin struct {
	ln   net.Listener
	srv  *http.Server
	done chan struct{}
}

// OpenAdmin opens the admin socket at listen, an "IP:port" or a "unix:/path"
// that only our user may connect to, and serves until [Admin.Close].
func OpenAdmin(listen string, p *Proxy, metrics prometheus.Gatherer, log *zap.Logger) (*Admin, error) {
	ln, err := listenAdmin(listen)
	if err != nil {
		return nil, fmt.Errorf("admin: cannot open %s: %w", listen, err)
	}
	quiet, err := zap.NewStdLogAt(log.Named("admin"), zap.DebugLevel)
	if err != nil {
		_ = ln.Close()
		return nil, fmt.Errorf("admin: %w", err)
	}
	a := &Admin{
		ln: ln,
		srv: &http.Server{
			Handler:           AdminHandler(p, metrics),
			ErrorLog:          quiet,
			ReadHeaderTimeout: adminReadTime,
			ReadTimeout:       adminReadTime,
			WriteTimeout:      adminWriteTime,
			IdleTimeout:       adminIdleTime,
			MaxHeaderBytes:    adminHeader,
		},
		done: make(chan struct{}),
	}
	go func() { // ends with Close
		defer close(a.done)
		if err := a.srv.Serve(netutil.LimitListener(ln, adminConnections)); !errors.Is(err, http.ErrServerClosed) {
			log.Error("the admin socket failed", zap.Error(err))
		}
	}()
	return a, nil
}

// Addr returns the address as the system gave it.
func (a *Admin) Addr() net.Addr { return a.ln.Addr() }

// Close lets answers under way finish until ctx ends. It returns when nothing of
// the socket runs any more.
func (a *Admin) Close(ctx context.Context) error {
	err := a.srv.Shutdown(ctx)
	if err != nil {
		_ = a.srv.Close() // cuts what Shutdown has given up on
	}
	<-a.done
	return err
}

// AdminHandler answers the requests of the admin socket.
func AdminHandler(p *Proxy, metrics prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{
		MaxRequestsInFlight: adminScrapes,
		Timeout:             adminWriteTime / 2,
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_ = p.Ready() // it takes the lock that everything needs; a process that is stuck there does not answer
		say(w, http.StatusOK, "alive")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := p.Ready(); err != nil {
			say(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		say(w, http.StatusOK, "ready")
	})
	return mux
}

func say(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Server", adminServer)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, text+"\n") // who asked may have left
}

func listenAdmin(listen string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(listen, "unix:"); ok {
		return ListenPrivate(path)
	}
	return net.Listen("tcp", listen)
}

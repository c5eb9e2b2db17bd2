package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"slipstream/bench/refpeer"
	"slipstream/proxy"
)

type demoCmd struct {
	Keep bool `help:"Stay up after the demonstration and say how to try it by hand."`
}

// Help tells what the one line does not.
func (*demoCmd) Help() string {
	return `Starts, on loopback and with nothing else installed, an MTA of the old kind (HELO, one command at a time, no TLS), a
modern mail host, and Slipstream between them. One message goes in through the inbound door, another that a stranger
forged, and one out through the outbound door. Shown is what each side saw, who the mail turned out to be from, and what
the way out cost in round trips with and without Slipstream. The DNS of these names is in the demonstration too.

Exit codes: 0 all arrived octet for octet, and the forged one was found out; 1 not so.`
}

// demoTime bounds the whole demonstration (but for --keep).
const demoTime = time.Minute

// The names of the demonstration.
const (
	demoHostname = "slipstream.demo.example"
	demoOld      = "old.example"
	demoModern   = "modern.example"
)

// Run shows the main job once, and serves on with --keep.
func (c *demoCmd) Run(con console) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	d, err := newDemo(con.out)
	if err != nil {
		return err
	}
	defer d.close()
	if err := d.show(ctx); err != nil {
		return err
	}
	if c.Keep {
		d.invite()
		<-ctx.Done()
	}
	return nil
}

// A demo is a small world on loopback: an old MTA, a modern peer, us between.
type demo struct {
	out    io.Writer
	dir    string // certificate files
	old    *refpeer.Server
	modern *refpeer.Server
	proxy  *proxy.Proxy
	oldAt  string
	peerAt string
	signed string // a message of the modern host's

	mu   sync.Mutex
	done map[string]proxy.Summary // the newest transaction of each door
}

// newDemo starts everything.
func newDemo(out io.Writer) (*demo, error) {
	dir, err := os.MkdirTemp("", "slipstream-demo-")
	if err != nil {
		return nil, err
	}
	d := &demo{out: out, dir: dir, done: make(map[string]proxy.Summary)}
	if err := d.start(); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func (d *demo) start() error {
	cert, _, err := refpeer.Certificate("mx."+demoModern, demoHostname)
	if err != nil {
		return err
	}
	d.old = &refpeer.Server{
		Hostname: demoOld, Banner: demoOld + " Old MTA 1.0 ready", Old: true, StrictLockstep: true,
		// An old MTA knows its own users; it must not relay for strangers.
		RcptReplies: map[string]string{"relay-probe@example.com": "550 we do not relay", "nobody@" + demoOld: "550 no such user here"},
	}
	d.modern = &refpeer.Server{Hostname: "mx." + demoModern, Keywords: refpeer.Modern(), TLS: serverTLS(cert)}
	if d.oldAt, err = listen(d.old); err != nil {
		return err
	}
	if d.peerAt, err = listen(d.modern); err != nil {
		return err
	}
	cfg, err := d.config(cert)
	if err != nil {
		return err
	}
	var key string
	if d.signed, key, err = signDemo(); err != nil {
		return err
	}
	d.proxy, err = proxy.New(cfg, proxy.Options{
		Metrics:  proxy.NewMetrics(prometheus.NewRegistry()),
		Resolver: newDemoDNS(key),
		Listen:   listenNear,
		Done: func(s proxy.Summary) {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.done[s.Door] = s
		},
	})
	if err != nil {
		return err
	}
	return d.proxy.Start(context.Background())
}

// listenNear opens a door where it is found by default, or where there is room.
func listenNear(ctx context.Context, addr string) (net.Listener, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return lc.Listen(ctx, "tcp", "127.0.0.1:0")
	}
	return ln, nil
}

// listen starts a reference server on a loopback port of the system's choice.
func listen(s *refpeer.Server) (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	s.Start(ln)
	return ln.Addr().String(), nil
}

func (d *demo) close() {
	if d.proxy != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = d.proxy.Shutdown(ctx) // nothing of value is under way
	}
	for _, s := range []*refpeer.Server{d.old, d.modern} {
		if s != nil {
			s.Close()
		}
	}
	_ = os.RemoveAll(d.dir) // the system clears its temporary directory, too
}

// door returns the address of a door.
func (d *demo) door(name string) string { return d.proxy.Addrs(name)[0].String() }

// last returns the newest transaction of a door.
func (d *demo) last(ctx context.Context, door string) (proxy.Summary, error) {
	for {
		d.mu.Lock()
		s, ok := d.done[door]
		d.mu.Unlock()
		if ok {
			return s, nil
		}
		select { // it is noted a moment after the client has heard its reply
		case <-ctx.Done():
			return proxy.Summary{}, fmt.Errorf("door %q has no record of the message: %w", door, context.Cause(ctx))
		case <-time.After(time.Millisecond):
		}
	}
}

// invite says how to try the doors by hand.
func (d *demo) invite() {
	fmt.Fprintf(d.out, `
The demonstration stays up; end it with Ctrl-C. To try it by hand:

  in    swaks --server %s --tls --from you@%s --to user@%s
  in    swaks --server %s --from you@%s --to nobody@%s     (refused, in the old MTA's own words)
  out   swaks --server %s --from you@%s --to user@%s
  out   swaks --server %s --from you@%s --to user@nowhere.example   (refused at RCPT)
`, d.door("inbound"), demoModern, demoOld, d.door("inbound"), demoModern, demoOld,
		d.door("outbound"), demoOld, demoModern, d.door("outbound"), demoOld)
}

// indent sets the lines of a conversation apart.
func indent(lines []string) string { return "    " + strings.Join(lines, "\n    ") + "\n" }

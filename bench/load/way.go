package load

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"

	"slipstream/bench/mta"
)

// Way names what stands between source and sink.
type Way string

// The ways. With TLS the last three differ: the plain proxy passes STARTTLS through, so that source and sink secure
// the connection and it sees nothing; the inbound door and nginx end TLS and go on in clear, and the outbound door is
// spoken to in clear and uses TLS to the sink.
const (
	Direct   Way = "direct"   // nothing
	Outbound Way = "outbound" // a Slipstream with an outbound door
	Inbound  Way = "inbound"  // a Slipstream with an inbound door
	HAProxy  Way = "haproxy"  // HAProxy in mode tcp
	Nginx    Way = "nginx"    // nginx's mail module
)

// ways is the order in which they are told of.
func ways() []Way { return []Way{Direct, Outbound, Inbound, HAProxy, Nginx} }

// Title names it for people.
func (w Way) Title() string {
	switch w {
	case Outbound:
		return "outbound door"
	case Inbound:
		return "inbound door"
	case HAProxy:
		return "HAProxy tcp"
	case Nginx:
		return "nginx mail"
	}
	return string(w)
}

// A contestant is a way that is ready.
type contestant struct {
	way      Way
	addr     string      // where the source is to send to
	tls      *tls.Config // for the source; nil: in clear
	accounts *ledger
	version  string
	log      func() string // the end of what it printed
	stop     func()
}

// An arena is everything that runs.
type arena struct {
	options     Options
	sink        *sink
	secrets     secrets
	contestants []*contestant
	absent      []Absent
}

// errAbsent is matched by the errors of a way that cannot be measured here.
var errAbsent = errors.New("absent")

// openArena starts sink and contestants. What is started is in the arena also when there is an error.
func openArena(ctx context.Context, o Options) (*arena, error) {
	a := &arena{options: o}
	var err error
	if a.secrets, err = newSecrets(o.TLS); err != nil {
		return a, err
	}
	if a.sink, err = openSink(a.secrets.server); err != nil {
		return a, err
	}
	for _, way := range ways() {
		c, err := a.enter(ctx, way)
		switch {
		case errors.Is(err, errAbsent) || errors.Is(err, mta.ErrUnavailable):
			a.absent = append(a.absent, Absent{way, err.Error()})
		case err != nil:
			return a, fmt.Errorf("%s: %w", way.Title(), err)
		default:
			c.way = way
			a.contestants = append(a.contestants, c)
		}
	}
	return a, nil
}

func (a *arena) close() {
	for _, c := range a.contestants {
		if c.stop != nil {
			c.stop()
		}
	}
	if a.sink != nil {
		a.sink.close()
	}
}

// enter starts a contestant.
func (a *arena) enter(ctx context.Context, way Way) (*contestant, error) {
	switch way {
	case Outbound, Inbound:
		return a.slipstream(ctx, way)
	case HAProxy:
		tool, err := mta.HAProxy{Peers: a.options.Peers, Backend: a.sink.addr()}.Start(ctx)
		return a.tool(tool, err, "haproxy")
	case Nginx:
		n := mta.NginxMail{Peers: a.options.Peers, Backend: a.sink.addr(), Cert: a.secrets.cert, Key: a.secrets.key}
		tool, err := n.Start(ctx)
		return a.tool(tool, err, "nginx")
	}
	return &contestant{addr: a.sink.addr(), tls: a.secrets.client}, nil
}

// tool makes a contestant of a program that was started.
func (a *arena) tool(t *mta.Tool, err error, name string) (*contestant, error) {
	if err != nil {
		return nil, err
	}
	c := &contestant{
		addr: t.Addr(), tls: a.secrets.client, version: version(a.options.Peers, name), log: t.Output,
		stop: func() { _ = t.Stop() }, // it has served its purpose
	}
	if pid, err := t.PID(); err == nil {
		if c.accounts, err = openLedger(pid); err != nil {
			c.stop()
			return nil, err
		}
	}
	return c, nil
}

// version is that of a package that was laid out; empty: it was not, or that is not known.
func version(peers, name string) string {
	for _, text := range mta.Versions(peers) {
		if version, ok := strings.CutPrefix(text, name+" "); ok {
			return version
		}
	}
	return ""
}

// secrets are the certificate that every server shows, and how the source meets it.
type secrets struct {
	cert, key      []byte // PEM
	server, client *tls.Config
}

// newSecrets makes a certificate, for use on this machine until the run ends. The source does not look at it: what is
// measured is the same, since its time is not counted.
func newSecrets(wanted bool) (secrets, error) {
	if !wanted {
		return secrets{}, nil
	}
	cert, key, err := mta.SelfSigned("localhost", "127.0.0.1")
	if err != nil {
		return secrets{}, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	return secrets{
		cert: cert, key: key,
		server: &tls.Config{Certificates: []tls.Certificate{pair}},
		client: &tls.Config{InsecureSkipVerify: true}, // and no session cache: each connection has a full handshake
	}, err
}

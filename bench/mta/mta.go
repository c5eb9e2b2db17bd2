// Package mta starts real mail servers, Debian's Exim and Postfix, as peers for tests and for the benchmark.
//
// Each instance lives in a root directory of its own: an overlay over the machine's, with the server's files on top, in
// a private mount namespace and a private process namespace. Nothing of the machine is changed, any number of instances
// run side by side, and when the first process of an instance dies, however it dies, its processes and mounts are gone.
// An instance ends with the program that started it, also when that is killed.
//
// The servers come from the directory .peers that fetch.sh fills. Linux and root are needed; where anything is missing,
// errors match [ErrUnavailable] and say what.
package mta

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// ErrUnavailable is matched by the errors of a machine that cannot run a peer at all.
var ErrUnavailable = errors.New("no real MTA here")

// Kind names a mail server.
type Kind string

// The servers that fetch.sh lays out.
const (
	Exim    Kind = "exim"
	Postfix Kind = "postfix"

	OpenSMTPD Kind = "opensmtpd" // in clear, and relays for everybody; not one of Kinds
)

// Kinds returns every kind that can do everything, for tests that want each.
func Kinds() []Kind { return []Kind{Exim, Postfix} }

// TLSPolicy says how the sending half of a server treats STARTTLS.
type TLSPolicy string

// The policies, in rising order.
const (
	TLSNone    TLSPolicy = ""        // never, even where it is offered
	TLSMay     TLSPolicy = "may"     // where it is offered, without looking at the certificate
	TLSEncrypt TLSPolicy = "encrypt" // always, without looking at the certificate
	TLSVerify  TLSPolicy = "verify"  // always, and the certificate must be of Config.CA and of the host's name
)

// Refusal is what the server answers to RCPT for one local part, at whatever domain.
type Refusal struct {
	Local string // "reject-me"
	Reply string // "550 5.1.1 no such user"; 4xx or 5xx
}

// Config describes one instance. The zero value is a server on a free port of 127.0.0.1 that accepts mail for its own
// domain, relays for nobody and sends nothing anywhere.
type Config struct {
	// Peers is the directory that fetch.sh filled. Empty: $SLIPSTREAM_PEERS, or .peers in the working directory or above.
	Peers string
	// Dir keeps configuration, logs, queue and deliveries. A second instance in the Dir of one that ended takes its queue
	// over, as after a crash. Empty: a temporary directory, removed at the end.
	Dir string

	Listen   string    // "127.0.0.1:2525"; empty or port 0: a free port
	Hostname string    // in greeting and EHLO; empty: "exim.test" or "postfix.test"
	Local    []string  // domains delivered here, every local part of them; empty: Hostname
	Refusals []Refusal // at RCPT
	// RelayFrom are the networks that may send to foreign domains. With "127.0.0.0/8" the server is an open relay to
	// whatever stands in front of it on this machine.
	RelayFrom []string
	MaxSize   int64 // largest message in octets; 0: 50 MB

	Cert, Key   []byte // PEM; STARTTLS is offered when both are set
	ImplicitTLS bool   // TLS on connect instead of STARTTLS

	XCLIENT []string // networks whose XCLIENT is believed; Postfix only
	Proxy   []string // networks that must begin with a PROXY header, version 1 or 2; Postfix and OpenSMTPD (2 alone) demand it of everybody
	// Postscreen is what postscreen(8), in front of the server, does with a client that talks before its greeting: ignore,
	// enforce or drop. Empty: there is none. Postfix only.
	Postscreen string
	// Without are EHLO keywords not to be offered: PIPELINING, CHUNKING, 8BITMIME, SMTPUTF8, DSN, PIPECONNECT.
	Without []string

	// Via is where mail for other domains goes, "host:port". Empty: to the MX.
	Via    string
	LMTP   bool   // Via speaks LMTP
	DNS    string // name server (address alone, port 53) of the instance; empty: none
	MXPort int    // port of every MX; 0: 25

	ClientTLS   TLSPolicy
	CA          []byte            // PEM; roots for TLSVerify
	PipeConnect bool              // may send early to a server it knows; Exim only
	Hosts       map[string]string // further lines of /etc/hosts: name to address

	// Extra are further lines: of Postfix's main.cf, of the main section of Exim's configuration.
	Extra []string
	// ExtraClient are further options "name = value" of the sending half: of Postfix's smtp or lmtp service, of Exim's
	// remote transport.
	ExtraClient []string
}

// withDefaults fills in what was left empty and refuses what the kind cannot do.
func (c Config) withDefaults(kind Kind) (Config, error) {
	if c.Hostname == "" {
		c.Hostname = string(kind) + ".test"
	}
	if len(c.Local) == 0 {
		c.Local = []string{c.Hostname}
	}
	if c.MaxSize == 0 {
		c.MaxSize = 50 << 20
	}
	if c.MXPort == 0 {
		c.MXPort = 25
	}
	if (len(c.Cert) == 0) != (len(c.Key) == 0) {
		return c, errors.New("mta: a certificate needs its key, and a key its certificate")
	}
	if c.ImplicitTLS && len(c.Cert) == 0 {
		return c, errors.New("mta: TLS on connect needs a certificate")
	}
	if kind == Exim && len(c.XCLIENT) > 0 {
		return c, errors.New("mta: Debian's Exim has no XCLIENT")
	}
	if kind == OpenSMTPD && (len(c.Cert)+len(c.Refusals)+len(c.XCLIENT)+len(c.Without)+len(c.Extra) > 0 || c.ClientTLS != TLSNone) {
		return c, errors.New("mta: OpenSMTPD speaks in clear here, and takes mail from and for everybody")
	}
	if kind != Postfix && c.Postscreen != "" {
		return c, fmt.Errorf("mta: %s has no postscreen", kind)
	}
	if kind == Postfix && c.PipeConnect {
		return c, errors.New("mta: Postfix never sends early")
	}
	if c.DNS != "" {
		if _, err := netip.ParseAddr(c.DNS); err != nil {
			return c, fmt.Errorf("mta: DNS wants an address alone: %w", err)
		}
	}
	if c.Via != "" {
		if _, _, err := splitHostPort(c.Via); err != nil {
			return c, fmt.Errorf("mta: Via: %w", err)
		}
	}
	for _, r := range c.Refusals {
		if len(r.Reply) < 5 || r.Reply[0] != '4' && r.Reply[0] != '5' || strings.ContainsAny(r.Local+r.Reply, "\r\n") {
			return c, fmt.Errorf("mta: refusal of %q wants a reply such as \"550 5.1.1 no such user\"", r.Local)
		}
	}
	var err error
	c.Listen, err = freePort(c.Listen)
	return c, err
}

// offers says whether an EHLO keyword is to be offered.
func (c Config) offers(keyword string) bool {
	for _, k := range c.Without {
		if strings.EqualFold(k, keyword) {
			return false
		}
	}
	return true
}

// anyPort says whether addr leaves the port open.
func anyPort(addr string) bool {
	_, port, err := net.SplitHostPort(addr)
	return addr == "" || err == nil && port == "0"
}

// freePort replaces an empty address or port 0 by a port that nobody listens on right now.
func freePort(addr string) (string, error) {
	if !anyPort(addr) {
		_, _, err := net.SplitHostPort(addr)
		return addr, err
	}
	l, err := net.Listen("tcp", cmp.Or(addr, "127.0.0.1:0"))
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func splitHostPort(addr string) (host string, port int, err error) {
	host, service, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, err
	}
	port, err = strconv.Atoi(service)
	return host, port, err
}

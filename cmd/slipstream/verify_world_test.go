package main

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"github.com/rogpeppe/go-internal/testscript"
)

func TestVerifyCommand(t *testing.T) { mailScript(t, "testdata/verify.txtar") }

func TestSealCommand(t *testing.T) { mailScript(t, "testdata/seal.txtar") }

// mailScript runs a script that has these commands besides those of testscript:
//
//	dns VARIABLE FILE           a name server for the records in FILE
//	keygen KIND NAME FILE       NAME.pem, and its public half at NAME._domainkey.relay.example in the records in FILE
//	crlf FROM TO                FROM with CRLF at the end of lines
//	repeat N TEXT FILE          N times TEXT, behind what is in FILE
func mailScript(t *testing.T, file string) {
	testscript.Run(t, testscript.Params{
		Files: []string{file}, RequireExplicitExec: true, Setup: scriptSetup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"dns": func(ts *testscript.TestScript, _ bool, args []string) {
				zone, err := readMailZone(ts.ReadFile(args[1]))
				ts.Check(err)
				addr, stop, err := zone.serve()
				ts.Check(err)
				ts.Defer(stop)
				ts.Setenv(args[0], addr)
			},
			"keygen": func(ts *testscript.TestScript, _ bool, args []string) {
				key, record, err := newMailKey(args[0])
				ts.Check(err)
				ts.Check(os.WriteFile(ts.MkAbs(args[1]+".pem"), key, 0o600))
				appendFile(ts, args[2], fmt.Sprintf("%s._domainkey.relay.example. 60 IN TXT %s\n", args[1], record))
			},
			"crlf": func(ts *testscript.TestScript, _ bool, args []string) {
				text := strings.ReplaceAll(ts.ReadFile(args[0]), "\n", "\r\n")
				ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(text), 0o600))
			},
			"repeat": func(ts *testscript.TestScript, _ bool, args []string) {
				var n int
				_, err := fmt.Sscan(args[0], &n)
				ts.Check(err)
				appendFile(ts, args[2], strings.Repeat(args[1], n)+"\n")
			},
		},
	})
}

func appendFile(ts *testscript.TestScript, name, text string) {
	f, err := os.OpenFile(ts.MkAbs(name), os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
	ts.Check(err)
	_, err = f.WriteString(text)
	ts.Check(errors.Join(err, f.Close()))
}

// newMailKey makes a key in PEM form, and what the TXT record of its public half says.
func newMailKey(kind string) (key []byte, record string, err error) {
	var private crypto.Signer
	var public []byte
	switch kind {
	case "rsa":
		pair, rsaErr := rsa.GenerateKey(rand.Reader, 2048)
		if rsaErr != nil {
			return nil, "", rsaErr
		}
		private = pair
		public, err = x509.MarshalPKIXPublicKey(pair.Public())
	case "ed25519":
		var pub ed25519.PublicKey
		pub, private, err = ed25519.GenerateKey(rand.Reader)
		public = pub
	default:
		return nil, "", errors.New("kind is rsa or ed25519")
	}
	if err != nil {
		return nil, "", err
	}
	block := &pem.Block{Type: "PRIVATE KEY"}
	if pair, ok := private.(*rsa.PrivateKey); ok { // dkimpy knows this form alone
		block.Type, block.Bytes = "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(pair)
	} else if block.Bytes, err = x509.MarshalPKCS8PrivateKey(private); err != nil {
		return nil, "", err
	}
	text := "v=DKIM1; k=" + kind + "; p=" + base64.StdEncoding.EncodeToString(public)
	for len(text) > 255 {
		record += `"` + text[:255] + `" `
		text = text[255:]
	}
	return pem.EncodeToMemory(block), record + `"` + text + `"`, nil
}

// A mailZone has records by name and, for names whose questions fail, none.
type mailZone map[string][]dns.RR

// readMailZone reads records as in a zone file, one a line; "NAME SERVFAIL" has all questions about a name fail.
func readMailZone(text string) (mailZone, error) {
	z := make(mailZone)
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if name, broken := strings.CutSuffix(line, " SERVFAIL"); broken {
			z[dns.CanonicalName(name)] = nil
			continue
		}
		rr, err := dns.NewRR(line)
		if err != nil {
			return nil, err
		}
		name := dns.CanonicalName(rr.Header().Name)
		z[name] = append(z[name], rr)
	}
	return z, nil
}

// ServeDNS implements [dns.Handler].
func (z mailZone) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable = true
	for name := dns.CanonicalName(q.Question[0].Name); name != ""; {
		records, ok := z[name]
		name = ""
		switch {
		case !ok:
			m.Rcode = dns.RcodeNameError
		case records == nil:
			m.Rcode = dns.RcodeServerFailure
		}
		for _, rr := range records {
			alias, isAlias := rr.(*dns.CNAME)
			if isAlias {
				name = dns.CanonicalName(alias.Target)
			}
			if isAlias || rr.Header().Rrtype == q.Question[0].Qtype {
				m.Answer = append(m.Answer, rr)
			}
		}
	}
	_ = w.WriteMsg(m) // who asks will ask again
}

// serve answers on loopback, over UDP: no answer of the tests needs TCP.
func (z mailZone) serve() (addr string, stop func(), err error) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	up, down := make(chan struct{}), make(chan error, 1)
	srv := &dns.Server{PacketConn: pc, Handler: z, NotifyStartedFunc: func() { close(up) }}
	go func() { down <- srv.ActivateAndServe() }()
	select {
	case <-up:
	case err := <-down:
		return "", nil, err
	}
	return pc.LocalAddr().String(), func() {
		_ = srv.Shutdown() // the test is over either way
		<-down
	}, nil
}

package proxy

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"time"

	"slipstream/auth"
	"slipstream/auth/arc"
)

// Sizes of RSA keys: smaller ones than signers should use, and larger ones than verifiers must take, may count for
// nothing. https://www.rfc-editor.org/rfc/rfc8301#section-3.2
const (
	leastSafeBits  = 2048
	mostCommonBits = 4096
)

// sealingKey looks at the key that messages are sealed with.
func (c *check) sealingKey(d *InboundConfig) {
	const about = "arc"
	path := d.Auth.ARCKeyFile
	s, err := d.Auth.sealer()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.say(Failed, about, "%s: %s; make a key, or correct arc_key_file", d.Name, bareAuth(err))
		return
	case errors.Is(err, fs.ErrPermission):
		c.say(Failed, about, "%s: %s; chown it to %s and chmod 600 it", d.Name, bareAuth(err), accountName())
		return
	case err != nil:
		c.say(Failed, about, "%s: %s", d.Name, bareAuth(err))
		return
	case s == nil:
		return
	}
	key := &arc.Key{Public: s.Key.Public()}
	bits := key.Bits()
	switch {
	case key.Algorithm() == arc.Ed25519SHA256:
		c.say(Doubtful, about, "%s: %s is an Ed25519 key, which few verifiers know: to the others our seal breaks "+
			"the chain; use RSA of %d bits", d.Name, path, leastSafeBits)
	case bits < leastSafeBits:
		c.say(Doubtful, about, "%s: %s is an RSA key of %d bits, which not everybody believes; use one of %d",
			d.Name, path, bits, leastSafeBits)
	case bits > mostCommonBits:
		c.say(Doubtful, about, "%s: %s is an RSA key of %d bits, and not everybody verifies more than %d; use one of %d",
			d.Name, path, bits, mostCommonBits, leastSafeBits)
	default:
		c.say(Fine, about, "%s: %s is an RSA key of %d bits", d.Name, path, bits)
	}
}

// authDNS asks what doors ask that want to know who mail is from: one question for all of them, and one for each key.
func (c *check) authDNS(ctx context.Context) {
	var judging []*InboundConfig
	for i := range c.cfg.Inbound {
		if d := &c.cfg.Inbound[i]; d.Auth.Enabled {
			judging = append(judging, d)
		}
	}
	if len(judging) == 0 || c.Resolver == nil {
		return
	}
	dns, ok := c.Resolver.(AuthDNS)
	if !ok {
		c.say(Failed, "auth", "the resolver cannot look up what authentication needs")
		return
	}
	names := AuthResolver(dns)
	var deadline time.Duration
	for _, d := range judging {
		deadline = max(deadline, d.Auth.Deadline)
	}
	if !c.answersTXT(ctx, names, deadline) {
		return // each key would take as long
	}
	for _, d := range judging {
		if s, err := d.Auth.sealer(); err == nil && s != nil {
			c.keyRecord(ctx, names, d, s)
		}
	}
}

// answersTXT asks for the TXT records of our own name: any answer shows that there are servers.
func (c *check) answersTXT(ctx context.Context, names auth.Resolver, deadline time.Duration) bool {
	const about = "auth"
	name := c.cfg.Hostname
	start := time.Now()
	_, err := askTXT(ctx, names, deadline, name)
	took := time.Since(start).Round(time.Millisecond)
	const remedy = "correct servers in [dns] or the system's resolv.conf"
	switch {
	case err != nil && isTimeout(err):
		c.say(Failed, about, "no answer about TXT records of %s after %v: %v; while that is so, each message waits, "+
			"up to auth.deadline (%v), and everything is judged temperror; %s", name, took, err, deadline, remedy)
	case err != nil:
		// REFUSED, SERVFAIL, nobody at the port: that is heard at once.
		c.say(Failed, about, "the servers do not tell about TXT records of %s: %v; while that is so, no message waits for "+
			"them, and everything is judged temperror; %s", name, err, remedy)
	case took > deadline/2:
		c.say(Doubtful, about, "the servers took %v to answer about TXT records of %s, and a message needs several such "+
			"answers within auth.deadline (%v); name a nearer resolver in [dns]", took, name, deadline)
	default:
		c.say(Fine, about, "the servers answer about TXT records of %s, in %v", name, took)
	}
	return err == nil
}

// isTimeout tells a question that nobody answered in time from one that was answered, by whatever.
func isTimeout(err error) bool {
	var dnsErr *net.DNSError
	return errors.As(err, &dnsErr) && dnsErr.IsTimeout || errors.Is(err, context.DeadlineExceeded)
}

// askTXT asks one question. That there are no such records is an answer; an error means that there was none.
func askTXT(ctx context.Context, names auth.Resolver, limit time.Duration, name string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	records, err := names.LookupTXT(ctx, name)
	var dnsErr *net.DNSError
	if errors.As(err, &dnsErr) && dnsErr.IsNotFound {
		return nil, nil
	}
	return records, err
}

// keyRecord compares the key that seals with the one that the world is told of.
func (c *check) keyRecord(ctx context.Context, names auth.Resolver, d *InboundConfig, s *arc.Sealer) {
	const about = "arc"
	selector, domain, err := arc.KeyName(s.Selector, s.Domain)
	if err != nil {
		return // sealer has checked it
	}
	at := selector + "._domainkey." + domain
	pub := s.Key.Public()
	publish := fmt.Sprintf("publish there, as TXT: %s", keyRecord(pub))
	records, err := askTXT(ctx, names, d.Auth.Deadline, at)
	if err != nil {
		c.say(Doubtful, about, "%s: whether our key is at %s cannot be told: %v", d.Name, at, err)
		return
	}
	key, err := arc.ChooseKey(records, (&arc.Key{Public: pub}).Algorithm())
	const so = "so every seal of ours breaks the chain that it stands on"
	switch {
	case len(records) == 0:
		c.say(Failed, about, "%s: there is no key at %s, %s; %s", d.Name, at, so, publish)
	case errors.Is(err, arc.ErrManyKeys):
		c.say(Failed, about, "%s: %s: %v, %s; leave one of them", d.Name, at, err, so)
	case err != nil:
		c.say(Failed, about, "%s: %s: %v, %s; %s", d.Name, at, err, so, publish)
	case !sameKey(key.Public, pub):
		c.say(Failed, about, "%s: the key at %s is not that of %s, %s; put the right key into the file, or %s",
			d.Name, at, d.Auth.ARCKeyFile, so, publish)
	case key.Testing:
		c.say(Doubtful, about, "%s: the key at %s is ours, but says that it is a trial; take t=y out of the record",
			d.Name, at)
	default:
		c.say(Fine, about, "%s: the key at %s is ours", d.Name, at)
	}
}

func sameKey(a, b crypto.PublicKey) bool {
	key, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && key.Equal(b)
}

// keyRecord is the TXT record of a public key (https://www.rfc-editor.org/rfc/rfc6376#section-3.6.1,
// https://www.rfc-editor.org/rfc/rfc8463#section-4); "" for a key of another kind.
func keyRecord(pub crypto.PublicKey) string {
	switch pub := pub.(type) {
	case ed25519.PublicKey:
		return "v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(pub)
	case *rsa.PublicKey:
		if der, err := x509.MarshalPKIXPublicKey(pub); err == nil {
			return "v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(der)
		}
	}
	return ""
}

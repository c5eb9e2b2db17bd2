package tlsstore

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/pem"
	"net/netip"
	"slices"
	"strings"
)

// A Scope says who we talk to, as whom, and how strictly. A TLS session is offered only in the very Scope it was made
// in: to offer it elsewhere would carry what was checked, or was not checked, from one policy to another.
//
// Upper and lower case of the names, a dot at their end and IPv4 in the clothes of IPv6 make no difference; all else
// does.
type Scope struct {
	Host       string         // the MX host or relay, as routing named it
	Addr       netip.AddrPort // the hop
	ServerName string         // SNI
	Level      string         // the policy: "none", "may", "encrypt", "verify", "dane"…
	Trust      [32]byte       // trust anchors or TLSA set, see TrustOf; zero: the system's
	ClientCert [32]byte       // who we say we are, see ClientCertOf; zero: nobody
	Node       string         // the host named in EHLO, where one address is shared by several that keep their own keys
	Source     netip.Addr     // the address we come from; zero: any
}

// key names the record of the scope's sessions.
func (sc Scope) key() recordKey {
	var room [512]byte
	b := room[:0]
	for _, s := range []string{cleanName(sc.Host), cleanName(sc.ServerName), sc.Level, cleanName(sc.Node)} {
		b = appendText(b, s)
	}
	b = append(b, sc.Trust[:]...)
	b = append(b, sc.ClientCert[:]...)
	b = appendAddrPort(b, sc.Addr)
	b = appendText(b, addrText(sc.Source))
	return newKey(kindSession, b)
}

// TrustOf is the digest of a set of trust anchors (certificates, DER) or of TLSA records (their RDATA). Neither order
// nor repetition counts, so a rotated DNS answer is the same set. Of nothing at all it is zero, which stands for the
// system's trust anchors. An x509.CertPool cannot be listed: take the digest of what it was filled from.
func TrustOf(parts ...[]byte) [32]byte {
	if len(parts) == 0 {
		return [32]byte{}
	}
	sums := make([][32]byte, 0, len(parts))
	for _, p := range parts {
		sums = append(sums, sha256.Sum256(p))
	}
	slices.SortFunc(sums, func(a, b [32]byte) int { return bytes.Compare(a[:], b[:]) })
	h := sha256.New()
	for _, sum := range slices.Compact(sums) {
		h.Write(sum[:])
	}
	return [32]byte(h.Sum(nil))
}

// TrustOfPEM is [TrustOf] the certificates in PEM files, in which text between them does not count.
func TrustOfPEM(files ...[]byte) [32]byte {
	var parts [][]byte
	for _, rest := range files {
		for {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			if block.Type == "CERTIFICATE" {
				parts = append(parts, block.Bytes)
			}
		}
	}
	return TrustOf(parts...)
}

// ClientCertOf is the digest of the certificate that we show, its chain included; zero for none.
func ClientCertOf(c *tls.Certificate) [32]byte {
	if c == nil || len(c.Certificate) == 0 {
		return [32]byte{}
	}
	h := sha256.New()
	for _, der := range c.Certificate {
		sum := sha256.Sum256(der)
		h.Write(sum[:])
	}
	return [32]byte(h.Sum(nil))
}

// cleanName makes names that mean the same the same.
func cleanName(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// appendAddrPort appends an address so that nothing else looks like it.
func appendAddrPort(b []byte, a netip.AddrPort) []byte {
	b = appendText(b, addrText(a.Addr()))
	return binary.BigEndian.AppendUint16(b, a.Port())
}

// addrText is an address for people and for records; "" for none.
func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.Unmap().String()
}

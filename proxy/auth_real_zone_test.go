package proxy_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
)

// chainServers are where the receiving domains of the test are: their doors, in the order of realNeighbours.
type chainServers struct{ tree, psl, reject, quarantine string }

// chainZone is the root zone of a world of its own: all that mail in auth_real_mail_test.go speaks of.
func chainZone(keys chainKeys, at chainServers) string {
	var b strings.Builder
	b.WriteString(chainZoneText)
	for domain, addr := range map[string]string{
		"tree": at.tree, "psl": at.psl, "reject": at.reject, "quarantine": at.quarantine,
	} {
		fmt.Fprintf(&b, "%[1]s.test. MX 10 mx.%[1]s.test.\nmx.%[1]s.test. A %[2]s\n", domain, addr)
	}
	b.WriteString("six.test. MX 10 mx.six.test.\nmx.six.test. AAAA ::1\n")
	for _, domain := range []string{"good", "sub.good", "other", "list", "strict", "quar", "xn--bcher-kva", "sub.own"} {
		for selector, text := range keys.records() {
			fmt.Fprintf(&b, "%s._domainkey.%s.example. TXT %s\n", selector, domain, chainTXT(text))
		}
	}
	return b.String()
}

// chainZoneText is what needs no key and no address of the run. Clients are 127.0.0.11, which may send for most
// domains, 127.0.0.12, whose name is helo.example, 127.0.0.13, which may send for other.example, 127.0.0.14, whom
// nobody knows, and ::1.
const chainZoneText = `$TTL 300
. SOA ns.nic.test. hostmaster.nic.test. 1 3600 600 86400 300
. NS ns.nic.test.
ns.nic.test. A 127.0.0.1

11.0.0.127.in-addr.arpa. PTR mx.good.example.
12.0.0.127.in-addr.arpa. PTR helo.example.
13.0.0.127.in-addr.arpa. PTR liar.example.
1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa. PTR mx.good.example.
mx.good.example. A 127.0.0.11
mx.good.example. AAAA ::1
mx.good.example. TXT "v=spf1 a -all"
helo.example. A 127.0.0.12
helo.example. TXT "v=spf1 a -all"
_dmarc.helo.example. TXT "v=DMARC1; p=reject"
liar.example. A 127.0.0.99

good.example. TXT "v=spf1 ip4:127.0.0.11 ip6:::1 -all"
good.example. TXT "something else"
_dmarc.good.example. TXT "v=DMARC1; p=reject"
sub.good.example. TXT "v=spf1 ip4:127.0.0.11 -all"
other.example. TXT "v=spf1 ip4:127.0.0.13 -all"
_dmarc.other.example. TXT "v=DMARC1; p=reject"
list.example. TXT "v=spf1 ip4:127.0.0.13 -all"
strict.example. TXT "v=spf1 ip4:127.0.0.11 -all"
_dmarc.strict.example. TXT "v=DMARC1; p=reject; adkim=s; aspf=s"
sub.strict.example. TXT "v=spf1 ip4:127.0.0.11 -all"
quar.example. TXT "v=spf1 ip4:127.0.0.11 -all"
_dmarc.quar.example. TXT "v=DMARC1;p=quarantine;"
none.example. TXT "v=spf1 ip4:127.0.0.11 -all"
_dmarc.none.example. TXT "v=DMARC1 ; p=none ; rua=mailto:x@none.example"
xn--bcher-kva.example. TXT "v=spf1 ip4:127.0.0.11 -all"
_dmarc.xn--bcher-kva.example. TXT "v=DMARC1; p=reject"

include.example. TXT "v=spf1 include:good.example -all"
redirect.example. TXT "v=spf1 redirect=good.example"
soft.example. TXT "v=spf1 ~all"
_dmarc.soft.example. TXT "v=DMARC1; p=quarantine"
neutral.example. TXT "v=spf1 ?all"
broken.example. TXT "v=spf1 ip4:127.0.0.300 -all"
twospf.example. TXT "v=spf1 +all"
twospf.example. TXT "v=spf1 -all"
loop.example. TXT "v=spf1 include:loop.example -all"
includesnone.example. TXT "v=spf1 include:nospf.example -all"
nospf.example. TXT "no policy here"
void.example. TXT "v=spf1 a:v1.void.example a:v2.void.example a:v3.void.example +all"
many.example. TXT "v=spf1 include:m1.many.example include:m2.many.example include:m3.many.example" " +all"
m1.many.example. TXT "v=spf1 a:helo.example a:helo.example a:helo.example ?all"
m2.many.example. TXT "v=spf1 a:helo.example a:helo.example a:helo.example ?all"
m3.many.example. TXT "v=spf1 a:helo.example a:helo.example a:helo.example ?all"
macro.example. TXT "v=spf1 exists:%{ir}.%{l}.allow.macro.example -all"
11.0.0.127.alice.allow.macro.example. A 127.0.0.2
ptr.example. TXT "v=spf1 ptr:good.example -all"
mail.example. TXT "v=spf1 mx -all"
mail.example. MX 10 mx.good.example.
long.example. TXT "v=spf1 ip4:127.0" ".0.11" " -all"
lameinclude.example. TXT "v=spf1 include:lame.example -all"
_dmarc.lameinclude.example. TXT "v=DMARC1; p=reject"
lame._domainkey.good.example. CNAME rsa._domainkey.lame.example.

sp.example. TXT "v=spf1 ip4:127.0.0.11 -all"
_dmarc.sp.example. TXT "v=DMARC1; p=reject; sp=none"
x.sp.example. TXT "v=spf1 -all"
np.example. TXT "v=spf1 ip4:127.0.0.11 -all"
_dmarc.np.example. TXT "v=DMARC1; p=none; sp=none; np=reject"
test.example. TXT "v=spf1 -all"
_dmarc.test.example. TXT "v=DMARC1; p=reject; t=y"
pct.example. TXT "v=spf1 -all"
_dmarc.pct.example. TXT "v=DMARC1; p=reject; pct=100; rf=afrf; ri=86400; what=ever"
two.example. TXT "v=spf1 ip4:127.0.0.11 -all"
_dmarc.two.example. TXT "v=DMARC1; p=reject"
_dmarc.two.example. TXT "v=DMARC1; p=reject;"
twotxt.example. TXT "v=spf1 -all"
_dmarc.twotxt.example. TXT "v=DMARC1; p=reject"
_dmarc.twotxt.example. TXT "something else"
nop.example. TXT "v=spf1 -all"
_dmarc.nop.example. TXT "v=DMARC1; p=what"
noprua.example. TXT "v=spf1 -all"
_dmarc.noprua.example. TXT "v=DMARC1; p=what; rua=mailto:x@noprua.example"
vlast.example. TXT "v=spf1 -all"
_dmarc.vlast.example. TXT "p=reject; v=DMARC1"
nodmarc.example. TXT "v=spf1 ip4:127.0.0.11 -all"
cname.example. TXT "v=spf1 -all"
_dmarc.cname.example. CNAME _dmarc.good.example.

_dmarc.co.example. TXT "v=DMARC1; p=reject; psd=y"
a.co.example. TXT "v=spf1 ip4:127.0.0.11 -all"
b.co.example. TXT "v=spf1 ip4:127.0.0.11 -all"
sub.own.example. TXT "v=spf1 ip4:127.0.0.11 -all"
_dmarc.sub.own.example. TXT "v=DMARC1; p=reject"
next.own.example. TXT "v=spf1 ip4:127.0.0.11 -all"
`

// chainTXT writes the strings of a TXT record.
func chainTXT(text string) string {
	const longest = 255 // https://www.rfc-editor.org/rfc/rfc1035#section-3.3.14
	var parts []string
	for len(text) > longest {
		parts, text = append(parts, fmt.Sprintf("%q", text[:longest])), text[longest:]
	}
	return strings.Join(append(parts, fmt.Sprintf("%q", text)), " ")
}

// chainKeys are the keys that sign.
type chainKeys struct {
	rsa, rsa1024 *rsa.PrivateKey
	rsa512       chainSmallKey
	ed           ed25519.PrivateKey
}

func newChainKeys(t *testing.T) chainKeys {
	t.Helper()
	k := chainKeys{ed: ed25519.NewKeyFromSeed([]byte("thirty-two octets of a test seed"))}
	var err error
	if k.rsa, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	if k.rsa1024, err = rsa.GenerateKey(rand.Reader, 1024); err != nil {
		t.Fatal(err)
	}
	k.rsa512 = newChainSmallKey(t)
	return k
}

// records are the DKIM records by selector. Those that are no key of their own belong to the one of 2048 bits.
func (k chainKeys) records() map[string]string {
	whole := chainSPKI(k.rsa.Public())
	return map[string]string{
		"rsa":      "v=DKIM1; k=rsa; p=" + whole,
		"rsa1024":  "v=DKIM1; p=" + chainSPKI(k.rsa1024.Public()),
		"rsa512":   "v=DKIM1; p=" + chainSPKI(k.rsa512.public),
		"ed":       "v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(k.ed.Public().(ed25519.PublicKey)),
		"revoked":  "v=DKIM1; p=",
		"testing":  "v=DKIM1; t=y; p=" + whole,
		"strict":   "v=DKIM1; t=s; p=" + whole,
		"sha1":     "v=DKIM1; h=sha1; p=" + whole,
		"nonsense": "v=DKIM1; p=what is this",
	}
}

// secrets are the private keys as dkimpy takes them.
func (k chainKeys) secrets() map[string]string {
	block := func(der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: der}))
	}
	return map[string]string{
		"rsa": block(x509.MarshalPKCS1PrivateKey(k.rsa)), "rsa1024": block(x509.MarshalPKCS1PrivateKey(k.rsa1024)),
		"rsa512": block(k.rsa512.der), "ed": base64.StdEncoding.EncodeToString(k.ed.Seed()),
	}
}

func chainSPKI(public crypto.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		panic(err) // it is a key of ours
	}
	return base64.StdEncoding.EncodeToString(der)
}

// chainSmallKey is a key of 512 bits, which crypto/rsa makes no more.
type chainSmallKey struct {
	public *rsa.PublicKey
	der    []byte // RSAPrivateKey, https://www.rfc-editor.org/rfc/rfc8017#appendix-A.1.2
}

func newChainSmallKey(t *testing.T) chainSmallKey {
	t.Helper()
	one, e := big.NewInt(1), big.NewInt(65537)
	minus := func(n *big.Int) *big.Int { return new(big.Int).Sub(n, one) }
	for {
		p, err := rand.Prime(rand.Reader, 256)
		if err != nil {
			t.Fatal(err)
		}
		q, err := rand.Prime(rand.Reader, 256)
		if err != nil {
			t.Fatal(err)
		}
		n := new(big.Int).Mul(p, q)
		d := new(big.Int).ModInverse(e, new(big.Int).Mul(minus(p), minus(q)))
		if d == nil || n.BitLen() != 512 {
			continue // another pair will do
		}
		der, err := asn1.Marshal(struct {
			Version                      int
			N                            *big.Int
			E                            int
			D, P, Q, DP, DQ, Coefficient *big.Int
		}{0, n, 65537, d, p, q, new(big.Int).Mod(d, minus(p)), new(big.Int).Mod(d, minus(q)), new(big.Int).ModInverse(q, p)})
		if err != nil {
			t.Fatal(err)
		}
		return chainSmallKey{&rsa.PublicKey{N: n, E: 65537}, der}
	}
}

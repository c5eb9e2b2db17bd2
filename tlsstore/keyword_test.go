package tlsstore

import (
	"encoding/hex"
	"net/netip"
	"testing"
	"time"

	"slipstream/smtpwire"
)

// TestKeyword: what is common is short, and everything comes back as it was, upper and lower case included.
func TestKeyword(t *testing.T) {
	for i, p := range commonKeywords {
		if b := appendKeyword(nil, p); len(b) != 1 || b[0] != byte(1+i) {
			t.Errorf("%v becomes % x; is it there twice?", p, b)
		}
		if e := smtpwire.NewEHLO("h", p); len(e.Keywords()) != 1 || e.Keywords()[0] != p {
			t.Errorf("%v is no keyword", p)
		}
	}
	for i, name := range commonNames {
		if b := appendKeyword(nil, offer(name, "?")); len(b) != 3 || b[0] != byte(nameOnly+i) {
			t.Errorf("%s becomes % x; is it there twice?", name, b)
		}
	}
	if len(commonKeywords) >= nameOnly || len(commonNames) > 256-nameOnly {
		t.Error("more than there are codes")
	}
	others := []smtpwire.Param{
		offer("SIZE", "12345"), offer("AUTH", "XOAUTH2"), offer("Pipelining", ""), offer("size", "0"),
		offer("X-MINE", ""), offer("X-MINE", "a b c"), offer("PIPELINING", "x"),
	}
	for _, p := range append(others, commonKeywords[:]...) {
		b := appendKeyword(nil, p)
		d := decoder{rest: b}
		if got := d.keyword(); got != p || !d.done() {
			t.Errorf("%v comes back as %v, %+v", p, got, d)
		}
		for n := range b {
			if d := (decoder{rest: b[:n]}); d.keyword() != (smtpwire.Param{}) && d.done() {
				t.Errorf("%v: the first %d octets will do", p, n)
			}
		}
	}
	for code := range 256 {
		known := code <= len(commonKeywords) || code >= nameOnly && code < nameOnly+len(commonNames)
		d := decoder{rest: []byte{byte(code), 1, 'x', 0}}
		if d.keyword(); d.bad == known {
			t.Errorf("code %d is known: %v", code, !d.bad)
		}
	}
}

// TestHelloFormat pins what a record looks like on disk. Where it has to change, so has recordFormat.
func TestHelloFormat(t *testing.T) {
	k := PeerKey{Host: "MX.", Addr: netip.MustParseAddrPort("192.0.2.7:25"), Hello: "us.example", Phase: Secured}
	e := smtpwire.NewEHLO("mx.example", offer("PIPELINING", ""), offer("PRDR", ""), offer("BURL", "imap"),
		offer("AUTH", "GSSAPI NTLM LOGIN"), offer("SIZE", "1073741824"), offer("SIZE-X", "1"), offer("RRVS", "y"))
	got := hex.EncodeToString(encodeHello(k.key(), k, e, time.UnixMilli(1_800_000_000_123)))
	const want = "0368" + "01a3185c507b" + "240c8400" + "026d78" + // format, kind, written, life, mx
		"04c0000207" + "0019" + "0a75732e6578616d706c65" + "00" + "01" + // 192.0.2.7, 25, us.example, any, secured
		"0a6d782e6578616d706c65" + "07" + "01" + "10" + "20" + "2e" + "51" + // mx.example, seven, five of them common
		"00" + "0653495a452d58" + "0131" + "88" + "0179" // SIZE-X 1, RRVS y
	if sum := 2 * sumSize; len(got) < sum || got[:len(got)-sum] != want {
		t.Errorf("a record is\n%s, want\n%s and a checksum", got, want)
	}
}

package tlsstore

import (
	"crypto/tls"
	"encoding/pem"
	"testing"
)

func TestTrustOf(t *testing.T) {
	a, b, c := []byte("a"), []byte("b"), []byte("c")
	if TrustOf(a, b, c) != TrustOf(c, b, a, b) {
		t.Error("order or repetition makes a difference")
	}
	seen := make(map[[32]byte]int)
	for i, parts := range [][][]byte{nil, {{}}, {a}, {b}, {a, b}, {[]byte("ab")}, {a, b, c}, {a, []byte("bc")}} {
		sum := TrustOf(parts...)
		if j, ok := seen[sum]; ok {
			t.Errorf("sets %d and %d are the same", i, j)
		}
		seen[sum] = i
	}
	if TrustOf() != [32]byte{} {
		t.Error("nothing is not zero")
	}
}

func TestTrustOfPEM(t *testing.T) {
	file := func(certs ...string) (out []byte) {
		for _, cert := range certs {
			out = append(out, "# somebody's\n"...)
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(cert)})...)
		}
		return append(out, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("k")})...)
	}
	want := TrustOf([]byte("one"), []byte("two"))
	if TrustOfPEM(file("one", "two")) != want || TrustOfPEM(file("two"), file("one")) != want {
		t.Error("the same certificates make a difference")
	}
	if TrustOfPEM([]byte("none")) != TrustOf() || TrustOfPEM() != TrustOf() {
		t.Error("no certificates are not nothing")
	}
}

func TestClientCertOf(t *testing.T) {
	if ClientCertOf(nil) != [32]byte{} || ClientCertOf(new(tls.Certificate)) != [32]byte{} {
		t.Error("nobody is not zero")
	}
	one := ClientCertOf(&tls.Certificate{Certificate: [][]byte{[]byte("leaf")}})
	two := ClientCertOf(&tls.Certificate{Certificate: [][]byte{[]byte("leaf"), []byte("ca")}})
	if one == two || one == [32]byte{} {
		t.Error("a chain is no different")
	}
}

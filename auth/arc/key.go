package arc

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// The algorithms of a= (https://www.rfc-editor.org/rfc/rfc8301#section-3.1,
// https://www.rfc-editor.org/rfc/rfc8463#section-3).
const (
	RSASHA256     = "rsa-sha256"
	Ed25519SHA256 = "ed25519-sha256"
)

var (
	ErrNoKey      = errors.New("no key")                   // no record, or none for this algorithm
	ErrKeySyntax  = errors.New("malformed key record")     // none that can be read
	ErrKeyRevoked = errors.New("key revoked")              // an empty p=
	ErrKeySize    = errors.New("key too small or large")   // RSA outside MinRSABits to MaxRSABits
	ErrKeyUse     = errors.New("key is for another use")   // h= or s= exclude us
	ErrManyKeys   = errors.New("several keys at one name") // undefined by RFC 6376, section 3.6.2.2
)

// Key is the record of a key (https://www.rfc-editor.org/rfc/rfc6376#section-3.6.1).
type Key struct {
	Public  crypto.PublicKey // *rsa.PublicKey or ed25519.PublicKey
	Testing bool             // t=y: the domain is trying it out
	Strict  bool             // t=s: i= must have the very domain of d= (DKIM)
	Tags    Tags
}

// Algorithm returns the a= that the key is for.
func (k *Key) Algorithm() string {
	if _, ok := k.Public.(ed25519.PublicKey); ok {
		return Ed25519SHA256
	}
	return RSASHA256
}

// Bits returns the size of the key.
func (k *Key) Bits() int {
	if pub, ok := k.Public.(*rsa.PublicKey); ok {
		return pub.N.BitLen()
	}
	return 256
}

// ParseKey reads one TXT record, its strings joined.
func ParseKey(record string) (*Key, error) {
	if len(record) > MaxKeyRecord {
		return nil, fmt.Errorf("%w: too long", ErrKeySyntax)
	}
	tags, err := ParseTags([]byte(record))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeySyntax, err)
	}
	if i := tags.index("v"); i > 0 || i == 0 && tags[0].Value != "DKIM1" {
		return nil, fmt.Errorf("%w: v= is not DKIM1, or not first", ErrKeySyntax)
	}
	text, ok := tags.Get("p")
	if !ok {
		return nil, fmt.Errorf("%w: no p=", ErrKeySyntax)
	}
	if text == "" {
		return nil, ErrKeyRevoked
	}
	if h, ok := tags.Get("h"); ok && !listed(h, "sha256") {
		return nil, ErrKeyUse
	}
	if s, ok := tags.Get("s"); ok && !listed(s, "*") && !listed(s, "email") {
		return nil, ErrKeyUse
	}
	k := &Key{Tags: tags}
	if t, ok := tags.Get("t"); ok {
		k.Testing, k.Strict = listed(t, "y"), listed(t, "s")
	}
	kind, ok := tags.Get("k")
	if !ok {
		kind = "rsa"
	}
	if k.Public, err = parsePublic(kind, text); err != nil {
		return nil, err
	}
	return k, nil
}

// parsePublic reads p= of the kind that k= names.
func parsePublic(kind, text string) (crypto.PublicKey, error) {
	if len(text) > maxKeyText {
		return nil, ErrKeySize
	}
	der, err := decodeBase64(text)
	if err != nil {
		return nil, fmt.Errorf("%w: p= is not base64", ErrKeySyntax)
	}
	switch kind {
	case "ed25519":
		if len(der) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("%w: p= is no Ed25519 key", ErrKeySyntax)
		}
		return ed25519.PublicKey(der), nil
	case "rsa":
	default:
		return nil, fmt.Errorf("%w: unknown k=", ErrNoKey)
	}
	// RFC 6376 says SubjectPublicKeyInfo in one place and RSAPublicKey in
	// another; both are in use (erratum 3017).
	var pub *rsa.PublicKey
	if info, err := x509.ParsePKIXPublicKey(der); err == nil {
		pub, _ = info.(*rsa.PublicKey)
	} else {
		pub, _ = x509.ParsePKCS1PublicKey(der)
	}
	if pub == nil {
		return nil, fmt.Errorf("%w: p= is no RSA key", ErrKeySyntax)
	}
	if n := pub.N.BitLen(); n < MinRSABits || n > MaxRSABits {
		return nil, ErrKeySize
	}
	return pub, nil
}

// listed reports whether a list with colons has a word.
func listed(list, word string) bool {
	return slices.ContainsFunc(strings.Split(list, ":"), func(s string) bool {
		return trimWSP(s) == word
	})
}

// ChooseKey returns the one key among the TXT records of a name that is for an
// algorithm. Records that are no keys do not count, so that a wildcard does no
// harm; two keys are an error.
func ChooseKey(records []string, algorithm string) (*Key, error) {
	if len(records) > MaxKeyRecords {
		return nil, ErrManyKeys
	}
	var (
		chosen *Key
		first  error
	)
	for _, record := range records {
		k, err := ParseKey(record)
		switch {
		case err == nil && k.Algorithm() != algorithm:
			err = fmt.Errorf("%w: the key is for another algorithm", ErrNoKey)
		case err == nil && chosen != nil:
			return nil, ErrManyKeys
		case err == nil:
			chosen = k
		}
		if first == nil {
			first = err
		}
	}
	switch {
	case chosen != nil:
		return chosen, nil
	case first != nil:
		return nil, first
	}
	return nil, ErrNoKey
}

package auth

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"slipstream/auth/arc"
)

// maxKeyFile is the longest file that a key is looked for in. An RSA key of arc.MaxRSABits takes some 6400 octets, and
// people write notes above theirs.
const maxKeyFile = 64 << 10

// LoadKey reads the private key that messages are sealed with: the one key in a PEM file, as PKCS #8 ("PRIVATE KEY")
// or PKCS #1 ("RSA PRIVATE KEY"). It is an RSA key of a size that may be signed with, or an Ed25519 key.
//
// The file must be a plain one that nobody but its owner may read or write; one that belongs to root may also be
// readable for its group, which is how systemd shows credentials and how keys are given to a service. Every error
// names the file, and nothing that is in it.
func LoadKey(path string) (crypto.Signer, error) {
	text, err := readPrivate(path)
	if err != nil {
		return nil, err
	}
	key, err := parseKeyFile(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

// readPrivate reads a file with a secret in it.
func readPrivate(path string) ([]byte, error) {
	// O_NONBLOCK, since a pipe would have us wait for whoever writes.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a plain file", path)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 && (perm&^0o640 != 0 || !ownedByRoot(info)) {
		return nil, fmt.Errorf("others may read or write %s (mode %04o): chmod 600 it, "+
			"and make a new key if they should not have read it", path, perm)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxKeyFile {
		return nil, fmt.Errorf("%s is too long for a key", path)
	}
	return text, nil
}

// parseKeyFile finds the one key in a PEM file. Errors say nothing of what the file has, which may be another secret.
func parseKeyFile(text []byte) (crypto.Signer, error) {
	block, rest := pem.Decode(text)
	if block == nil {
		return nil, errors.New("there is no key in PEM form; \"openssl genpkey -algorithm RSA " +
			"-pkeyopt rsa_keygen_bits:2048\" makes one")
	}
	if next, _ := pem.Decode(rest); next != nil {
		return nil, errors.New("there is more than one thing in it; leave the private key alone")
	}
	var key any
	var err error
	switch {
	case block.Type == "ENCRYPTED PRIVATE KEY" || bytes.Contains(text, []byte("Proc-Type: 4,ENCRYPTED")):
		return nil, errors.New("the key is encrypted; \"openssl pkey\" writes it down without its passphrase")
	case block.Type == "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case block.Type == "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		return nil, errors.New("it is neither a PRIVATE KEY nor an RSA PRIVATE KEY")
	}
	if err != nil {
		return nil, errors.New("the key cannot be read")
	}
	switch key := key.(type) {
	case ed25519.PrivateKey:
		return key, nil
	case *rsa.PrivateKey:
		if n := key.N.BitLen(); n < arc.MinRSABits || n > arc.MaxRSABits {
			return nil, fmt.Errorf("an RSA key of %d bits; from %d to %d will do", n, arc.MinRSABits, arc.MaxRSABits)
		}
		return key, nil
	}
	return nil, errors.New("the key is neither RSA nor Ed25519")
}

//go:build unix

package auth

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// keyFileText is a key as a PEM file has it.
func keyFileText(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func pkcs8Text(t testing.TB, key any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return keyFileText("PRIVATE KEY", der)
}

func writeKeyFile(t *testing.T, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		t.Fatal(err)
	}
	return path
}

func TestLoadKey(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pkcs1 := keyFileText("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey))
	for name, tt := range map[string]struct {
		text string
		want crypto.PublicKey
	}{
		"PKCS #1":         {pkcs1, rsaKey.Public()},
		"PKCS #8":         {pkcs8Text(t, rsaKey), rsaKey.Public()},
		"Ed25519":         {pkcs8Text(t, edKey), edKey.Public()},
		"notes above":     {"the key of relay.example\n" + pkcs1, rsaKey.Public()},
		"CRLF":            {strings.ReplaceAll(pkcs1, "\n", "\r\n"), rsaKey.Public()},
		"a final newline": {pkcs1 + "\n\n", rsaKey.Public()},
	} {
		key, err := LoadKey(writeKeyFile(t, tt.text, 0o600))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !key.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(tt.want) {
			t.Errorf("%s: another key", name)
		}
	}
}

// What cannot be used is said, with the name of the file and without what is in it.
func TestLoadKeyRefuses(t *testing.T) {
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	good := pkcs8Text(t, small)
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(small.Public())
	if err != nil {
		t.Fatal(err)
	}
	const secret = "c2VjcmV0c2VjcmV0"
	for want, text := range map[string]string{
		"no key in PEM form":       secret,
		"there is no key":          "",
		"more than one thing":      good + good,
		"neither RSA nor Ed25519":  pkcs8Text(t, curve),
		"neither a PRIVATE KEY":    keyFileText("PUBLIC KEY", public),
		"the key is encrypted":     keyFileText("ENCRYPTED PRIVATE KEY", []byte("secretsecret")),
		"the key cannot be read":   keyFileText("PRIVATE KEY", []byte("secretsecret")),
		"too long":                 good + strings.Repeat("x", maxKeyFile),
		"of 1016 bits; from 1024 ": keyFileText("RSA PRIVATE KEY", smallRSA(t)),
	} {
		path := writeKeyFile(t, text, 0o600)
		_, err := LoadKey(path)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%v does not say %q of %s", err, want, path)
		} else if strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "secretsecret") {
			t.Errorf("%v tells the secret", err)
		}
	}
	if _, err := LoadKey(filepath.Join(t.TempDir(), "missing")); !os.IsNotExist(err) {
		t.Errorf("a missing file: %v", err)
	}
	if _, err := LoadKey(t.TempDir()); err == nil || !strings.Contains(err.Error(), "not a plain file") {
		t.Errorf("a directory: %v", err)
	}
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadKey(pipe); err == nil || !strings.Contains(err.Error(), "not a plain file") {
		t.Errorf("a pipe: %v", err)
	}
}

// smallRSA is a key that is below what signatures are believed of.
func smallRSA(t *testing.T) []byte {
	t.Helper()
	t.Setenv("GODEBUG", "rsa1024min=0")
	key, err := rsa.GenerateKey(rand.Reader, 1016)
	if err != nil {
		t.Fatal(err)
	}
	return x509.MarshalPKCS1PrivateKey(key)
}

// Only root's files may be open to a group, and none to the world.
func TestLoadKeyModes(t *testing.T) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, root := pkcs8Text(t, key), os.Geteuid() == 0
	for mode, want := range map[os.FileMode]bool{
		0o600: true, 0o400: true, 0o440: root, 0o640: root,
		0o644: false, 0o604: false, 0o660: false, 0o602: false, 0o610: false, 0o666: false,
	} {
		path := writeKeyFile(t, text, mode)
		_, err := LoadKey(path)
		if (err == nil) != want {
			t.Errorf("mode %04o: %v", mode, err)
		}
		if err != nil && !strings.Contains(err.Error(), "chmod 600 it") {
			t.Errorf("mode %04o: %v does not say what to do", mode, err)
		}
	}
	if !root {
		t.Log("not run as root: that files of root may be open to a group was not tried")
		return
	}
	path := writeKeyFile(t, text, 0o640)
	if err := os.Chown(path, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadKey(path); err == nil {
		t.Error("a file of somebody else's that a group may read was taken")
	}
}

// Whatever a file has, there is a key or an error that repeats nothing of it.
func FuzzKeyFile(f *testing.F) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(pkcs8Text(f, key)))
	f.Add([]byte("-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		key, err := parseKeyFile(text)
		if (key == nil) == (err == nil) {
			t.Fatalf("%v and %v", key, err)
		}
		if err == nil && !bytes.Contains(text, []byte("PRIVATE KEY")) {
			t.Fatal("a key out of nothing")
		}
	})
}

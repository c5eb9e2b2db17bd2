package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"go.uber.org/zap"

	"slipstream/proxy"
	"slipstream/tlsstore"
	"slipstream/tlsstore/badgerkv"
)

const (
	maxTicketSecret = 64 << 10        // octets of the file
	secretWait      = 5 * time.Second // that reading it may take
)

// A ticketSecret says what the tickets are made from, without telling it.
type ticketSecret struct {
	path string            // "": keys of our own
	sum  [sha256.Size]byte // of what was read
	read bool              // false: it could not be, and the keys are our own
}

// openTickets prepares what clients are given. A secret that cannot be used is replaced by keys of our own: clients
// that come from another machine do a full handshake then, and nothing else is lost.
func (m *memory) openTickets(conf proxy.TicketsConfig) error {
	if !conf.Enabled {
		return nil
	}
	var o tlsstore.TicketOptions
	m.secret.path = conf.SecretFile
	if conf.SecretFile != "" {
		secret, err := ticketSecretSoon(conf.SecretFile)
		if err != nil {
			m.log.Warn("the tickets' secret cannot be used: "+ownKeys, zap.NamedError("tickets.secret_file", err))
		} else {
			o.Secret, m.secret.sum, m.secret.read = secret, sha256.Sum256(secret), true
		}
	}
	var err error
	if m.Tickets, err = tlsstore.NewTickets(o); err != nil {
		return fmt.Errorf("tickets: %w", err)
	}
	m.Shy = tlsstore.NewShy(tlsstore.ShyOptions{Patterns: conf.NotFor})
	m.learn.Store(conf.Learn)
	return nil
}

const ownKeys = "tickets are sealed with keys of this process alone, so that it and the other machines do not take " +
	"each other's; mail goes on"

// reload takes over at once what it can of a new configuration, and says what else needs a restart: that the secret is
// another one, although its file has the same name. It may wait for the disk.
func (m *memory) reload(conf proxy.TicketsConfig) (restart []string) {
	if m.Tickets == nil {
		return nil
	}
	switch learn := conf.Learn; {
	case learn && !m.learn.Swap(true):
		m.load()
	case !learn && m.learn.Load():
		m.save() // what was learned until now
		m.learn.Store(false)
	}
	if !conf.Enabled || conf.SecretFile == "" {
		return nil
	}
	secret, err := ticketSecretSoon(conf.SecretFile)
	switch {
	case err != nil:
		m.log.Warn("the tickets' secret cannot be used; nothing changes until a restart, and then "+ownKeys,
			zap.NamedError("tickets.secret_file", err))
	case conf.SecretFile == m.secret.path && (!m.secret.read || m.secret.sum != sha256.Sum256(secret)):
		return []string{"tickets.secret_file (what is in it)"}
	}
	return nil
}

// ticketSecretSoon does not wait for a disk that hangs.
func ticketSecretSoon(path string, owners ...int) ([]byte, error) {
	type answer struct {
		secret []byte
		err    error
	}
	a, ok := within(secretWait, func() answer {
		secret, err := readTicketSecret(path, owners...)
		return answer{secret, err}
	}, func(answer) {})
	if !ok {
		return nil, fmt.Errorf("%s: no answer from the disk within %v", path, secretWait)
	}
	return a.secret, a.err
}

// readTicketSecret reads a secret that nobody else may read, see [badgerkv.OpenPrivate]. A file of root's may be readable
// for its group: systemd shows credentials so, and keys of certificates are often given to a service so.
func readTicketSecret(path string, owners ...int) ([]byte, error) {
	f, info, err := badgerkv.OpenPrivate(path, owners...)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a plain file; %s", path, makeSecret)
	}
	uid, known := ownerOf(info)
	if perm := info.Mode().Perm(); perm&0o077 != 0 && (perm&^0o640 != 0 || !known || uid != 0) {
		return nil, fmt.Errorf("others may read or write %s (mode %04o): chmod 600 it, "+
			"and make a new secret on all machines if they should not have read it", path, perm)
	}
	secret, err := io.ReadAll(io.LimitReader(f, maxTicketSecret+1))
	if err != nil {
		return nil, err
	}
	if n := len(secret); n < tlsstore.MinTicketSecret || n > maxTicketSecret {
		return nil, fmt.Errorf("%s must have %d to %d octets; %s",
			path, tlsstore.MinTicketSecret, maxTicketSecret, makeSecret)
	}
	return secret, nil
}

const makeSecret = `make it with "head -c 32 /dev/urandom" and copy it to all machines`

// ownerOf returns the user that a file belongs to, where the system has such.
func ownerOf(info os.FileInfo) (uid int, ok bool) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(stat.Uid), true
}

// rootAbroad tells whether we are root in a directory of somebody else, and who that is. What root makes there they
// could not read, once the service runs as it is meant to.
func rootAbroad(dir string) (owner string, abroad bool) {
	info, err := os.Stat(dir)
	if err != nil || os.Geteuid() != 0 {
		return "", false
	}
	uid, known := ownerOf(info)
	if !known || uid == 0 {
		return "", false
	}
	return badgerkv.Account(uid), true
}

// stranger tells whether a directory belongs to neither us nor root, and to whom then.
func stranger(dir string) (owner string, strange bool) {
	info, err := os.Stat(dir)
	if err != nil {
		return "", false
	}
	uid, known := ownerOf(info)
	return badgerkv.Account(uid), known && uid != 0 && uid != os.Geteuid()
}

package tlsstore

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"time"
)

const (
	ticketNameSize = 16 // octets that say which key sealed a ticket
	ticketKeySize  = 32 // AES-256

	// maxTicketKeys bounds how many keys are alive at a time, and with it how short a rotation may be beside a life.
	maxTicketKeys = 64
)

// A ticketKey seals the tickets of one span of time.
type ticketKey struct {
	name [ticketNameSize]byte
	aead cipher.AEAD // its nonces are its own: no caller can make one twice
	from time.Time   // when the span began
}

// ticketKeys are the keys that may seal or open a ticket now. They live in memory only. Nothing runs in the background:
// what time has made of them is looked at when one is asked for.
//
// A key seals for one rotation and opens for a life more, so that a ticket sealed in the last moment lives as long as
// one sealed in the first.
type ticketKeys struct {
	life, rotate time.Duration
	rand         io.Reader
	secret       []byte // what a fleet's keys are derived from; nil: random keys

	mu   sync.Mutex
	ring []*ticketKey // newest first
	step int64        // a fleet's: the rotation that the ring was made for
}

// sealing returns the key to seal with now. Without a secret it fails only as rand does.
func (k *ticketKeys) sealing(now time.Time) (*ticketKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.secret != nil {
		if err := k.derive(now); err != nil {
			return nil, err
		}
		return k.ring[1], nil // the first is the next rotation's
	}
	k.expire(now)
	if len(k.ring) > 0 && now.Sub(k.ring[0].from) < k.rotate {
		return k.ring[0], nil
	}
	material := make([]byte, ticketNameSize+ticketKeySize)
	if _, err := io.ReadFull(k.rand, material); err != nil {
		return nil, fmt.Errorf("tlsstore: making a ticket key: %w", err)
	}
	key, err := newTicketKey(material, now)
	if err != nil {
		return nil, err
	}
	k.ring = append([]*ticketKey{key}, k.ring...)
	return key, nil
}

// opening returns the key of that name, nil where there is none or its time is over.
func (k *ticketKeys) opening(name []byte, now time.Time) *ticketKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.secret == nil {
		k.expire(now)
	} else if k.derive(now) != nil {
		return nil
	}
	for _, key := range k.ring {
		if string(key.name[:]) == string(name) {
			return key
		}
	}
	return nil
}

// expire drops the random keys that may not open anything any more. One that lies more than a rotation ahead goes too:
// the clock was set back, and it would open for longer than it should.
func (k *ticketKeys) expire(now time.Time) {
	k.ring = slices.DeleteFunc(k.ring, func(key *ticketKey) bool {
		age := now.Sub(key.from)
		return age >= k.rotate+k.life || age < -k.rotate
	})
}

// derive makes the ring that a fleet's secret and the clock give: the next rotation, since whoever sealed a ticket may
// have a clock that is ahead; this one; and those that a life reaches back to.
func (k *ticketKeys) derive(now time.Time) error {
	seconds := int64(k.rotate / time.Second)
	step := now.Unix() / seconds
	if k.ring != nil && k.step == step {
		return nil
	}
	overlap := int64((k.life + k.rotate - 1) / k.rotate)
	var ring []*ticketKey
	for s := step + 1; s >= step-overlap; s-- {
		key, err := deriveTicketKey(k.secret, seconds, s)
		if err != nil {
			return err
		}
		ring = append(ring, key)
	}
	k.ring, k.step = ring, step
	return nil
}

// deriveTicketKey makes a fleet's key of one rotation, which all members number alike. Those of different releases of
// Go differ, since crypto/tls does not promise that one reads what another wrote.
func deriveTicketKey(secret []byte, seconds, step int64) (*ticketKey, error) {
	info := []byte("slipstream ticket key 1\x00" + runtime.Version() + "\x00")
	info = binary.BigEndian.AppendUint64(info, uint64(seconds))
	info = binary.BigEndian.AppendUint64(info, uint64(step))
	material, err := hkdf.Key(sha256.New, secret, nil, string(info), ticketNameSize+ticketKeySize)
	if err != nil {
		return nil, fmt.Errorf("tlsstore: deriving a ticket key: %w", err)
	}
	return newTicketKey(material, time.Unix(step*seconds, 0))
}

// newTicketKey makes a key of its material.
func newTicketKey(material []byte, from time.Time) (*ticketKey, error) {
	block, err := aes.NewCipher(material[ticketNameSize:])
	if err != nil {
		return nil, fmt.Errorf("tlsstore: ticket key: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("tlsstore: ticket key: %w", err)
	}
	key := &ticketKey{aead: aead, from: from}
	copy(key.name[:], material)
	return key, nil
}

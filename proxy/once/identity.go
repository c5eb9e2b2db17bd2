package once

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"strings"
)

// A digest stands for what it was made of.
type digest [16]byte

// An id stands for a [Key]: the message as this client sends it for this sender, and the recipient as this client and
// this sender write to it. Both together say all that a Key does.
type id struct{ message, recipient digest }

// What a digest is about, so that none is taken for one about something else.
const (
	aboutMessage   = "once message"
	aboutRecipient = "once recipient"
)

func (k Key) id() id {
	return id{
		message:   digestOf(aboutMessage, k.Client, k.Sender, string(k.Content[:])),
		recipient: recipientDigest(k.Client, k.Sender, k.Recipient),
	}
}

func recipientDigest(client netip.Addr, sender, recipient string) digest {
	return digestOf(aboutRecipient, client, sender, foldDomain(recipient))
}

func digestOf(about string, client netip.Addr, sender, last string) digest {
	b := make([]byte, 0, 256)
	b = appendText(b, about)
	b = appendText(b, string(clientName(client)))
	b = appendText(b, foldDomain(sender))
	b = appendText(b, last)
	sum := sha256.Sum256(b)
	return digest(sum[:len(digest{})])
}

// clientName makes one of all loopback addresses: who is on this machine may come from any of them.
func clientName(a netip.Addr) []byte {
	if a = a.Unmap(); a.IsLoopback() {
		return []byte("loopback")
	}
	b, _ := a.MarshalBinary() // never fails
	return b
}

// foldDomain makes one of the spellings of a mailbox that differ in the case of the domain alone. The local part is
// for its host to judge: https://www.rfc-editor.org/rfc/rfc5321#section-2.4
func foldDomain(mailbox string) string {
	at := strings.LastIndexByte(mailbox, '@')
	if at < 0 {
		return mailbox
	}
	for i := at + 1; i < len(mailbox); i++ {
		if c := mailbox[i]; 'A' <= c && c <= 'Z' {
			return mailbox[:at+1] + lowerASCII(mailbox[at+1:])
		}
	}
	return mailbox
}

// lowerASCII leaves all else as it is, be it UTF-8 or not.
func lowerASCII(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + ('a' - 'A')
		}
	}
	return string(b)
}

// appendText appends text so that what follows it cannot be taken for a part of it.
func appendText(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// Package arc is the Authenticated Received Chain of RFC 8617: it verifies the
// chain that a message came with and seals a message with a set of our own. It
// is also the home of the arithmetic that ARC shares with DKIM (RFC 6376, RFC
// 8463): header splitting, tag lists, canonicalisation, body hashes, key
// records and signatures.
//
// # Verifying
//
// [NewVerifier] takes the header of a message and asks for every key at once;
// [Verifier.Write] takes the body as it arrives; [Verifier.Close] says what the
// chain is worth:
//
//  1. no ARC field at all: none
//  2. the newest seal says cv=fail: fail, and nothing else is looked at
//  3. fifty sets at most; each of one ARC-Authentication-Results, one
//     ARC-Message-Signature and one ARC-Seal; instances 1 to N without a gap;
//     cv=none on the first seal and cv=pass on all others
//  4. the newest message signature verifies
//  5. every seal verifies
//  6. the older message signatures are tried, newest first, to learn the
//     oldest that still verifies; this decides nothing
//
// Whatever goes wrong, a missing or late key included, is fail: ARC knows no
// temporary error (https://www.rfc-editor.org/rfc/rfc8617#section-5.2.1). And
// fail means no more than none: the message is judged as if it had no chain.
//
// # Sealing
//
// [Sealer.Seal] makes the three fields of the next set. It seals a broken chain
// with cv=fail once, and never above that.
//
// # Bounds
//
// Everything here reads what strangers wrote. Each bound is a constant with its
// reason, in limits.go. The work for a chain grows with the size of its header,
// not with its square: the seals share one running hash.
package arc

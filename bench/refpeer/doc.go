// Package refpeer is the other side of every test: an SMTP and LMTP server that
// can be told to misbehave, a client that speaks in the styles of old and new
// senders, and a pair of both for throughput.
//
// It shares no code with what it judges. It reads the wire on its own, octet by
// octet, writes down what came, and calls by name what a peer may not do: see
// Server.Violations.
//
// Everything works over a real network and over bench/netsim, in virtual time
// too: time comes from package time alone, and nobody polls.
package refpeer

// Package smtpwire is SMTP without sockets: the grammar of commands and
// replies, the set of extensions that a server offers, and the order in which
// commands may be sent and taken. It knows no TLS, no DNS, no clock and no
// policy, and it imports the standard library alone, so that everything in it
// can be tested with tables and fuzzed.
//
// # Values
//
// A [Command] is one line of a client, a [Reply] is what a server said to it,
// and an [EHLO] is what a server offers. All three are plain values. Parsing
// copies what it keeps, so the buffer of a caller may be used again at once.
//
// A refusal is a value, a failure is an error: a line that cannot be accepted
// comes back as a Command whose Refused field is the answer to give. Only a
// broken conversation is an error.
//
// # Order
//
// [Pipeline] is the sending half: it tells which commands may already be on
// the wire and which reply answers which of them. [Sequence] is the receiving
// half: it tells whether a command is in order.
//
// # Octets
//
// [Reader] takes flights of commands, replies and message text from one
// io.Reader; [DotWriter] writes message text for DATA.
//
// # Extensions
//
// [Extensions] is the one table that says how far each extension reaches.
// [Offer] composes from it what a door advertises, [Licensed] holds a client to
// what was advertised, and [Adapt] fits a command to the hop that it goes to.
//
// # Strictness
//
// The parsers follow RFC 5321 to the letter, since whatever one server
// tolerates and the next one reads differently is a way to smuggle. They bend
// only where a command is written anew in its regular form before it goes on:
// trailing white space, several spaces for one, a space behind "FROM:" and
// "TO:", upper and lower case, and source routes, which are dropped.
package smtpwire

// Package netsim is a network for tests: connections with a delay and a
// bandwidth, in virtual time inside a testing/synctest bubble and in real time
// outside of one.
//
// It imitates what decides how long an SMTP conversation takes and how it ends,
// as seen through the sockets of Linux, and nothing below that:
//
//   - A connection is opened by a handshake. If the SYN leaves at 0 and the one
//     way delay is d, Dial returns at 2d, Accept at 3d, and a greeting written
//     at once is readable by the dialer at 4d, two round trips after the SYN.
//   - Each Write is one segment with its own time of arrival, however long it
//     is. It is cut only where the peer's window is full.
//   - The window opens again one delay after the peer has read.
//   - A half-close travels behind the data. Whatever reaches an end that was
//     closed, and an end that is closed before all that arrived was read, is
//     answered with a reset: https://www.rfc-editor.org/rfc/rfc1122#section-4.2.2.13
//   - What arrives is acknowledged at once, and Acked tells of it one delay later.
//   - Who dials with FastDialer has the first data ride in the SYN where that was
//     agreed on before.
//
// There is no loss but that of Blackhole, no jitter and no slow start.
//
// The package starts no goroutine and no lasting timer. Whoever waits does so on
// a channel or a timer of its own, never while a lock is held, so that a bubble
// knows it as durably blocked. A Network, and everything made from it, belongs
// to the bubble in which it is used.
package netsim

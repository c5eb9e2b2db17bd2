// Package wan is a wide-area link inside one machine: two network namespaces, each with a TUN device, and between the
// devices a carrier that delivers every packet after a delay. What runs in the two namespaces speaks with the kernel's
// own TCP, with its slow start, delayed acknowledgements and Fast Open, over a link of which everything is known.
//
// The [Link] sees every packet. It keeps the TCP segments for package meter, with the moments at which they entered and
// left, and can write all packets to a capture file.
//
// # The link
//
// A packet that enters waits for its turn at the rate, if there is one, and then for the delay. A packet that is lost
// has used the rate. Nothing overtakes: where jitter would have a packet arrive before an earlier one of the same
// direction, it arrives right behind it. The delay is kept to well under a millisecond by a thread that does nothing
// else, provided that the machine gives it a processor; [Stats] tells how late it was at worst.
//
// # The two sides
//
// Each side is a network of its own: its loopback, its addresses (198.18.0.1 and 198.18.0.2 of the range for
// benchmarks, https://www.rfc-editor.org/rfc/rfc2544#appendix-C.2.2, and 2001:2::1 and 2001:2::2,
// https://www.rfc-editor.org/rfc/rfc5180#section-8), its ports and its TCP settings. Nothing of it can be reached from
// the rest of the machine, nor the reverse. [Side.Listen] and [Side.Dial] make sockets there, which the program may use
// from any goroutine; [Side.Do] starts processes there. No device speaks by itself: there are no router solicitations,
// multicast memberships or address checks on the link.
//
// # What remains
//
// Nothing has a name outside of the program and nothing is persistent, so that nothing remains when the program ends,
// however it ends. Processes that were started in a namespace and connections that are open hold on to the namespace,
// but not to the device: with Close the link is dead.
//
// # Where it works
//
// On Linux, as root or with CAP_SYS_ADMIN and CAP_NET_ADMIN, with /dev/net/tun. Elsewhere Open returns an error that
// wraps [ErrUnavailable] and says what is missing.
package wan

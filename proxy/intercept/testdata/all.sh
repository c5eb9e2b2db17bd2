#!/bin/sh
# What is ours.
#
set -e

# What is of no use any more.
while ip -4 rule del pref 2526 lookup 2525 2>/dev/null; do :; done
while ip -6 rule del pref 2526 lookup 2525 2>/dev/null; do :; done

# Packets that are for our sockets though their address is another machine's stay here.
ip -4 route replace local default dev lo table 2525
[ -n "$(ip -4 rule show pref 2525 lookup 2525)" ] || ip -4 rule add pref 2525 fwmark 0x736c lookup 2525
ip -6 route replace local default dev lo table 2525
[ -n "$(ip -6 rule show pref 2525 lookup 2525)" ] || ip -6 rule add pref 2525 fwmark 0x736c lookup 2525

# The rules, all in one moment instead of those that were there.
nft -f - <<'END'
add table inet slipstream
delete table inet slipstream
table inet slipstream {
	# which rules these are
	chain plan-097e6893da094974 {
	}

	chain outbound-redirect {
		type nat hook output priority -100; policy accept;
		# what Slipstream sends itself (user slipstream)
		meta skuid 901 return
		# what stays on this machine
		oifname "lo" return
		# door outbound
		meta nfproto ipv4 tcp dport 25 redirect to :10526
		# door outbound
		meta nfproto ipv6 tcp dport 25 redirect to :10526
	}

	chain outbound-tproxy {
		type filter hook prerouting priority mangle; policy accept;
		# what this machine sends to itself, or is for this machine
		iifname "lo" return
		fib daddr type local return
		# door inbound is for this
		ip daddr 10.0.0.5 tcp dport 25 return
		# door outbound
		ip saddr { 10.0.0.0/24, 10.1.0.0/16 } tcp dport 25 tproxy ip to 127.0.0.1:10526 meta mark set 0x736c accept
		ip saddr { 10.0.0.0/24, 10.1.0.0/16 } tcp dport 25 meta mark set 0x736d accept
		# door outbound
		ip6 saddr fd00:1::/64 tcp dport 25 tproxy ip6 to [::1]:10526 meta mark set 0x736c accept
		ip6 saddr fd00:1::/64 tcp dport 25 meta mark set 0x736d accept
	}

	chain outbound-unheard {
		type filter hook forward priority filter; policy accept;
		# nobody listens at the door: it is not sent on in clear
		meta mark 0x736d meta l4proto tcp reject with tcp reset
	}

	chain inbound-front {
		type filter hook prerouting priority mangle; policy accept;
		# what this machine sends to itself: the MTA's own mail, and what Slipstream passes on to it
		iifname "lo" return
		# door inbound
		meta nfproto ipv4 fib daddr type local tcp dport 25 tproxy ip to 127.0.0.1:2525 meta mark set 0x736c accept
		# door inbound
		meta nfproto ipv6 fib daddr type local tcp dport 25 tproxy ip6 to [::1]:2525 meta mark set 0x736c accept
		# door inbound
		meta nfproto ipv4 fib daddr type local tcp dport 465 tproxy ip to :4465 meta mark set 0x736c accept
		# door inbound
		meta nfproto ipv6 fib daddr type local tcp dport 465 tproxy ip6 to :4465 meta mark set 0x736c accept
		# door inbound
		meta nfproto ipv4 fib daddr type local tcp dport 25 tproxy ip to 127.0.0.1:2525 meta mark set 0x736c accept
		ip daddr 10.0.0.5 tcp dport 25 tproxy ip to 127.0.0.1:2525 meta mark set 0x736c accept
		# door inbound has no address of IPv6 in listen: connections over that pass by
	}

	chain inbound-answers {
		type filter hook prerouting priority mangle; policy accept;
		# door inbound
		ip saddr 10.0.0.5 tcp sport 25 socket transparent 1 meta mark set 0x736c accept
	}

	chain inbound-answers-here {
		type route hook output priority mangle; policy accept;
		# door inbound
		meta skuid 901 ip daddr 10.0.0.5 tcp dport 25 fib saddr type != local ct mark set 0x736c
		ct mark 0x736c ct direction reply meta mark set 0x736c
	}
}
END

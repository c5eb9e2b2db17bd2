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
	chain plan-128d2787d8670bcc {
	}

	chain inbound-front {
		type filter hook prerouting priority mangle; policy accept;
		# what this machine sends to itself: the MTA's own mail, and what Slipstream passes on to it
		iifname "lo" return
		# door inbound
		meta nfproto ipv4 fib daddr type local tcp dport 25 tproxy ip to 127.0.0.1:2525 meta mark set 0x736c accept
		ip daddr 10.0.0.5 tcp dport 25 tproxy ip to 127.0.0.1:2525 meta mark set 0x736c accept
		# door inbound has no address of IPv6 in listen: connections over that pass by
	}

	chain inbound-answers {
		type filter hook prerouting priority mangle; policy accept;
		# door inbound
		ip saddr 10.0.0.5 tcp sport 25 socket transparent 1 meta mark set 0x736c accept
		# door named
		tcp sport 2525 socket transparent 1 meta mark set 0x736c accept
	}

	chain inbound-answers-here {
		type route hook output priority mangle; policy accept;
		# door inbound
		meta skuid 901 ip daddr 10.0.0.5 tcp dport 25 fib saddr type != local ct mark set 0x736c
		# door named
		meta skuid 901 tcp dport 2525 fib saddr type != local ct mark set 0x736c
		ct mark 0x736c ct direction reply meta mark set 0x736c
	}
}
END

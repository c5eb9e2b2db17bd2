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
	chain plan-b071e2f9a7198791 {
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
	}
}
END

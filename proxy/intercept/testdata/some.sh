#!/bin/sh
# What is ours.
#
set -e

# What is of no use any more.
while ip -4 rule del pref 2526 lookup 2525 2>/dev/null; do :; done
while ip -4 rule del pref 2525 lookup 2525 2>/dev/null; do :; done
while ip -4 route del local default dev lo table 2525 2>/dev/null; do :; done
while ip -6 rule del pref 2526 lookup 2525 2>/dev/null; do :; done
while ip -6 rule del pref 2525 lookup 2525 2>/dev/null; do :; done
while ip -6 route del local default dev lo table 2525 2>/dev/null; do :; done

# The rules, all in one moment instead of those that were there.
nft -f - <<'END'
add table inet slipstream
delete table inet slipstream
table inet slipstream {
	# which rules these are
	chain plan-f968ae6bbe2798d8 {
	}

	chain outbound-redirect {
		type nat hook output priority -100; policy accept;
		# what Slipstream sends itself (user slipstream)
		meta skuid 901 return
		# what stays on this machine
		oifname "lo" return
		# door some
		ip daddr { 192.0.2.0/24, 198.51.100.0/24 } tcp dport 2525 dnat ip to 127.0.0.2:10527
		# door some has no address of IPv6 in listen: connections over that pass by
		# door outbound
		meta nfproto ipv4 tcp dport 25 redirect to :10526
		# door outbound
		meta nfproto ipv6 tcp dport 25 redirect to :10526
	}
}
END

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
	chain plan-e87193fb0571c7c2 {
	}

	chain outbound-tproxy {
		type filter hook prerouting priority mangle; policy accept;
		# what this machine sends to itself, or is for this machine
		iifname "lo" return
		fib daddr type local return
		# door outbound
		ip saddr { 10.0.0.0/24, 10.1.0.0/16 } tcp dport 25 tproxy ip to 127.0.0.1:10526 meta mark set 0x736c accept
		ip saddr { 10.0.0.0/24, 10.1.0.0/16 } tcp dport 25 meta mark set 0x736d accept
		# door outbound
		ip6 saddr fd00:1::/64 tcp dport 25 tproxy ip6 to [::1]:10526 meta mark set 0x736c accept
		ip6 saddr fd00:1::/64 tcp dport 25 meta mark set 0x736d accept
		# door wild
		ip saddr 10.0.0.7/32 ip daddr 203.0.113.7/32 tcp dport 25 tproxy ip to :10528 meta mark set 0x736c accept
		ip saddr 10.0.0.7/32 ip daddr 203.0.113.7/32 tcp dport 25 meta mark set 0x736d accept
	}

	chain outbound-unheard {
		type filter hook forward priority filter; policy accept;
		# nobody listens at the door: it is not sent on in clear
		meta mark 0x736d meta l4proto tcp reject with tcp reset
	}
}
END

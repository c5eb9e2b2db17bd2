#!/bin/sh
# What is ours.
#
set -e

# What is of no use any more.
while ip -4 rule del pref 2526 lookup 2525 2>/dev/null; do :; done
while ip -4 rule del pref 2525 lookup 2525 2>/dev/null; do :; done
while ip -6 rule del pref 2526 lookup 2525 2>/dev/null; do :; done
while ip -6 rule del pref 2525 lookup 2525 2>/dev/null; do :; done

# Packets that are for our sockets though their address is another machine's stay here.
ip -4 route replace local default dev lo table 2525

# What the backend of door inbound answers to the world's addresses comes back to us.
ip -4 rule add pref 2526 from 127.0.0.1 iif lo ipproto tcp sport 10025 lookup 2525
ip -6 route replace local default dev lo table 2525

# What the backend of door inbound answers to the world's addresses comes back to us.
ip -6 rule add pref 2526 from ::1 iif lo ipproto tcp sport 10025 lookup 2525

# The rules, all in one moment instead of those that were there.
nft -f - <<'END'
add table inet slipstream
delete table inet slipstream
table inet slipstream {
	# which rules these are
	chain plan-6901e7a43a48471c {
	}
}
END

package mta

import (
	"cmp"
	"fmt"
	"strings"
)

// smtpdInit runs the daemon until it ends or standard input does.
const smtpdInit = `exec 3<&0 </dev/null
mkdir -p /var/spool/smtpd && chmod 711 /var/spool/smtpd && rm /var/lib/opensmtpd/empty/.keep
chgrp opensmtpq /usr/sbin/smtpctl && chmod 2755 /usr/sbin/smtpctl
/usr/sbin/smtpd -d 3<&- >` + inside + `/log/mail 2>&1 &
daemon=$!
(cat <&3 >/dev/null; kill -TERM $daemon) &
wait $daemon
`

// smtpdConf has mail for the local domains delivered into one maildir, and all other sent to where Via says, if anywhere.
func smtpdConf(c Config) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	host, port, _ := splitHostPort(c.Listen)
	line("smtp max-message-size %d", c.MaxSize)
	proxied := ""
	if len(c.Proxy) > 0 {
		proxied = " proxy-v2"
	}
	line("listen on %s port %d hostname %s%s", host, port, c.Hostname, proxied)
	line("action \"deliver\" maildir %q virtual { \"@\" = vmail }", inside+"/mail")
	for _, domain := range c.Local {
		line("match from any for domain %q action \"deliver\"", domain)
	}
	if c.Via != "" {
		host, port, _ := splitHostPort(c.Via)
		scheme := "smtp+notls"
		if c.LMTP {
			scheme = "lmtp"
		}
		line("action \"send\" relay host \"%s://%s:%d\"", scheme, cmp.Or(c.Hosts[host], host), port)
		from := "any"
		if len(c.RelayFrom) > 0 {
			from = "src { " + strings.Join(c.RelayFrom, ", ") + " }"
		}
		line("match from %s for any action \"send\"", from)
	} else if c.DNS != "" {
		line("action \"send\" relay\nmatch from any for any action \"send\"")
	}
	return b.String()
}

package mta

import (
	"fmt"
	"strings"
)

// smtpdInit runs the daemon until it ends or standard input does.
const smtpdInit = `exec 3<&0 </dev/null
mkdir -p /var/spool/smtpd && chmod 711 /var/spool/smtpd && rm /var/lib/opensmtpd/empty/.keep
/usr/sbin/smtpd -d 3<&- >` + inside + `/log/mail 2>&1 &
daemon=$!
(cat <&3 >/dev/null; kill -TERM $daemon) &
wait $daemon
`

// smtpdConf has mail for the local domains delivered into one maildir.
func smtpdConf(c Config) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	host, port, _ := splitHostPort(c.Listen)
	line("smtp max-message-size %d", c.MaxSize)
	line("listen on %s port %d hostname %s", host, port, c.Hostname)
	line("action \"deliver\" maildir %q virtual { \"@\" = vmail }", inside+"/mail")
	for _, domain := range c.Local {
		line("match from any for domain %q action \"deliver\"", domain)
	}
	return b.String()
}

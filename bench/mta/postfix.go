package mta

import (
	"fmt"
	"strings"
)

// postfixInit runs the master until it ends or standard input does. It does not go through postfix(1), which would
// check a whole installation first.
const postfixInit = `exec 3<&0 </dev/null
/usr/lib/postfix/sbin/master -s 3<&- &
master=$!
(cat <&3 >/dev/null; kill -TERM $master) &
wait $master
`

func mainCf(c Config) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }

	line("compatibility_level = 3.6")
	line("queue_directory = %s/spool\ndata_directory = %s/lib", inside, inside)
	line("maillog_file = %s/log/mail\nmaillog_file_prefixes = %s", inside, inside)
	line("myhostname = %s\nmyorigin = %s\nmydestination =\nalias_maps =\nalias_database =\nlocal_recipient_maps =",
		c.Hostname, c.Local[0])
	line("mynetworks = %s", strings.Join(c.RelayFrom, ", "))
	line("message_size_limit = %d\nmailbox_size_limit = 0\nvirtual_mailbox_limit = 0", c.MaxSize)

	line("virtual_mailbox_domains = %s", strings.Join(c.Local, ", "))
	line("virtual_mailbox_base = %s\nvirtual_mailbox_maps = static:mail/", inside)
	line("virtual_minimum_uid = 1\nvirtual_uid_maps = static:%d\nvirtual_gid_maps = static:%d", uidVmail, uidVmail)

	line("smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination")
	line("smtpd_recipient_restrictions = check_recipient_access texthash:/etc/postfix/refusals")
	line("smtpd_peername_lookup = no\nsmtpd_client_connection_count_limit = 0")
	line("smtpd_authorized_xclient_hosts = %s", strings.Join(c.XCLIENT, ", "))
	line("smtpd_discard_ehlo_keywords = %s", strings.Join(postfixDiscards(c), ", "))
	if !c.offers("SMTPUTF8") {
		line("smtputf8_enable = no")
	}
	if len(c.Cert) > 0 {
		line("smtpd_tls_cert_file = %s/tls/cert.pem\nsmtpd_tls_key_file = %s/tls/key.pem", inside, inside)
		line("smtpd_tls_security_level = may\nsmtpd_tls_loglevel = 1\nsmtpd_tls_received_header = yes")
	}

	if c.Postscreen != "" { // who has passed is looked at again
		line("postscreen_greet_action = %s\npostscreen_greet_wait = 1s\npostscreen_greet_ttl = 1s", c.Postscreen)
	}

	// With a back-off of one second the next run of the queue, which takes what is due within a second, may come while the
	// delivery agent still holds the message, and the queue manager then lets it lie for a minute.
	line("queue_run_delay = 1s\nminimal_backoff_time = 2s\nmaximal_backoff_time = 3s\nbounce_queue_lifetime = 1d")
	line("smtp_tls_loglevel = 1\nlmtp_tls_loglevel = 1")
	if c.Via != "" {
		host, port, _ := splitHostPort(c.Via)
		line("smtp_host_lookup = native\nlmtp_host_lookup = native")
		service := "smtp"
		if c.LMTP {
			service = "lmtp:inet"
		}
		line("default_transport = %s:[%s]:%d", service, host, port)
	}
	for _, extra := range c.Extra {
		line("%s", extra)
	}
	return b.String()
}

// postfixDiscards are the unwanted keywords that Postfix would offer.
func postfixDiscards(c Config) []string {
	var list []string
	for _, keyword := range []string{"PIPELINING", "CHUNKING", "8BITMIME", "SMTPUTF8", "DSN"} {
		if !c.offers(keyword) {
			list = append(list, keyword)
		}
	}
	return list
}

// masterCf lists the services, none of them in a chroot of its own.
func masterCf(c Config) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }

	if c.Postscreen == "" {
		line("%s inet n - n - 200 smtpd", c.Listen)
	} else {
		line("%s inet n - n - 1 postscreen\nsmtpd pass - - n - 200 smtpd\ndnsblog unix - - n - 0 dnsblog\ntlsproxy unix - - n - 0 tlsproxy",
			c.Listen)
	}
	if len(c.Proxy) > 0 {
		line("  -o smtpd_upstream_proxy_protocol=haproxy")
	}
	if c.ImplicitTLS {
		line("  -o smtpd_tls_wrappermode=yes")
	}
	b.WriteString(`pickup    unix  n - n 60 1 pickup
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
tlsmgr    unix  - - n 1000? 1 tlsmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
verify    unix  - - n - 1 verify
flush     unix  n - n 1000? 0 flush
proxymap  unix  - - n - - proxymap
showq     unix  n - n - - showq
error     unix  - - n - - error
retry     unix  - - n - - error
discard   unix  - - n - - discard
virtual   unix  - n n - - virtual
anvil     unix  - - n - 1 anvil
scache    unix  - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
relay     unix  - - n - - smtp
`)
	for _, client := range []string{"smtp", "lmtp"} {
		line("%s unix - - n - 100 %s", client, client)
		for _, option := range postfixClient(c, client) {
			name, value, _ := strings.Cut(option, "=")
			line("  -o { %s = %s }", strings.TrimSpace(name), strings.TrimSpace(value))
		}
	}
	return b.String()
}

// postfixClient are the options of the sending half, client being "smtp" or "lmtp".
func postfixClient(c Config, client string) []string {
	level := map[TLSPolicy]string{TLSNone: "none", TLSMay: "may", TLSEncrypt: "encrypt", TLSVerify: "secure"}
	options := []string{client + "_tls_security_level = " + level[c.ClientTLS]}
	if c.ClientTLS == TLSVerify {
		options = append(options, client+"_tls_CAfile = "+inside+"/tls/ca.pem",
			client+"_tls_secure_cert_match = hostname")
	}
	if client == "smtp" && c.Via == "" {
		options = append(options, fmt.Sprintf("smtp_tcp_port = %d", c.MXPort))
	}
	return append(options, c.ExtraClient...)
}

// refusalTable is an access(5) table: "local@" matches at every domain.
func refusalTable(c Config) string {
	var b strings.Builder
	for _, r := range c.Refusals {
		fmt.Fprintf(&b, "%s@ %s\n", r.Local, r.Reply)
	}
	return b.String()
}

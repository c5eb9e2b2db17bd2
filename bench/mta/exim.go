package mta

import (
	"fmt"
	"strings"
)

// eximInit runs the daemon until it ends or standard input does.
const eximInit = `exec 3<&0 </dev/null
/usr/sbin/exim4 -bdf -q1s 3<&- &
daemon=$!
(cat <&3 >/dev/null; kill -TERM $daemon) &
wait $daemon
`

// eximConf is the whole configuration: it replaces Debian's, since the compiled-in path is the one that keeps Exim's
// privileges.
func eximConf(c Config) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	host, port, _ := splitHostPort(c.Listen)

	line("primary_hostname = %s", c.Hostname)
	line("qualify_domain = %s", c.Local[0])
	line("domainlist local_domains = %s", eximList(c.Local))
	line("hostlist relay_from = %s", eximList(c.RelayFrom))
	line("local_interfaces = <; [%s]:%d", host, port)
	line("spool_directory = %s/spool\nlog_file_path = %s/log/%%slog", inside, inside)
	line("log_selector = +incoming_port +outgoing_port +pipelining +received_recipients +received_sender +proxy " +
		"+smtp_confirmation +smtp_connection +smtp_protocol_error +smtp_syntax_error +tls_cipher +tls_resumption " +
		"+tls_certificate_verified +deliver_time +dnssec +millisec")
	line("message_size_limit = %d", c.MaxSize)
	line("host_lookup =\nrfc1413_query_timeout = 0s\nlocal_from_check = false\nuntrusted_set_sender = *")
	line("notifier_socket =") // an abstract name: all instances of a network namespace would share it
	line("daemon_startup_retries = 0\nsmtp_connect_backlog = 512\nkeep_environment =")
	line("never_users =\nsmtp_accept_max = 0\nsmtp_accept_queue_per_connection = 0\nqueue_run_max = 20")
	line("retry_interval_max = 10s\nremote_max_parallel = 10")
	eximOffers(line, c)
	if len(c.Cert) > 0 {
		line("tls_certificate = %s/tls/cert.pem\ntls_privatekey = %s/tls/key.pem", inside, inside)
	} else {
		// Without a name here the daemon begins its life by making an RSA key, for seconds, although it will offer no TLS;
		// a name with a variable in it is looked at only when TLS starts.
		line("tls_certificate = $spool_directory/none")
	}
	if c.ImplicitTLS {
		line("tls_on_connect_ports = %d", port)
	}
	if len(c.Proxy) > 0 {
		line("hosts_proxy = %s", eximList(c.Proxy))
	}
	line("acl_smtp_rcpt = rcpt\nacl_smtp_data = accept\nacl_smtp_vrfy = accept")
	for _, extra := range c.Extra {
		line("%s", extra)
	}
	eximRecipients(line, c)
	eximDelivery(line, c)
	line("begin retry\n* * F,1d,1s")
	return b.String()
}

// eximOffers sets what EHLO offers.
func eximOffers(line func(string, ...any), c Config) {
	everybody := func(keyword string) string {
		if c.offers(keyword) {
			return "*"
		}
		return ""
	}
	line("pipelining_advertise_hosts = %s", everybody("PIPELINING"))
	line("pipelining_connect_advertise_hosts = %s", everybody("PIPECONNECT"))
	line("chunking_advertise_hosts = %s", everybody("CHUNKING"))
	line("smtputf8_advertise_hosts = %s", everybody("SMTPUTF8"))
	line("dsn_advertise_hosts = %s", everybody("DSN"))
	line("accept_8bitmime = %t", c.offers("8BITMIME"))
	if len(c.Cert) > 0 && !c.ImplicitTLS {
		line("tls_advertise_hosts = *")
	} else {
		line("tls_advertise_hosts =")
	}
}

// eximRecipients is the rule for RCPT.
func eximRecipients(line func(string, ...any), c Config) {
	line("begin acl\nrcpt:")
	for _, r := range c.Refusals {
		verb := "deny"
		if r.Reply[0] == '4' {
			verb = "defer"
		}
		line("  %s local_parts = %s\n       message = %s", verb, r.Local, r.Reply)
	}
	line("  accept domains = +local_domains")
	line("  accept hosts = +relay_from")
	line("  deny message = 550 5.7.1 relaying denied")
}

// eximDelivery are routers and transports: maildir for local domains, Via or the MX for all others. A delivered file
// begins with the two lines that Postfix's virtual(8) would write.
func eximDelivery(line func(string, ...any), c Config) {
	line("begin routers\nlocal:\n  driver = accept\n  domains = +local_domains\n  transport = maildir")
	if c.Via == "" {
		line("remote:\n  driver = dnslookup\n  self = send\n  transport = remote")
	} else {
		line("remote:\n  driver = accept\n  transport = remote")
	}
	line("begin transports\nmaildir:\n  driver = appendfile\n  directory = %s/mail\n  maildir_format", inside)
	line("  message_prefix = Return-Path: <$sender_address>\\nDelivered-To: $local_part@$domain\\n")
	line("  user = vmail\n  group = vmail")
	line("remote:\n  driver = smtp\n  allow_localhost")
	if c.Via != "" {
		host, port, _ := splitHostPort(c.Via)
		line("  hosts = <; %s\n  hosts_override\n  gethostbyname\n  port = %d", host, port)
	} else {
		line("  port = %d", c.MXPort)
	}
	if c.LMTP {
		line("  protocol = lmtp")
	}
	if c.PipeConnect {
		line("  hosts_pipe_connect = *")
	}
	switch c.ClientTLS {
	case TLSNone:
		line("  hosts_avoid_tls = *")
	case TLSEncrypt:
		line("  hosts_require_tls = *")
	case TLSVerify:
		line("  hosts_require_tls = *\n  tls_verify_hosts = *\n  tls_verify_cert_hostnames = *")
	}
	// Without roots nothing is verified, and reading the machine's many takes the daemon a third of a second.
	roots := ""
	if c.ClientTLS == TLSVerify {
		roots = inside + "/tls/ca.pem"
	}
	line("  tls_verify_certificates = %s", roots)
	for _, extra := range c.ExtraClient {
		line("  %s", extra)
	}
}

// eximList writes a list with a separator that addresses do not contain.
func eximList(items []string) string { return "<; " + strings.Join(items, "; ") }

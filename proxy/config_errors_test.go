package proxy

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The files of testdata/config/broken are wrong in many ways at once. What is
// said about each stands in a file beside it, to be read as its user would.
func TestConfigErrorsTogether(t *testing.T) {
	files, err := filepath.Glob("testdata/config/broken/*.toml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files (%v)", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = parseConfig(filepath.Base(file), ".", data, func() (string, error) { return "mail", nil })
			if err == nil {
				t.Fatal("no error")
			}
			golden := strings.TrimSuffix(file, ".toml") + ".want"
			if *updateConfig {
				if err := os.WriteFile(golden, []byte(err.Error()+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, gerr := os.ReadFile(golden)
			if gerr != nil {
				t.Fatal(gerr)
			}
			if diff := cmp.Diff(string(want), err.Error()+"\n"); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// One thing wrong each: nothing else may be said.
func TestConfigErrors(t *testing.T) {
	const in, out = "[[inbound]]\n", "[[outbound]]\n"
	for _, tt := range []struct{ name, data, want string }{
		{"nothing", "", "1:1: no door; add [[inbound]] or [[outbound]]"},
		{"later key", in + "pipeconnect = true", "2:1: inbound[0].pipeconnect: unknown key"},
		{"unknown table", in + "[inbound.cache]\nenabled = true", "2:10: inbound[0].cache: unknown key"},
		{"unknown key of a table", in + "[inbound.auth]\nspf = true", "3:1: inbound[0].auth.spf: unknown key"},
		{"enforcement", in + "auth.enforce = \"maybe\"", `2:16: inbound[0].auth.enforce: "maybe" is not known; allowed: "none", "quarantine", "reject"`},
		{"authserv-id", in + "auth.authserv_id = \"a b\"", `2:20: inbound[0].auth.authserv_id: "a b": authserv-id: it must be a domain name`},
		{"deadline", in + "auth.deadline = \"2m\"", `2:17: inbound[0].auth.deadline: 2m0s is too large; allowed: at most 1m`},
		{"list without a use", in + "auth.dmarc_tld_file = \"a\"", `2:23: inbound[0].auth.dmarc_tld_file: has no use with discovery = "treewalk"`},
		{"half a seal", in + "auth.arc_domain = \"a.b\"\nauth.arc_selector = \"s\"", `3:21: inbound[0].auth.arc_selector: is set without arc_key_file`},
		{"seal of no domain", in + "auth = {arc_domain = \"a b\", arc_selector = \"s\", arc_key_file = \"k\"}", `2:22: inbound[0].auth.arc_domain: "a b" is not a domain`},
		{"sealers as a pattern", in + "auth.trusted_sealers = [\"*.example\"]", `2:25: inbound[0].auth.trusted_sealers[0]: "*.example" is not a domain`},
		{"exempt address", in + "auth.exempt_domains = [\"a@b.example\"]", `2:24: inbound[0].auth.exempt_domains[0]: "a@b.example" is not a domain`},
		{"forensic sender", in + "auth.dmarc_forensic_sender = \"x\"", `2:30: inbound[0].auth.dmarc_forensic_sender: "x" is not an address`},
		{"reporter", "reports.email = \"x\"\n" + in, `1:17: reports.email: "x" is not an address`},
		{"reports by LMTP", "reports.relay = \"lmtp://a:24\"\n" + in, `1:17: reports.relay:`},
		{"unknown section", "[cache]\na = 1\nb = 2\n" + in, "1:2: cache: unknown key"},
		{"key of another case", "Hostname = \"a.b\"\n" + in, "1:1: Hostname: unknown key"},
		{"table of a table", "[log.x]\n" + in, "1:6: log.x: unknown key"},
		{"table of a key", "[hostname]\n" + in, "1:2: hostname: is a key, not a table; write hostname = …"},
		{"key below a key", "hostname.x = 1\n" + in, "1:1: hostname: is not a table"},
		{"subtable of no door", "[inbound.auth]\n" + out, "1:2: inbound: is a list of tables that has none yet"},
		{"single brackets", "[inbound]\n", "1:2: inbound: is a list of tables; write [[inbound]]"},
		{"double brackets", "[[log]]\n" + in, "1:3: log: is one table, not a list of them; write [log]"},
		{"table as value", "log = 3\n" + in, "1:7: log: is a whole number; allowed: a table"},
		{"doors as value", "inbound = 3\n", "1:11: inbound: is a whole number; allowed: a list of tables"},
		{"door as value", "inbound = [3]\n", "1:12: inbound[0]: is a whole number; allowed: a table"},
		{"inline table", "log = {level = \"all\"}\n" + in, `1:16: log.level: "all" is not known; allowed: "debug", "info", "warn", "error"`},
		{"twice", "state_dir = \"a\"\nstate_dir = \"b\"\n" + in, "2:13: state_dir: is set twice; the first is on line 1"},
		{"table twice", "[log]\n[log]\n" + in, "2:2: log: is set twice; the first is on line 1"},
		{"inline and header", "log = {}\n[log]\n" + in, "2:2: log: is set twice; the first is on line 1"},
		{"dotted and header", "log.level = \"info\"\n[log]\nformat = \"json\"\n" + in, "2:2: log: syntax: "},
		{"leading zero", "[limits]\nmax_recipients = 017\n" + in, "2:18: syntax: integers cannot"},

		{"hostname", "hostname = \"a_b.example\"\n" + in, `1:12: hostname: "a_b.example" is not a host name`},
		{"hostname an address", "hostname = \"192.0.2.1\"\n" + in, `1:12: hostname: "192.0.2.1" is not a host name`},
		{"hostname with a final dot", "hostname = \"mx.example.\"\n" + in, `1:12: hostname: "mx.example." is not a host name`},
		{"hostname not ASCII", "hostname = \"müller.example\"\n" + in, `1:12: hostname: "müller.example" is not a host name`},
		{"hostname without a dot", "hostname = \"mail\"\n" + out, `1:12: hostname: "mail" has no dot`},
		{"control character", "state_dir = \"a\\nb\"\n" + in, `1:13: state_dir: "a\nb" has a control character`},

		{"admin for all", "admin.listen = \":9625\"\n" + in, `1:16: admin.listen: ":9625" can be reached from other machines`},
		{"admin by name", "admin.listen = \"localhost:9625\"\n" + in, `1:16: admin.listen: "localhost:9625" has a host that is not an IP address`},
		{"admin without a path", "admin.listen = \"unix:\"\n" + in, `1:16: admin.listen: "" is not the path of a socket`},
		{"admin with a long path", "admin.listen = \"unix:/" + strings.Repeat("x", 107) + "\"\n" + in, `1:16: admin.listen: "/xxx`},
		{"server by name", "dns.servers = [\"::1\", \"localhost\"]\n" + in, `1:23: dns.servers[1]: "localhost" is not a name server's address`},
		{"server without a port", "dns.servers = [\"127.0.0.1:0\"]\n" + in, `1:16: dns.servers[0]: "127.0.0.1:0" is not a name server's address`},
		{"no timeout", "dns.timeout = \"0s\"\n" + in, `1:15: dns.timeout: 0s is too small; allowed: more than 0, at most 1m`},
		{"duration without a unit", "dns.timeout = \"5\"\n" + in, `1:15: dns.timeout: "5" is not a duration`},
		{"as long as the client's own wait", "timeouts.setup = \"5m\"\n" + in, `1:18: timeouts.setup: 5m0s is too large; allowed: at most 4m59s`},
		{"final reply later than the client waits", "timeouts.data_done = \"10m\"\n" + in, `1:22: timeouts.data_done: 10m0s is too large`},
		{"stale for a week", "dns.serve_stale = \"168h\"\n" + in, `1:19: dns.serve_stale: 168h0m0s is too large; allowed: at most 24h`},
		{"stale before its time", "dns.serve_stale = \"-1s\"\n" + in, `1:19: dns.serve_stale: -1s is too small; allowed: 0 or more, at most 24h`},
		{"no limit", "limits.max_connections = 0\n" + in, `1:26: limits.max_connections: 0 is too small`},
		{"store that is too small", "store.max_size = \"48MB\"\n" + in, `1:18: store.max_size: 48MB is too small; allowed: at least 48MiB, at most 1TB`},
		{"negative size", "limits.spool_memory = -1\n" + in, `1:23: limits.spool_memory: -1 is too small; allowed: more than 0, at most 1TB`},
		{"huge number", "limits.max_received = 99999999999999999999\n" + in, `1:23: limits.max_received: 99999999999999999999 is too large`},
		{"number in quotes", "limits.max_received = \"5\"\n" + in, `1:23: limits.max_received: is a string; allowed: a whole number`},

		{"nowhere to listen", in + "listen = []", `2:10: inbound[0].listen: is empty, and so is listen_tls`},
		{"listen on a path", in + "listen = [\"unix:/x\"]", `2:11: inbound[0].listen[0]: "unix:/x" has a bad port`},
		{"listen without a port", in + "listen = [\"127.0.0.1\"]", `2:11: inbound[0].listen[0]: "127.0.0.1" is not an address to listen on`},
		{"listen on a service", in + "listen = [\":smtp\"]", `2:11: inbound[0].listen[0]: ":smtp" has a bad port`},
		{"listen twice", in + "listen = [\":25\"]\n" + out + "listen = [\"127.0.0.1:25\"]", `4:11: outbound[0].listen[0]: "127.0.0.1:25" is taken by inbound[0].listen[0]`},
		{"listen twice, by default", out + out, `2:3: outbound[1].listen[0]: "127.0.0.1:10525" is taken by outbound[0].listen[0]`},
		{"listen on the admin's", in + "listen = [\"0.0.0.0:9625\"]", `2:11: inbound[0].listen[0]: "0.0.0.0:9625" is taken by admin.listen`},
		{"TLS without certificate", in + "listen_tls = [\":465\"]", `2:14: inbound[0].listen_tls: needs tls_cert and tls_key`},
		{"certificate without key", in + "tls_cert = \"c\"", `2:12: inbound[0].tls_cert: is set without tls_key`},
		{"key without certificate", out + "tls_key = \"c\"", `2:11: outbound[0].tls_key: is set without tls_cert`},
		{"no backend", in + "backend = \"\"", `2:11: inbound[0].backend: is empty`},
		{"backend over smtps", in + "backend = \"smtps://a:465\"", `2:11: inbound[0].backend: "smtps://a:465" is of a kind that has no place here; allowed: "host:port", "unix:/path", "lmtp://host:port", "lmtp+unix:/path"`},
		{"backend without port", in + "backend = \"::1\"", `2:11: inbound[0].backend: "::1" has no port or is no address`},
		{"backend with a path", in + "backend = \"lmtp://a:24/x\"", `2:11: inbound[0].backend: "lmtp://a:24/x" has a bad port`},
		{"backend is ourselves", in + "listen = [\":25\"]\nbackend = \"localhost:25\"", `3:11: inbound[0].backend: "localhost:25" is our own inbound[0].listen[0]`},
		{"TLS on a Unix socket", in + "backend = \"unix:/x\"\nbackend_tls = \"may\"", `3:15: inbound[0].backend_tls: "may" makes no sense on a Unix socket`},
		{"name that is not checked", in + "backend_tls_name = \"a\"", `2:20: inbound[0].backend_tls_name: has no use with backend_tls = "none"`},
		{"name with a space in it", in + "backend_tls = \"may\"\nbackend_tls_name = \"a b\"", `3:20: inbound[0].backend_tls_name: "a b" is not a name that a certificate can have`},
		{"authorities that are not asked", in + "backend_tls = \"encrypt\"\nbackend_ca_file = \"a\"", `3:19: inbound[0].backend_ca_file: has no use with backend_tls = "encrypt"`},
		{"probe to nobody", in + "relay_probe_to = \"\"", `2:18: inbound[0].relay_probe_to: "" is not an address`},
		{"probe with brackets", in + "relay_probe_to = \"<a@b.c>\"", `2:18: inbound[0].relay_probe_to: "<a@b.c>" is not an address`},
		{"probe with two dots", in + "relay_probe_to = \"a..b@example.com\"", `2:18: inbound[0].relay_probe_to: "a..b@example.com" is not an address`},
		{"date", in + "name = 1979-05-27", `2:8: inbound[0].name: is a date or time; allowed: a string in quotes`},
		{"fraction", in + "add_received = 1.0", `2:16: inbound[0].add_received: is a number with a fraction; allowed: true, false`},
		{"truth", "limits.max_received = true\n" + in, `1:23: limits.max_received: is true or false; allowed: a whole number`},
		{"table", "limits.max_received = {}\n" + in, `1:23: limits.max_received: is a table; allowed: a whole number`},
		{"size as fraction", "limits.spool_memory = 1.5\n" + in, `1:23: limits.spool_memory: is a number with a fraction; allowed: a whole number of octets, or a string such as "25MB"`},
		{"door for nobody", in + "allow = []", `2:9: inbound[0].allow: is empty, so nobody could connect`},
		{"bits behind the length", in + "allow = [\"10.1.0.0/8\"]", `2:10: inbound[0].allow[0]: "10.1.0.0/8" has bits set behind its length; write "10.0.0.0/8"`},
		{"mapped network", in + "allow = [\"::ffff:10.0.0.0/104\"]", `2:10: inbound[0].allow[0]: "::ffff:10.0.0.0/104" is IPv4 written as IPv6`},
		{"old TLS", in + "tls_min_version = \"1.4\"", `2:19: inbound[0].tls_min_version: "1.4" is not a version of TLS that we speak`},

		{"names", in + "name = \"a\"\n" + out + "name = \"a\"", `4:8: outbound[0].name: "a" is also the name of inbound[0]`},
		{"name of the next by default", in + "name = \"inbound-2\"\n" + in + "listen = [\":1\"]", `3:3: inbound[1].name: "inbound-2" is also the name of inbound[0]`},
		{"name with a space", in + "name = \"a b\"", `2:8: inbound[0].name: "a b" is not a name for a door`},

		{"open relay", out + "allow = [\"127.0.0.1\", \"0.0.0.0/0\"]", `2:23: outbound[0].allow[1]: "0.0.0.0/0" would make this an open relay`},
		{"open relay, IPv6", out + "allow = [\"::/0\"]", `2:10: outbound[0].allow[0]: "::/0" would make this an open relay`},
		{"open relay, half of it", out + "allow = [\"128.0.0.0/1\"]", `2:10: outbound[0].allow[0]: "128.0.0.0/1" would make this an open relay`},
		{"relay for nobody", out + "allow = []", `2:9: outbound[0].allow: is empty, so nobody could connect`},
		{"route and relay", out + "route = \"mx\"\nrelay = \"a:25\"", `3:9: outbound[0].relay: stands beside route = "mx"; allowed: one of the two`},
		{"other route", out + "route = \"static\"", `2:9: outbound[0].route: "static" is not known; allowed: "mx"`},
		{"relay to a path", out + "relay = \"unix:/x\"", `2:9: outbound[0].relay: "unix:/x" is of a kind that has no place here; allowed: "host:port", "smtps://host:port", "lmtp://host:port"`},
		{"relay to ourselves", out + "relay = \"127.0.0.1:10525\"", `2:9: outbound[0].relay: "127.0.0.1:10525" is our own outbound[0].listen[0]`},
		{"offer beside a relay", out + "relay = \"a:25\"\noffer = []", `3:9: outbound[0].offer: has no use with a relay`},
		{"port beside a relay", out + "relay = \"a:25\"\nmx_port = 25", `3:11: outbound[0].mx_port: has no use with a relay`},
		{"smtps in clear", out + "relay = \"smtps://a:465\"\ntls = \"none\"", `3:7: outbound[0].tls: "none" contradicts the relay's smtps://`},
		{"port", out + "mx_port = 65536", `2:11: outbound[0].mx_port: 65536 is too large; allowed: at most 65535`},
		{"authorities of may", out + "tls_ca_file = \"a\"", `2:15: outbound[0].tls_ca_file: has no use with tls = "may"`},
		{"offer of ours", out + "offer = [\"PIPELINING\"]", `2:10: outbound[0].offer[0]: "PIPELINING" is not known; allowed: "8BITMIME", "SMTPUTF8", "DSN"`},
		{"offer twice", out + "offer = [\"DSN\", \"DSN\"]", `2:17: outbound[0].offer[1]: "DSN" is there twice`},
		{"half an offer", out + "offer = [\"SMTPUTF8\"]", `2:10: outbound[0].offer[0]: "SMTPUTF8" cannot be offered without "8BITMIME"`},
		{"nowhere to listen, outbound", out + "listen = []", `2:10: outbound[0].listen: is empty`},
		{"source by name", out + "source_address = [\"localhost\"]", `2:19: outbound[0].source_address[0]: "localhost" is not an IP address`},
		{"source of everywhere", out + "source_address = [\"::\"]", `2:19: outbound[0].source_address[0]: :: is no address of one machine`},
		{"sources of one family", out + "source_address = [\"192.0.2.1\", \"192.0.2.2\"]", `2:32: outbound[0].source_address[1]: 192.0.2.2 is the second of its family`},
		{"source of the other family", out + "address_family = \"ipv6\"\nsource_address = [\"192.0.2.1\"]", `3:19: outbound[0].source_address[0]: 192.0.2.1 cannot be used with address_family = "ipv6"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parseTestConfig(tt.data)
			if err == nil {
				t.Fatal("no error")
			}
			if got := err.Error(); !strings.HasPrefix(got, "slipstream.toml:"+tt.want) || strings.Contains(got, "\n") {
				t.Errorf("got  %s\nwant slipstream.toml:%s", got, tt.want)
			}
		})
	}
}

func TestConfigTakes(t *testing.T) {
	for _, data := range []string{
		"inbound = [{listen = [\":25\"]}, {listen = [\":26\"]}]",
		"[[inbound]]\nlisten = [\"127.0.0.1:0\", \"127.0.0.1:0\"]",
		"[[inbound]]\nlisten = [\"127.0.0.1:25\", \"127.0.0.2:25\"]\nbackend = \"127.0.0.3:25\"",
		"[[inbound]]\nbackend = \"my_mta:25\"",
		"admin.listen = \"\"\n[[inbound]]\nlisten = [\":9625\"]",
		"admin = {listen = \"10.0.0.1:9625\", allow_remote = true}\n[[inbound]]",
		"admin.listen = \"[::1]:9625\"\n[[inbound]]",
		"hostname = \"mail\"\n[[inbound]]",
		"hostname = \"mail\"\n[[outbound]]\nrelay = \"a:25\"",
		"[[outbound]]\nallow = [\"10.0.0.0/8\", \"fc00::/7\"]\noffer = []",
		"[[outbound]]\r\nrelay = \"smtps://relay.example:465\"\r\n",
	} {
		if _, err := parseTestConfig(data); err != nil {
			t.Errorf("%q: %v", data, err)
		}
	}
}

func TestConfigSystemName(t *testing.T) {
	for _, tt := range []struct {
		system string
		err    error
		want   string
	}{
		{"mail", nil, `f:1:1: hostname: "mail" (this system's name) has no dot, and an outbound door with route = "mx" needs`},
		{"a_b", nil, `f:1:1: hostname: "a_b" (this system's name) is not a host name`},
		{"", errors.New("no name"), `f:1:1: hostname: is not set and the system does not tell its name (no name)`},
	} {
		_, err := parseConfig("f", ".", []byte("[[outbound]]"), func() (string, error) { return tt.system, tt.err })
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%q: got %v, want %s", tt.system, err, tt.want)
		}
	}
}

func TestConfigErrorIsBounded(t *testing.T) {
	_, err := parseTestConfig(strings.Repeat("a = 1\n", 10*maxConfigProblems))
	var cerr *ConfigError
	if !errors.As(err, &cerr) {
		t.Fatal(err)
	}
	if len(cerr.Problems) != maxConfigProblems || cerr.More != 9*maxConfigProblems+1 {
		t.Errorf("%d problems and %d more", len(cerr.Problems), cerr.More)
	}
	if !strings.HasSuffix(cerr.Error(), "\n… and 901 more") {
		t.Errorf("ends with %q", cerr.Error()[len(cerr.Error())-40:])
	}
}

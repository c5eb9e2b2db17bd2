package proxy

import (
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/pelletier/go-toml/v2"
)

const documented = "../docs/slipstream.toml"

// parseTestConfig is ParseConfig on a machine called mail.example.org.
func parseTestConfig(data string) (*Config, error) {
	return parseConfig("slipstream.toml", ".", []byte(data), func() (string, error) { return "mail.example.org", nil })
}

func mustParseConfig(t *testing.T, data string) *Config {
	t.Helper()
	c, err := parseTestConfig(data)
	if err != nil {
		t.Fatalf("parse:\n%v", err)
	}
	return c
}

// diffConfig compares configurations; a list that is empty is as one not set.
func diffConfig(want, got *Config) string {
	return cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{}))
}

func defaultTestConfig() *Config {
	c := DefaultConfig()
	c.Hostname = "mail.example.org"
	c.Inbound = []InboundConfig{DefaultInbound()}
	c.Outbound = []OutboundConfig{DefaultOutbound()}
	return c
}

func TestConfigDocumentedFileIsTheDefaults(t *testing.T) {
	data, err := os.ReadFile(documented)
	if err != nil {
		t.Fatal(err)
	}
	if diff := diffConfig(defaultTestConfig(), mustParseConfig(t, string(data))); diff != "" {
		t.Errorf("docs/slipstream.toml does not hold the defaults (-default +file):\n%s", diff)
	}
}

// Empty names and paths are as good as none.
func TestConfigShortestFileIsTheDefaults(t *testing.T) {
	for _, data := range []string{
		"[[inbound]]\n[[outbound]]\n",
		"inbound = [{}]\noutbound = [{}]\n",
		"hostname = \"\"\nstate_dir = \"\"\n[[inbound]]\nname = \"\"\n[[outbound]]\nname = \"\"\nrelay = \"\"\n",
	} {
		if diff := diffConfig(defaultTestConfig(), mustParseConfig(t, data)); diff != "" {
			t.Errorf("%q: differs from the defaults (-default +file):\n%s", data, diff)
		}
	}
}

// Every key stands in the documented file, below a comment that ends as a
// sentence does.
func TestConfigDocumentedFileIsComplete(t *testing.T) {
	data, err := os.ReadFile(documented)
	if err != nil {
		t.Fatal(err)
	}
	d := newConfigDecoder(data)
	d.document(new(Config))
	lines := strings.Split(string(data), "\n")
	for _, path := range configKeys(reflect.TypeFor[Config](), "") {
		offset, ok := d.at[path]
		if !ok {
			t.Errorf("%s is not in %s", path, documented)
			continue
		}
		line, _ := d.position(offset)
		above := lines[line-2]
		if !strings.HasPrefix(above, "# ") || !strings.HasSuffix(above, ".") {
			t.Errorf("%s:%d: %s has no sentence above it", documented, line, path)
		}
	}
}

// configKeys lists the paths of all keys, in the first door of each kind.
func configKeys(typ reflect.Type, path string) (keys []string) {
	for i := range typ.NumField() {
		f := typ.Field(i)
		at := joined(path, f.Tag.Get("toml"))
		switch {
		case isTable(f.Type):
			keys = append(keys, configKeys(f.Type, at)...)
		case isTables(f.Type):
			keys = append(keys, configKeys(f.Type.Elem(), at+"[0]")...)
		default:
			keys = append(keys, at)
		}
	}
	return keys
}

// Every number has an upper bound, in a tag that its own type can read, and goes
// down to one unless a tag says otherwise.
func TestConfigTags(t *testing.T) {
	var walk func(v reflect.Value, path string)
	walk = func(v reflect.Value, path string) {
		for i := range v.NumField() {
			f := configField{v.Field(i), v.Type().Field(i).Tag, joined(path, v.Type().Field(i).Tag.Get("toml"))}
			if f.tag.Get("toml") == "" {
				t.Errorf("%s.%s has no key", path, v.Type().Field(i).Name)
			}
			target := f.v.Addr().Interface()
			_, duration := target.(*time.Duration)
			switch {
			case isTable(f.v.Type()):
				walk(f.v, f.path)
			case isTables(f.v.Type()):
				walk(reflect.New(f.v.Type().Elem()).Elem(), f.path)
			case isNumber(target) || duration:
				f.v.SetInt(1)
				low := f.tag.Get("min")
				if err := f.inBounds(); (err != nil) != (low != "" && !strings.HasPrefix(low, "0")) {
					t.Errorf("%s = 1: %v", f.path, err)
				}
				f.v.SetInt(1<<63 - 1)
				if err := f.inBounds(); err == nil {
					t.Errorf("%s has no upper bound", f.path)
				}
			}
		}
	}
	walk(reflect.ValueOf(new(Config)).Elem(), "")
}

func TestConfigAllKeys(t *testing.T) {
	data, err := os.ReadFile("testdata/config/all.toml")
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseConfig("testdata/config/all.toml", data)
	if err != nil {
		t.Fatal(err)
	}
	const dir = "testdata/config/"
	want := &Config{
		Hostname: "mx.example.org",
		StateDir: dir + "state",
		SpoolDir: "/tmp/spool",
		Log:      LogConfig{Format: "json", Level: "debug"},
		Admin:    AdminConfig{Listen: "unix:" + dir + "admin.sock", AllowRemote: true},
		DNS: DNSConfig{
			Servers: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53"), netip.MustParseAddrPort("[::1]:5353")},
			Timeout: 1500 * time.Millisecond,
		},
		Store:   StoreConfig{MaxSize: 64e6, KeyFile: dir + "store.key", LoadBalanced: []string{"*.lb.example", "mx.example"}},
		Tickets: TicketsConfig{SecretFile: "/etc/tickets", NotFor: []string{}},
		Limits: LimitsConfig{
			MaxConnections: 1, MaxConnectionsPerClient: 2, MaxIdleConnections: 12, MaxMessageSize: 3 << 20, MaxRecipients: 4, MaxHeaderSize: 5,
			SpoolMemoryPerMessage: 6000, SpoolMemory: 7e6, MaxBadCommands: 8, MaxTransactions: 9, MaxReceived: 10,
			ShutdownTimeout: 11 * time.Second,
		},
		Timeouts: TimeoutsConfig{
			ClientCommand: 1 * time.Second, ClientData: 2 * time.Second, ClientMessage: 12 * time.Second, TLSHandshake: 3 * time.Second, Connect: 4 * time.Second,
			Greeting: 5 * time.Second, PeerCommand: 6 * time.Second, Setup: 7 * time.Second, DataBlock: 8 * time.Second,
			DataDone: 9 * time.Second, BackendProbe: 10 * time.Second, Quit: 11 * time.Millisecond,
		},
		Reports: ReportsConfig{
			OrgName: "Example Org", Email: "dmarc@example.org", ContactInfo: "https://example.org/dmarc",
			Relay: Endpoint{Host: "127.0.0.1", Port: 587}, Dir: dir + "reports", MaxSize: 2e6,
		},
		Inbound: []InboundConfig{{
			Name: "mx-1", Listen: []string{":25"}, ListenTLS: []string{"[2001:db8::1]:465"},
			Backend: Endpoint{Host: "mta.example.org", Port: 25}, BackendTLS: "verify", BackendTLSName: "mta", BackendCAFile: dir + "ca.pem",
			BackendTrustsUs: true, RelayProbeTo: "probe@example.net", ClientAddress: "proxy-v2",
			PoolSize: 3, PoolMessages: 4, PoolAge: 5 * time.Second, HopConnections: 6,
			ProxyProtocolFrom: Prefixes{netip.MustParsePrefix("192.0.2.1/32")},
			TLSCert:           dir + "cert.pem", TLSKey: "/etc/key.pem", TLSMinVersion: 0x0304,
			Allow:                     Prefixes{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8::/32")},
			PipeconnectAdvertiseHosts: Prefixes{},
			Auth: AuthConfig{
				AuthservID: "auth.example.org", Enforce: "reject", OnTemperror: "defer", TrustedNetworks: Prefixes{netip.MustParsePrefix("10.1.0.0/16")},
				ExemptNetworks: Prefixes{netip.MustParsePrefix("10.2.0.0/16")}, ExemptDomains: []string{"list.example"},
				TrustedSealers: []string{"sealer.example"}, Deadline: 2 * time.Second, Discovery: "psl",
				DMARCTLDFile: dir + "tlds", DMARCHistoryFile: "/var/dmarc",
				ARCDomain: "example.org", ARCSelector: "k1", ARCKeyFile: dir + "arc.pem",
				AggregateReports: true, FailureReports: true, DMARCForensicSender: "forensic@example.org",
			},
		}, {
			Name: "inbound-2", ListenTLS: []string{"127.0.0.1:0"},
			Backend: Endpoint{Path: dir + "lmtp.sock", LMTP: true}, BackendTLS: "none", RelayProbeTo: "relay-probe@example.com", ClientAddress: "none",
			TLSCert: dir + "cert.pem", TLSKey: dir + "key.pem", TLSMinVersion: 0x0303, Allow: everyNetwork(), AddReceived: true, FastOpen: true,
			PoolSize: 10, PoolMessages: 100, PoolAge: 5 * time.Minute,
			PipeconnectAdvertiseHosts: everyNetwork(),
			Auth:                      AuthConfig{Enabled: true, Enforce: "none", OnTemperror: "accept", TrustedNetworks: loopbackNetworks(), Deadline: 5 * time.Second, Discovery: "treewalk"},
		}},
		Outbound: []OutboundConfig{{
			Name: "out", Listen: []string{"127.0.0.1:10526"}, Protocol: "lmtp", Allow: Prefixes{netip.MustParsePrefix("10.0.0.0/8")},
			TLSCert: dir + "cert.pem", TLSKey: dir + "key.pem", Route: "mx", MXPort: 2525, TLS: "verify", TLSCAFile: dir + "ca.pem",
			TLSMinVersion: 0x0301, FastOpen: "message", Offer: []string{"DSN", "8BITMIME"}, AddReceived: true,
			SourceAddress: []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")},
			AddressFamily: "any", AllowPrivateDestinations: true,
			PoolIdle: time.Second, PoolSize: 2, PoolMessages: 7, PoolAge: 8 * time.Second, HopConnections: 9,
			HostsPipeConnect: Prefixes{netip.MustParsePrefix("192.0.2.0/24")}, ControlShare: 0.25,
		}, {
			Name: "outbound-2", Listen: []string{"127.0.0.1:10524"}, Protocol: "lmtp", Allow: loopbackNetworks(),
			Relay: Endpoint{Host: "2001:db8::25", Port: 465, TLS: true}, MXPort: 25, TLS: "encrypt", TLSMinVersion: 0x0302, AddressFamily: "ipv6",
			Resume: true, FastOpen: "off", PostQuantum: true, HostsPipeConnect: everyNetwork(), LateVerdict: true, ConnectAhead: true,
			PoolIdle: 30 * time.Second, PoolSize: 10, PoolMessages: 100, PoolAge: 5 * time.Minute,
		}},
	}
	if diff := diffConfig(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestLoadConfig(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "slipstream.toml")
	write := func(s string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("hostname = \"mx.example.org\"\nstate_dir = \"s\"\n[[inbound]]\n")
	c, err := LoadConfig(file)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(dir, "s"); c.StateDir != want {
		t.Errorf("state_dir %q, want %q", c.StateDir, want)
	}
	write("hostname = \"mx.example.org\"\n\n[[inbound]]\nallow = 1\n")
	_, err = LoadConfig(file)
	var cerr *ConfigError
	if !errors.As(err, &cerr) {
		t.Fatalf("error %v (%T), want a *ConfigError", err, err)
	}
	want := []ConfigProblem{{File: file, Line: 4, Column: 9, Key: "inbound[0].allow", Text: "is a whole number; allowed: a list of strings in brackets"}}
	if diff := cmp.Diff(want, cerr.Problems); diff != "" {
		t.Error(diff)
	}
	write(strings.Repeat("#", maxConfigSize+1))
	if _, err = LoadConfig(file); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("a file that is too large: error %v", err)
	}
	if _, err = LoadConfig(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: error %v", err)
	}
}

var updateConfig = flag.Bool("update-config", false, "rewrite testdata/config/*.want")

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

func TestSize(t *testing.T) {
	for _, tt := range []struct {
		text string
		want Size
	}{
		{"0", 0}, {"17", 17}, {"17B", 17}, {"256KB", 256_000}, {"25MB", 25_000_000}, {"25 MB", 25_000_000}, {"2GB", 2_000_000_000},
		{"1TB", 1_000_000_000_000}, {"1KiB", 1024}, {"1MiB", 1 << 20}, {"1GiB", 1 << 30}, {"1TiB", 1 << 40}, {"9223372036854775807", 1<<63 - 1},
	} {
		var got Size
		if err := got.UnmarshalText([]byte(tt.text)); err != nil || got != tt.want {
			t.Errorf("%q: %d, %v; want %d", tt.text, got, err, tt.want)
		}
		var again Size
		if err := again.UnmarshalText([]byte(got.String())); err != nil || again != got {
			t.Errorf("%d prints as %q, which reads as %d, %v", got, got, again, err)
		}
	}
	for _, text := range []string{"", "MB", "1.5MB", "-1", "+1", "1mb", "1 M B", "1_000", "9223372036854775808", "9223372036854775TB", "1e3", "٣"} {
		var got Size
		if err := got.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q: no error, %d", text, got)
		}
	}
}

func TestEndpoint(t *testing.T) {
	for _, tt := range []struct {
		text             string
		want             Endpoint
		network, address string
	}{
		{"127.0.0.1:25", Endpoint{Host: "127.0.0.1", Port: 25}, "tcp", "127.0.0.1:25"},
		{"[::1]:25", Endpoint{Host: "::1", Port: 25}, "tcp", "[::1]:25"},
		{"[fe80::1%eth0]:25", Endpoint{Host: "fe80::1%eth0", Port: 25}, "tcp", "[fe80::1%eth0]:25"},
		{"mx.example.org:25", Endpoint{Host: "mx.example.org", Port: 25}, "tcp", "mx.example.org:25"},
		{"smtps://mx.example.org:465", Endpoint{Host: "mx.example.org", Port: 465, TLS: true}, "tcp", "mx.example.org:465"},
		{"lmtp://[::1]:24", Endpoint{Host: "::1", Port: 24, LMTP: true}, "tcp", "[::1]:24"},
		{"unix:/run/mta", Endpoint{Path: "/run/mta"}, "unix", "/run/mta"},
		{"lmtp+unix:/run/mta", Endpoint{Path: "/run/mta", LMTP: true}, "unix", "/run/mta"},
	} {
		var got Endpoint
		if err := got.UnmarshalText([]byte(tt.text)); err != nil || got != tt.want {
			t.Errorf("%q: %+v, %v; want %+v", tt.text, got, err, tt.want)
		}
		if got.Network() != tt.network || got.Address() != tt.address || got.String() != tt.text {
			t.Errorf("%q: %q %q %q", tt.text, got.Network(), got.Address(), got)
		}
	}
	for _, text := range []string{
		"host", "host:", ":25", "host:0", "host:65536", "host:+5", "host:smtp", "::1:25:", "[::1]", "unix:", "lmtp+unix:", "smtp://a:25", "SMTPS://a:1",
		"user@host:25", "host:25/", "lmtp:/a:25", "ho st:25", "-a:25", "a..b:25", "1.2.3.4.5:25", "[a.b.c", "ä.example:25",
	} {
		var got Endpoint
		if err := got.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q: no error, %+v", text, got)
		}
	}
}

func TestPrefixesContains(t *testing.T) {
	p := Prefixes{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("fe80::/10")}
	for addr, want := range map[string]bool{
		"192.0.2.7": true, "::ffff:192.0.2.7": true, "192.0.3.7": false, "fe80::1": true, "fe80::1%eth0": true, "2001:db8::1": false, "::192.0.2.7": false,
	} {
		if got := p.Contains(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %v", addr, got)
		}
	}
	if Prefixes(nil).Contains(netip.MustParseAddr("::1")) || p.Contains(netip.Addr{}) {
		t.Error("nobody and nothing match")
	}
}

// Whatever the document: no panic; what is taken is TOML by the library's own
// judgement; what is refused has a reason on one line, in order, at a place in
// the document.
func FuzzParseConfig(f *testing.F) {
	for _, pattern := range []string{documented, "testdata/config/*.toml", "testdata/config/broken/*.toml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			f.Fatalf("%s: no files (%v)", pattern, err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(string(data))
		}
	}
	f.Add("[[inbound]]\nlisten = [[\n\"x\", # c\n]]\n[log")
	f.Add("a = '''\nb = 1\n'''\n\x01")
	f.Fuzz(func(t *testing.T, data string) {
		c, err := parseTestConfig(data)
		if err == nil {
			var whole map[string]any
			if err := toml.Unmarshal([]byte(data), &whole); err != nil {
				t.Errorf("taken, though the library says: %v", err)
			}
			if len(c.Inbound)+len(c.Outbound) == 0 {
				t.Error("taken without a door")
			}
			return
		}
		var cerr *ConfigError
		if !errors.As(err, &cerr) || c != nil {
			t.Fatalf("%v, %v", c, err)
		}
		lines := strings.Split(data, "\n")
		before := ConfigProblem{}
		for _, p := range cerr.Problems {
			if p.Line < 1 || p.Line > len(lines) || p.Column < 1 || p.Column > len(lines[p.Line-1])+1 {
				t.Errorf("nowhere: %s", p)
			}
			if p.Line < before.Line || p.Line == before.Line && p.Column < before.Column {
				t.Errorf("out of order: %s\nafter %s", p, before)
			}
			if strings.ContainsFunc(p.String(), func(r rune) bool { return r < ' ' || r == 0x7f }) {
				t.Errorf("not one line: %q", p)
			}
			before = p
		}
	})
}

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
			MaxConnections: 1, MaxConnectionsPerClient: 2, MaxIdleConnections: 12, MaxHopConnections: 13, MaxMessageSize: 3 << 20, MaxRecipients: 4, MaxHeaderSize: 5,
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
		Once: OnceConfig{Keep: 2 * time.Hour, MaxRecipients: 14},
		Tap:  TapConfig{Dir: dir + "tap", Doors: []string{"out"}, MaxSize: 3e6, Sync: true},
		Inbound: []InboundConfig{{
			Name: "mx-1", Listen: []string{":25"}, ListenTLS: []string{"[2001:db8::1]:465"},
			Backend: Endpoint{Host: "mta.example.org", Port: 25}, BackendTLS: "verify", BackendTLSName: "mta", BackendCAFile: dir + "ca.pem",
			BackendTrustsUs: true, RelayProbeTo: "probe@example.net", ClientAddress: "proxy-v2",
			Transparent: true, RelayAuth: true, RelayCommands: []string{"ETRN", "VRFY"},
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
			Split: "fanout", Intercept: "redirect", InterceptNetworks: everyNetwork(),
			DestinationFailures: 3, DestinationPause: time.Minute, ReplyPace: PaceAuto, ReplyAttribution: "host",
		}, {
			Name: "outbound-2", Listen: []string{"127.0.0.1:10527"}, Protocol: "smtp",
			Allow:   Prefixes{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("fd00:1::/64")},
			TLSCert: dir + "cert.pem", TLSKey: dir + "key.pem", Route: "original", MXPort: 25, TLS: "may", TLSMinVersion: 0x0303,
			Offer: []string{"8BITMIME", "SMTPUTF8"}, AddressFamily: "any",
			Resume: true, FastOpen: "off", PostQuantum: true, HostsPipeConnect: everyNetwork(), LateVerdict: true, ConnectAhead: true,
			PoolIdle: 30 * time.Second, PoolSize: 10, PoolMessages: 100, PoolAge: 5 * time.Minute,
			Intercept: "tproxy", InterceptNetworks: Prefixes{netip.MustParsePrefix("198.51.100.0/24")}, MTARequiresTLS: true,
			Split: "single", DestinationPause: 2 * time.Second, ReplyPace: Pace(20 * time.Millisecond), ReplyAttribution: "full",
		}, {
			Name: "outbound-3", Listen: []string{"127.0.0.1:10524"}, Protocol: "lmtp", Allow: loopbackNetworks(),
			Relay: Endpoint{Host: "2001:db8::25", Port: 465, TLS: true}, MXPort: 25, TLS: "encrypt", TLSMinVersion: 0x0302, AddressFamily: "ipv6",
			Resume: true, FastOpen: "off", PostQuantum: true, HostsPipeConnect: everyNetwork(), LateVerdict: true, ConnectAhead: true,
			PoolIdle: 30 * time.Second, PoolSize: 10, PoolMessages: 100, PoolAge: 5 * time.Minute,
			Split: "fanout", Intercept: "redirect", InterceptNetworks: everyNetwork(),
			DestinationFailures: 3, DestinationPause: time.Minute, ReplyPace: PaceAuto, ReplyAttribution: "host",
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

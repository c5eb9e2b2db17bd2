package proxy

import (
	"strings"
	"testing"
)

// Keys of an intercepting door stand where they are of use.
func TestConfigIntercept(t *testing.T) {
	const head = "hostname = \"mail.example.org\"\n[[outbound]]\n"
	tests := []struct{ keys, want string }{
		{"route = \"original\"\nintercept = \"tproxy\"\nintercept_networks = [\"192.0.2.0/24\"]\nallow = [\"10.0.0.0/24\"]", ""},
		{"route = \"original\"\nintercept = \"tproxy\"", `allow: names this machine alone, and intercept = "tproxy" takes the connections of others; ` +
			`write the networks of the MTAs that this machine is the router of, such as allow = ["10.0.0.0/24"]`},
		{"route = \"original\"\nintercept = \"tproxy\"\nallow = [\"127.0.0.2\"]", "allow: names this machine alone"},
		{"route = \"original\"\nintercept = \"tproxy\"\nallow = [\"127.0.0.2\", \"fd00::/64\"]", ""},
		{"route = \"original\"\nmta_requires_tls = true\ntls_cert = \"c\"\ntls_key = \"k\"", ""},
		{"route = \"original\"\nmta_requires_tls = true", "mta_requires_tls: needs tls_cert and tls_key"},
		{"route = \"original\"\ntls_cert = \"c\"\ntls_key = \"k\"", `tls_cert: has no use with route = "original"`},
		{"route = \"original\"\ntls_cert = \"c\"", "tls_cert: is set without tls_key"},
		{"route = \"original\"\naddress_family = \"ipv4\"", `address_family: has no use with route = "original"`},
		{"route = \"original\"\nintercept_networks = []", "intercept_networks: is empty, so nobody would be served"},
		{"route = \"original\"\nprotocol = \"lmtp\"", `protocol: "lmtp" cannot be intercepted`},
		{"route = \"original\"\nintercept = \"pf\"", `intercept: "pf"`},
		{"intercept = \"tproxy\"", `intercept: has no use here; allowed with: route = "original"`},
		{"mta_requires_tls = true", "mta_requires_tls: has no use here"},
		{"relay = \"mx.example.org:25\"\nintercept_networks = [\"192.0.2.0/24\"]", "intercept_networks: has no use here"},
	}
	for _, tt := range tests {
		cfg, err := ParseConfig("x.toml", []byte(head+tt.keys+"\n"))
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%q: %v", tt.keys, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%q: %v, want %q", tt.keys, err, tt.want)
		case tt.want == "" && cfg.Outbound[0].Route != routeOriginal:
			t.Errorf("%q: route %q", tt.keys, cfg.Outbound[0].Route)
		}
	}
}

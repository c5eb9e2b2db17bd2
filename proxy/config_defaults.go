package proxy

import "time"

// DefaultConfig returns what holds when a file sets nothing. It has no host
// name and no doors.
func DefaultConfig() *Config {
	return &Config{
		StateDir: "/var/lib/slipstream",
		Log:      LogConfig{Format: "logfmt", Level: "info"},
		Admin:    AdminConfig{Listen: "127.0.0.1:9625"},
		DNS:      DNSConfig{Timeout: 5 * time.Second, ServeStale: time.Hour},
		Store: StoreConfig{
			Enabled:      true,
			MaxSize:      256 * megabyte,
			LoadBalanced: []string{"*.outlook.com"},
		},
		Tickets: TicketsConfig{
			Enabled: true,
			Hold:    true,
			Learn:   true,
			NotFor:  []string{"*.outlook.com"},
		},
		Limits: LimitsConfig{
			MaxConnections:          10000,
			MaxConnectionsPerClient: 100,
			MaxIdleConnections:      500,
			MaxMessageSize:          100 * megabyte,
			MaxRecipients:           1000,
			MaxHeaderSize:           1 * megabyte,
			SpoolMemoryPerMessage:   256 * kilobyte,
			SpoolMemory:             64 * megabyte,
			MaxBadCommands:          20,
			MaxTransactions:         1000,
			MaxReceived:             50,
			ShutdownTimeout:         2 * time.Minute,
		},
		Timeouts: TimeoutsConfig{
			ClientCommand: 5 * time.Minute,
			ClientData:    3 * time.Minute,
			ClientMessage: time.Hour,
			TLSHandshake:  30 * time.Second,
			Connect:       30 * time.Second,
			Greeting:      2 * time.Minute,
			PeerCommand:   4 * time.Minute,
			Setup:         4 * time.Minute,
			DataBlock:     3 * time.Minute,
			DataDone:      9*time.Minute + 30*time.Second,
			BackendProbe:  30 * time.Second,
			Quit:          time.Second,
		},
		Reports: unsetReports(),
		Once:    OnceConfig{Enabled: true, Keep: 5 * 24 * time.Hour, MaxRecipients: 100000},
		Tap:     TapConfig{MaxSize: gigabyte},
	}
}

// DefaultInbound returns an inbound door as "[[inbound]]" alone gives it.
func DefaultInbound() InboundConfig {
	d := unsetInbound()
	d.complete("inbound")
	return d
}

// DefaultOutbound returns an outbound door as "[[outbound]]" alone gives it.
func DefaultOutbound() OutboundConfig {
	d := unsetOutbound()
	d.complete("outbound")
	return d
}

// unsetInbound is what an inbound door is before its keys are read: all
// defaults but those that depend on other keys, which complete fills in.
func unsetInbound() InboundConfig {
	return InboundConfig{
		Backend:       Endpoint{Host: "127.0.0.1", Port: 10025},
		BackendTLS:    "none",
		RelayProbeTo:  "relay-probe@example.com",
		ClientAddress: "none",
		PoolSize:      10,
		PoolMessages:  100,
		PoolAge:       5 * time.Minute,
		TLSMinVersion: tls12,
		Allow:         everyNetwork(),
		AddReceived:   true,
		FastOpen:      true,
		Auth:          unsetAuth(),

		PipeconnectAdvertiseHosts: everyNetwork(),
	}
}

// complete fills in the defaults that depend on what was set.
func (d *InboundConfig) complete(name string) {
	if d.Name == "" {
		d.Name = name
	}
	if d.Listen == nil && len(d.ListenTLS) == 0 {
		d.Listen = []string{"127.0.0.1:2525"}
	}
}

// unsetOutbound is to outbound doors what unsetInbound is to inbound ones.
func unsetOutbound() OutboundConfig {
	return OutboundConfig{
		Protocol:      "smtp",
		Allow:         loopbackNetworks(),
		MXPort:        25,
		TLS:           "may",
		TLSMinVersion: tls12,
		AddressFamily: "any",
		Resume:        true,
		FastOpen:      "off",
		PoolIdle:      30 * time.Second,
		PoolSize:      10,
		PoolMessages:  100,
		PoolAge:       5 * time.Minute,

		HostsPipeConnect: everyNetwork(),
		LateVerdict:      true,
		ConnectAhead:     true,
		PostQuantum:      true,

		Intercept:           interceptRedirect,
		InterceptNetworks:   everyNetwork(),
		Split:               splitFanout,
		DestinationFailures: 3,
		DestinationPause:    time.Minute,
		ReplyPace:           PaceAuto,
		ReplyAttribution:    attributionHost,
	}
}

// complete fills in the defaults that depend on what was set.
func (d *OutboundConfig) complete(name string) {
	if d.Name == "" {
		d.Name = name
	}
	if d.Listen == nil {
		d.Listen = []string{"127.0.0.1:10525"}
		if d.Protocol == "lmtp" {
			d.Listen = []string{"127.0.0.1:10524"}
		}
	}
	if d.Relay.IsZero() {
		if d.Route == "" {
			d.Route = "mx"
		}
		if d.Offer == nil {
			d.Offer = []string{"8BITMIME", "SMTPUTF8"}
		}
	}
	if d.Relay.TLS && d.TLS == "may" {
		d.TLS = "encrypt" // the scheme leaves no way in clear
	}
}

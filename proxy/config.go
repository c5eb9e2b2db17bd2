package proxy

import (
	"net/netip"
	"time"
)

// Config is the configuration of one slipstream process. The struct is the
// manual: each field says what it means and what holds when the file does not
// set it; docs/slipstream.toml shows the same keys as a file.
//
// A Config comes from [LoadConfig] or [ParseConfig] and holds final values:
// defaults filled in, paths resolved, every value checked. Code that builds one
// by hand starts from [DefaultConfig], [DefaultInbound] and [DefaultOutbound].
//
// In the file, durations are strings with units ("30s", "5m", "1h30m"), sizes
// are strings such as "25MB" (see [Size]) or plain numbers of octets, networks
// are strings in CIDR form ("192.0.2.0/24"; a bare address is that one
// address), and file names that are not absolute count from the directory of
// the file.
type Config struct {
	// Hostname is the name that the service gives itself in greetings, EHLO and
	// header fields, in ASCII. Default: the system's host name. A door that
	// looks up MX hosts needs one with a dot, since many receivers refuse mail
	// from a HELO name that is not fully qualified.
	Hostname string `toml:"hostname"`

	// StateDir is the directory for what the service may remember over a
	// restart. It need not exist. Nothing breaks when it is lost, but for
	// duplicates of messages that wait in an outbound MTA's queue: see Once.
	// Default: "/var/lib/slipstream".
	StateDir string `toml:"state_dir"`

	// SpoolDir is the directory for the bodies that do not fit into memory while
	// they pass through; the files there have no name and vanish with their
	// transaction. Default "": the directory spool in StateDir, or the system's
	// directory for temporary files when that cannot be used.
	SpoolDir string `toml:"spool_dir"`

	Log      LogConfig      `toml:"log"`
	Admin    AdminConfig    `toml:"admin"`
	DNS      DNSConfig      `toml:"dns"`
	Store    StoreConfig    `toml:"store"`
	Tickets  TicketsConfig  `toml:"tickets"`
	Limits   LimitsConfig   `toml:"limits"`
	Timeouts TimeoutsConfig `toml:"timeouts"`
	Reports  ReportsConfig  `toml:"reports"`
	Once     OnceConfig     `toml:"once"`
	Tap      TapConfig      `toml:"tap"`

	// Inbound and Outbound are the doors, [[inbound]] and [[outbound]] in the
	// file. At least one must be there.
	Inbound  []InboundConfig  `toml:"inbound"`
	Outbound []OutboundConfig `toml:"outbound"`
}

// LogConfig says how the log is written.
type LogConfig struct {
	// Format is "logfmt" (key=value, one line each) or "json". Default: "logfmt".
	Format string `toml:"format" oneof:"logfmt json"`

	// Level is the least level that is written: "debug", "info", "warn" or
	// "error". Default: "info", which is one line per transaction.
	Level string `toml:"level" oneof:"debug info warn error"`
}

// AdminConfig is the socket for metrics and health checks. It asks
// for no password, hence the care about who can reach it.
type AdminConfig struct {
	// Listen is an "IP:port" or a "unix:/path"; "" switches the socket off. It
	// must be a loopback address or a path unless AllowRemote is set.
	// Default: "127.0.0.1:9625".
	Listen string `toml:"listen"`

	// AllowRemote permits an address that other machines can reach, for networks
	// that are closed by other means. Default: false.
	AllowRemote bool `toml:"allow_remote"`
}

// DNSConfig says whom we ask for names.
type DNSConfig struct {
	// Servers are resolvers as "IP" or "IP:port" (port 53 if none is given),
	// asked in order. The AD bit (RFC 4035 §3.2.3) is believed from loopback
	// addresses only. Default: empty, the servers of the system's resolv.conf.
	Servers []netip.AddrPort `toml:"servers"`

	// Timeout is how long one question may take, over all servers and tries.
	// Default: "5s".
	Timeout time.Duration `toml:"timeout" max:"1m"`

	// ServeStale is for how long MX hosts and addresses whose TTL has run out are
	// still used, so that mail does not wait while they are asked for anew
	// (https://www.rfc-editor.org/rfc/rfc8767). What policies go by is never so
	// used. "0s" switches it off. Default: "1h".
	ServeStale time.Duration `toml:"serve_stale" min:"0s" max:"24h"`
}

// StoreConfig says what may be remembered about peers, in StateDir: TLS sessions
// that can be resumed, also after a restart. Whatever is wrong with the store,
// mail goes on without it.
type StoreConfig struct {
	// Enabled switches the memory on. Default: true.
	Enabled bool `toml:"enabled"`

	// MaxSize is what the store may take on disk, less than 48 MiB of which is of
	// no use. Until upkeep has made room it may be a quarter more.
	// Default: "256MB".
	MaxSize Size `toml:"max_size" min:"48MiB" max:"1TB"`

	// KeyFile holds the 32 octets that the store is encrypted with; it is made
	// when it is not there. Default "": the systemd credential "store.key" where
	// there is one, else store.key in StateDir.
	KeyFile string `toml:"key_file"`

	// LoadBalanced are MX hosts, "*.example.com" or a whole name, behind which
	// several machines keep TLS sessions of their own. A session is then offered
	// to the machine alone that named itself in EHLO when it was made.
	// Default: ["*.outlook.com"].
	LoadBalanced []string `toml:"load_balanced"`
}

// TicketsConfig says how clients may resume their TLS sessions with us
// (https://www.rfc-editor.org/rfc/rfc8446#section-4.6.1). A ticket lives for two
// hours, and the keys that seal it are never stored.
type TicketsConfig struct {
	// Enabled has tickets made and taken. Default: true.
	Enabled bool `toml:"enabled"`

	// SecretFile holds 32 octets or more that several proxies behind one name
	// share, so that each takes the others' tickets; the file must be readable by
	// us alone. Default "": keys of our own, gone with the process.
	SecretFile string `toml:"secret_file"`

	// Hold keeps the TLS 1.3 ticket back until the client has finished its part
	// of the handshake: Microsoft's break off otherwise
	// (https://github.com/golang/go/issues/70232). Default: true.
	Hold bool `toml:"hold"`

	// Learn withholds tickets for some days from networks and EHLO domains whose
	// clients left twice right behind one. Default: true.
	Learn bool `toml:"learn"`

	// NotFor are names in EHLO, "*.example.com" or a whole name, to which no
	// ticket is given. Default: ["*.outlook.com"].
	NotFor []string `toml:"not_for"`
}

// OnceConfig says what is remembered about recipients that share a message and
// had different outcomes, or whose outcome the MTA may not have heard, so that
// its next attempt sends nothing twice. It lies in the directory once of
// StateDir, which should survive restarts.
type OnceConfig struct {
	// Enabled switches this memory on. Without it split = "fanout" does what
	// "452" does. Default: true.
	Enabled bool `toml:"enabled"`

	// Keep is how long an outcome is remembered that no attempt has asked for: as
	// long as the MTA keeps trying. Default: "120h", five days.
	Keep time.Duration `toml:"keep" min:"1h" max:"720h"`

	// MaxRecipients is how many outcomes are held. Where there are that many,
	// "fanout" does what "452" does until some are over. Default: 100000.
	MaxRecipients int `toml:"max_recipients" max:"10000000"`
}

// TapConfig has a copy of each message that was delivered, or may have been, and
// of its envelope, written for other programs. It is never waited for: what there is no room or time for is left out,
// and counted.
type TapConfig struct {
	// Dir is where the copies go: for each message a file NAME.eml, and beside it
	// NAME.json with the envelope, which is there last. Who reads them removes
	// them. The directory is not made for you. Default "": nowhere.
	Dir string `toml:"dir"`

	// Doors are the names of the doors whose messages are copied; without Dir it is
	// an error. Default: empty, all doors.
	Doors []string `toml:"doors"`

	// MaxSize is what all files in that directory together may take, in blocks of
	// 4 KiB. What does not fit is left out. Default: "1GB".
	MaxSize Size `toml:"max_size" min:"1MB" max:"1TB"`

	// Sync has each copy on the disk before it appears. Default: false.
	Sync bool `toml:"sync"`
}

// LimitsConfig bounds what clients can make us spend. There is no "unlimited":
// every limit is at least 1.
type LimitsConfig struct {
	// MaxConnections is how many clients are served at once, over all doors;
	// more are told 421 and let go. Default: 10000.
	MaxConnections int `toml:"max_connections" max:"1000000"`

	// MaxConnectionsPerClient is the same for one client of an inbound door: one
	// IPv4 address or one IPv6 /64, the least that a customer is given. The MTA
	// at an outbound door is not counted so. Default: 100.
	MaxConnectionsPerClient int `toml:"max_connections_per_client" max:"1000000"`

	// MaxIdleConnections is how many connections to next hops are kept while
	// nobody uses them, over all doors. Where there are more, the longest idle
	// to the destination that has most is ended. Default: 500.
	MaxIdleConnections int `toml:"max_idle_connections" max:"1000000"`

	// MaxHopConnections is how many connections to next hops may be open at once,
	// over all doors, idle ones included; whoever needs another waits for its turn,
	// at most timeouts.setup. Default: 0, what the descriptors that the system lets
	// us have leave beside the clients.
	MaxHopConnections int `toml:"max_hop_connections" min:"0" max:"1000000"`

	// MaxMessageSize is the largest message text in octets, offered as SIZE
	// (https://www.rfc-editor.org/rfc/rfc1870#section-4) unless the next hop
	// takes less. Default: "100MB".
	MaxMessageSize Size `toml:"max_message_size" max:"1TB"`

	// MaxRecipients is how many recipients one transaction may have. RFC 5321
	// asks for 100 at least
	// (https://www.rfc-editor.org/rfc/rfc5321#section-4.5.3.1.8). Default: 1000.
	MaxRecipients int `toml:"max_recipients" max:"100000"`

	// MaxHeaderSize is the largest header section that is read for fields to
	// add, count or strip; it is held in memory. Default: "1MB".
	MaxHeaderSize Size `toml:"max_header_size" max:"64MB"`

	// SpoolMemoryPerMessage is how much of one message is held in memory before
	// it goes to a file. Default: "256KB".
	SpoolMemoryPerMessage Size `toml:"spool_memory_per_message" max:"1GB"`

	// SpoolMemory is the same for all messages together; when it is used up,
	// further text goes straight to files. Default: "64MB".
	SpoolMemory Size `toml:"spool_memory" max:"1TB"`

	// MaxBadCommands is how many commands of one connection may be wrong before
	// it is closed with 421. Default: 20.
	MaxBadCommands int `toml:"max_bad_commands" max:"1000000"`

	// MaxTransactions is how many transactions one connection may carry before
	// it is closed with 421; MTAs reconnect and go on. Default: 1000.
	MaxTransactions int `toml:"max_transactions_per_connection" max:"1000000"`

	// MaxReceived is how many Received fields a message may have before it is
	// taken for a loop and refused with 554 5.4.6. RFC 5321 would have a hundred
	// (https://www.rfc-editor.org/rfc/rfc5321#section-6.3); fifty is what
	// Postfix counts to, and a loop through us passes the MTA too. Default: 50.
	MaxReceived int `toml:"max_received" max:"1000"`

	// ShutdownTimeout is how long transactions under way may go on after the
	// service was told to stop; then they are cut. Default: "2m".
	ShutdownTimeout time.Duration `toml:"shutdown_timeout" max:"1h"`
}

// TimeoutsConfig gives every wait its end. RFC 5321 §4.5.3.2
// (https://www.rfc-editor.org/rfc/rfc5321#section-4.5.3.2) tells clients how
// long to wait for a server. Between two neighbours we are both: whoever waits
// for us must still be there when we have waited for the next hop. So our waits
// for a peer are a little shorter than those that our client was told to keep.
type TimeoutsConfig struct {
	// ClientCommand is the wait for a client's next command, §4.5.3.2.7: at
	// least 5 minutes. Default: "5m".
	ClientCommand time.Duration `toml:"client_command" max:"1h"`

	// ClientData is the wait for the next piece of message text from a client,
	// §4.5.3.2.5. Default: "3m".
	ClientData time.Duration `toml:"client_data" max:"1h"`

	// ClientMessage is how long a client may take over the whole of one message
	// text, so that a drop now and then does not hold a connection for ever. RFC
	// 5321 is silent on it. Default: "1h".
	ClientMessage time.Duration `toml:"client_message" max:"24h"`

	// TLSHandshake bounds a TLS handshake on either side; RFC 5321 is silent on
	// it. Default: "30s".
	TLSHandshake time.Duration `toml:"tls_handshake" max:"10m"`

	// Connect bounds the making of one TCP connection, so that a dead address
	// leaves time for the next one. RFC 5321 is silent on it. Default: "30s".
	Connect time.Duration `toml:"connect" max:"4m59s"`

	// Greeting is the wait for a peer's 220. §4.5.3.2.1 says 5 minutes, but our
	// client may be waiting for the answer to its RCPT meanwhile, which it does
	// for those same 5 minutes (§4.5.3.2.3): a host that is silent for longer
	// than this must leave time for the next one. Default: "2m".
	Greeting time.Duration `toml:"greeting" max:"4m59s"`

	// PeerCommand is the wait for a peer's reply to one command other than the
	// end of data. §4.5.3.2.2 and §4.5.3.2.3 say 5 minutes for MAIL and RCPT;
	// our client waits for the same reply through us, so ours ends a minute
	// before. Default: "4m".
	PeerCommand time.Duration `toml:"peer_command" max:"4m59s"`

	// Setup bounds everything up to the first recipient's answer: look-ups and,
	// over all hops that are tried, connecting, greeting, EHLO, TLS, MAIL and
	// RCPT. It must stay below the 5 minutes that the client waits for its RCPT
	// (§4.5.3.2.3); the shorter waits above end earlier when it ends.
	// Default: "4m".
	Setup time.Duration `toml:"setup" max:"4m59s"`

	// DataBlock is how long a peer may take in one piece of message text,
	// §4.5.3.2.5. Default: "3m".
	DataBlock time.Duration `toml:"data_block" max:"1h"`

	// DataDone is the time from the client's end of data to the peer's final
	// reply, with what is left to send in between. §4.5.3.2.6 gives a client
	// 10 minutes, after which it sends the message again: ours ends before, so
	// that it hears a 451 rather than nothing. Default: "9m30s".
	DataDone time.Duration `toml:"data_done" max:"9m59s"`

	// BackendProbe bounds the conversation with a backend that asks what it
	// offers and whether it relays for us. Default: "30s".
	BackendProbe time.Duration `toml:"backend_probe" max:"10m"`

	// Quit is the wait for the reply to our QUIT, which §4.1.1.10 asks for and
	// nobody needs. Default: "1s".
	Quit time.Duration `toml:"quit" max:"5m"`
}

// InboundConfig is a door from the world to one backend, the MTA.
type InboundConfig struct {
	// Name stands for the door in the log and in metrics: 1 to 32 of a-z, 0-9
	// and "-", unlike the name of any other door. Default: "inbound", for the
	// second door "inbound-2", and so on.
	Name string `toml:"name"`

	// Listen are the addresses where clients connect and may say STARTTLS, as
	// "IP:port" or ":port" for all addresses.
	// Default: ["127.0.0.1:2525"], or none when ListenTLS is set.
	Listen []string `toml:"listen"`

	// ListenTLS are addresses where TLS comes before the greeting; they need
	// TLSCert and TLSKey. Default: none.
	ListenTLS []string `toml:"listen_tls"`

	// Backend is the MTA behind us: "host:port", "unix:/path", and
	// "lmtp://host:port" or "lmtp+unix:/path" where it speaks LMTP (RFC 2033).
	// Default: "127.0.0.1:10025".
	Backend Endpoint `toml:"backend" forms:"host:port unix:/path lmtp://host:port lmtp+unix:/path"`

	// BackendTLS is the protection of the way to the backend: "none", "may" (if
	// offered), "encrypt" (or no mail; certificate not checked) or "verify" (or
	// no mail). Default: "none", for a backend on the same machine.
	BackendTLS string `toml:"backend_tls" oneof:"none may encrypt verify"`

	// BackendTLSName is the name in the backend's certificate, also sent as SNI.
	// Default "": the host in Backend.
	BackendTLSName string `toml:"backend_tls_name"`

	// BackendCAFile is a PEM file with the authorities that "verify" believes.
	// Default "": the system's.
	BackendCAFile string `toml:"backend_ca_file"`

	// BackendTrustsUs says that the backend may relay to anywhere for our
	// address, and that this is meant so. While it is false the backend is asked
	// before the door opens, and a backend that would relay keeps the door shut:
	// an open relay is the commonest accident of a proxy beside an MTA that
	// trusts its own machine. Default: false.
	BackendTrustsUs bool `toml:"backend_trusts_us"`

	// RelayProbeTo is the recipient of that question, an address which the
	// backend must refuse. No message is sent. Default: "relay-probe@example.com".
	RelayProbeTo string `toml:"relay_probe_to"`

	// Transparent has the kernel hand us connections to any address, which rules of
	// nftables bring here (TPROXY, see "slipstream intercept"): so the MTA keeps
	// its public address and port. It needs CAP_NET_RAW, or a socket of systemd's
	// with Transparent=yes. Default: false.
	Transparent bool `toml:"transparent"`

	// ClientAddress is how the backend learns the client's address: "none",
	// "xclient" or "xforward" (Postfix; the latter for its log alone, so that
	// connections can be pooled), "proxy-v1" or "proxy-v2" (HAProxy's header), or
	// "spoof", which connects from the client's own address, for backends that know
	// none of these; it needs CAP_NET_RAW and rules ("slipstream intercept").
	// Default: "none".
	ClientAddress string `toml:"client_address" oneof:"none xclient xforward proxy-v1 proxy-v2 spoof"`

	// RelayAuth lets clients log in at the backend through us: what it offers by
	// AUTH is offered inside TLS, but for mechanisms that are tied to the
	// connection. A session that logged in has its own connection to the backend
	// and is not asked who its mail is from. Default: false.
	RelayAuth bool `toml:"relay_auth"`

	// RelayCommands are commands besides those of mail that are passed to the
	// backend: "VRFY", "EXPN", "ETRN". Default: none; VRFY is then answered 252,
	// the others 502.
	RelayCommands []string `toml:"relay_commands" oneof:"VRFY EXPN ETRN"`

	// PoolIdle is how long a connection to the backend is kept for the next
	// client; "0s" keeps none beyond a session. What an MTA holds against a
	// connection (errors, too many messages, rules from before its reload) would
	// be held against the next client. Default: "0s".
	PoolIdle time.Duration `toml:"pool_idle" min:"0s" max:"5m"`

	// PoolSize is how many idle connections to one destination are kept.
	// Default: 10.
	PoolSize int `toml:"pool_size" max:"1000"`

	// PoolMessages is how many transactions one connection may carry. A hop that
	// says less in EHLO (https://www.rfc-editor.org/rfc/rfc9422) has its way.
	// Default: 100.
	PoolMessages int `toml:"pool_messages" max:"1000000"`

	// PoolAge is how old a connection may become before it is used no more.
	// Default: "5m".
	PoolAge time.Duration `toml:"pool_age" max:"24h"`

	// HopConnections is how many connections to one address may be open at a
	// time, idle ones included; transactions beyond that wait for their turn, at
	// most timeouts.setup. Default: 0, any number.
	HopConnections int `toml:"hop_connections" min:"0" max:"1000000"`

	// ProxyProtocolFrom are the networks whose connections must begin with a
	// PROXY header, version 1 or 2, which is believed. Default: none.
	ProxyProtocolFrom Prefixes `toml:"proxy_protocol_from"`

	// TLSCert and TLSKey are PEM files with our certificate chain and its key.
	// With them STARTTLS is offered. Default "": no TLS.
	TLSCert string `toml:"tls_cert"`
	TLSKey  string `toml:"tls_key"`

	// TLSMinVersion is the oldest TLS that clients may use: "1.0", "1.1", "1.2"
	// or "1.3". Default: "1.2".
	TLSMinVersion TLSVersion `toml:"tls_min_version"`

	// Allow are the networks that may connect; others hear 421.
	// Default: ["0.0.0.0/0", "::/0"], everyone.
	Allow Prefixes `toml:"allow"`

	// PipeconnectAdvertiseHosts are the networks whose clients are told that they
	// need not wait for our greeting the next time (PIPECONNECT,
	// https://datatracker.ietf.org/doc/html/draft-harris-early-pipe-01), which
	// spares them two trips, with STARTTLS three. Whoever talks early is served,
	// told or not. Not to be used where servers that are not configured alike
	// share one address. Default: ["0.0.0.0/0", "::/0"], everyone; empty: nobody.
	PipeconnectAdvertiseHosts Prefixes `toml:"pipeconnect_advertise_hosts"`

	// AddReceived puts a Received field of ours on top of each message, as
	// https://www.rfc-editor.org/rfc/rfc5321#section-4.4 asks of a relay. Since
	// the backend sees only us, it is also the place where the client's address
	// is kept. Default: true.
	AddReceived bool `toml:"add_received"`

	// FastOpen lets clients that were here before send data in their SYN
	// (https://www.rfc-editor.org/rfc/rfc7413), where the system's
	// net.ipv4.tcp_fastopen lets servers take it; else it does nothing.
	// Default: true.
	FastOpen bool `toml:"fastopen"`

	// Auth says who the mail is from.
	Auth AuthConfig `toml:"auth"`
}

// OutboundConfig is a door from the MTA to the world.
type OutboundConfig struct {
	// Name stands for the door in the log and in metrics: 1 to 32 of a-z, 0-9
	// and "-", unlike the name of any other door. Default: "outbound", for the
	// second door "outbound-2", and so on.
	Name string `toml:"name"`

	// Listen are the addresses where the MTA connects, as "IP:port" or ":port"
	// for all addresses. Default: ["127.0.0.1:10525"], and ["127.0.0.1:10524"]
	// where Protocol is "lmtp".
	Listen []string `toml:"listen"`

	// Protocol is what the MTA speaks to us: "smtp", or "lmtp", which gives it
	// one final reply per recipient. Default: "smtp".
	Protocol string `toml:"protocol" oneof:"smtp lmtp"`

	// Allow are the networks that may send to anywhere through this door. It
	// must name the MTA's own network and no more: whoever is in it can send
	// mail in your name. With Intercept "tproxy" it must name networks other than
	// loopback; their connections alone are taken.
	// Default: ["127.0.0.0/8", "::1/128"].
	Allow Prefixes `toml:"allow"`

	// TLSCert and TLSKey are PEM files with our certificate chain and its key.
	// With them STARTTLS is offered to the MTA. Default "": no TLS.
	TLSCert string `toml:"tls_cert"`
	TLSKey  string `toml:"tls_key"`

	// Route is "mx", to ask the DNS for each recipient's mail hosts
	// (https://www.rfc-editor.org/rfc/rfc5321#section-5.1), or "original", to go
	// where the MTA meant to go: rules of nftables bring its connections to us
	// (see "slipstream intercept"). Default: "mx"; "" when Relay is set, which
	// takes its place.
	Route string `toml:"route" oneof:"mx original"`

	// Intercept is how connections come with Route "original": "redirect", for an
	// MTA on this machine, or "tproxy", for those that we are the router of; that
	// needs CAP_NET_RAW, or a socket of systemd's with Transparent=yes.
	// Default: "redirect".
	Intercept string `toml:"intercept" oneof:"redirect tproxy"`

	// InterceptNetworks are the destinations that are served with Route
	// "original"; connections to others are not redirected, and refused where
	// they come all the same. Default: ["0.0.0.0/0", "::/0"], everywhere.
	InterceptNetworks Prefixes `toml:"intercept_networks"`

	// MTARequiresTLS offers the MTA STARTTLS with our certificate, with Route
	// "original", where it will not send in clear. Default: false, it hears
	// nothing of STARTTLS, and the way to the peer is our care.
	MTARequiresTLS bool `toml:"mta_requires_tls"`

	// Split is what becomes of one transaction's recipients at several
	// destinations, on an SMTP door: "fanout" sends to all of them at once, and
	// remembers what became of each where they differ, so that the MTA's next
	// attempt doubles nothing; "452" has the MTA send a transaction to each
	// destination; "single" has it send one to each recipient. Default: "fanout".
	Split string `toml:"split" oneof:"fanout 452 single"`

	// DestinationFailures is after how many failures in a row to reach any host of
	// a destination its mail is refused at once, with 451 and the time of the next
	// attempt; 0 is never. Default: 3.
	DestinationFailures int `toml:"destination_failures" min:"0" max:"1000"`

	// DestinationPause is how long that lasts at first; it doubles with every
	// failure, up to half an hour. Default: "1m".
	DestinationPause time.Duration `toml:"destination_pause" max:"30m"`

	// ReplyPace is the time between the final replies to an LMTP client, each of
	// which has a segment of its own, for clients that take two in one read for
	// too much. Default: "auto": for OpenSMTPD, which is known by the Received field
	// of its mail, until it has read the one before, or 0.1 s where that cannot be
	// seen; none for others.
	ReplyPace Pace `toml:"reply_pace"`

	// ReplyAttribution is what is added to the words of a hop that refuses, for
	// the MTA to put into its bounce: "off" nothing, "host" the name and address
	// of the hop, "full" the version of TLS too and, where the connection was the
	// trouble, what the hop had greeted with. Code and enhanced code stay as they are. Default: "host".
	ReplyAttribution string `toml:"reply_attribution" oneof:"off host full"`

	// Relay is the one host that all mail goes to: "host:port",
	// "smtps://host:port" (TLS before the greeting) or "lmtp://host:port".
	// Default "": Route.
	Relay Endpoint `toml:"relay" forms:"host:port smtps://host:port lmtp://host:port"`

	// MXPort is the port of MX hosts; anything but 25 is for tests and closed
	// networks. Default: 25.
	MXPort int `toml:"mx_port" max:"65535"`

	// TLS is the protection of the way to peers: "none", "may" (if offered),
	// "encrypt" (or no mail; certificate not checked) or "verify" (or no mail;
	// the certificate must be for the name of the MX host or relay).
	// Default: "may". With a relay of "smtps://", "may" becomes "encrypt".
	TLS string `toml:"tls" oneof:"none may encrypt verify"`

	// TLSCAFile is a PEM file with the authorities that "verify" believes.
	// Default "": the system's.
	TLSCAFile string `toml:"tls_ca_file"`

	// TLSMinVersion is the oldest TLS that we speak, with peers as with the MTA:
	// "1.0", "1.1", "1.2" or "1.3". Default: "1.2".
	TLSMinVersion TLSVersion `toml:"tls_min_version"`

	// Resume offers peers the TLS sessions that they gave us before, which spares
	// both sides the costly part of the handshake. Default: true.
	Resume bool `toml:"resume"`

	// PostQuantum offers peers a key exchange that a quantum computer would not
	// break either, X25519MLKEM768. It makes the first message of a handshake
	// larger than what fits into a SYN, so that Fast Open spares TLS on connect
	// no trip. Default: true.
	PostQuantum bool `toml:"post_quantum"`

	// HostsPipeConnect are the networks of hops that may be spoken to early:
	// where a hop offered PIPECONNECT before, the next connection does not wait
	// for its greeting. Default: ["0.0.0.0/0", "::/0"], everyone; [] for nobody.
	HostsPipeConnect Prefixes `toml:"hosts_pipe_connect"`

	// LateVerdict answers the one recipient of a transaction before the hop did
	// where the client's text follows anyway, so that both travel in one flight
	// and the final reply speaks for the recipient too; with Protocol "lmtp",
	// or where an SMTP client asks for PRDR, which is offered, every recipient.
	// Default: true.
	LateVerdict bool `toml:"late_verdict"`

	// ConnectAhead begins to connect to a hop while the MTA is still writing: at
	// MAIL where there is a relay, and where LateVerdict answers RCPT. Default:
	// true.
	ConnectAhead bool `toml:"connect_ahead"`

	// ControlShare is the share of transactions that are sent without any of
	// what makes them fast, so that the gain can be seen in the log and in
	// metrics: from 0 to 1. Default: 0.
	ControlShare float64 `toml:"control_share"`

	// PoolIdle is how long a connection to a hop is kept for the next transaction
	// of any client, when one is over; "0s" keeps none. Those who are on the
	// other side wait for five minutes at least
	// (https://www.rfc-editor.org/rfc/rfc5321#section-4.5.3.2.7).
	// Default: "30s".
	PoolIdle time.Duration `toml:"pool_idle" min:"0s" max:"5m"`

	// PoolSize is how many idle connections to one destination are kept.
	// Default: 10.
	PoolSize int `toml:"pool_size" max:"1000"`

	// PoolMessages is how many transactions one connection may carry. A hop that
	// says less in EHLO (https://www.rfc-editor.org/rfc/rfc9422) has its way.
	// Default: 100.
	PoolMessages int `toml:"pool_messages" max:"1000000"`

	// PoolAge is how old a connection may become before it is used no more.
	// Default: "5m".
	PoolAge time.Duration `toml:"pool_age" max:"24h"`

	// HopConnections is how many connections to one address may be open at a
	// time, idle ones included; transactions beyond that wait for their turn, at
	// most timeouts.setup. Default: 0, any number.
	HopConnections int `toml:"hop_connections" min:"0" max:"1000000"`

	// FastOpen says what may ride in the SYN of a connection to a peer that was
	// met before, and takes a trip less that way
	// (https://www.rfc-editor.org/rfc/rfc7413): "off", "commands" or "message".
	// It is used only where we may speak first. What is in a SYN can arrive
	// twice without anybody's knowing
	// (https://www.rfc-editor.org/rfc/rfc7413#section-6.1): with "commands" that
	// does nothing, with "message" it can deliver a message twice. Default: "off".
	FastOpen string `toml:"fastopen" oneof:"off commands message"`

	// Offer are the extensions that the MTA is promised before the peer is
	// known, which is so with Route "mx" only (a relay's own offer is passed
	// on). Each promise can turn out wrong for a peer:
	//
	//   - 8BITMIME: a message with 8-bit text is refused with 554 5.6.3 when the
	//     peer lacks it, since converting would break signatures;
	//   - SMTPUTF8: a transaction that uses it is refused with 550 5.6.7
	//     (https://www.rfc-editor.org/rfc/rfc6531#section-3.5); needs 8BITMIME;
	//   - CHUNKING: the MTA may send its text behind the envelope, which saves a
	//     trip; but where split is "452", Exim 4.96 then puts the rest of a message
	//     for several domains off until its next queue run, where it would else
	//     send it at once;
	//   - DSN: the parameters are dropped, and no "relayed" notice
	//     (https://www.rfc-editor.org/rfc/rfc3461#section-5.2.2) is made, so a
	//     sender who asked for one may hear nothing.
	//
	// Default: ["8BITMIME", "SMTPUTF8"]; none when Relay is set.
	Offer []string `toml:"offer" oneof:"8BITMIME SMTPUTF8 DSN CHUNKING"`

	// AddReceived puts a Received field of ours on top of each message. The MTA
	// that hands us the mail has just put its own. Default: false.
	AddReceived bool `toml:"add_received"`

	// SourceAddress are the local addresses to connect from, at most one IPv4
	// and one IPv6. Default: none, the system chooses.
	SourceAddress []netip.Addr `toml:"source_address"`

	// AddressFamily is "any", "ipv4" or "ipv6": which addresses of a host are
	// used. Default: "any".
	AddressFamily string `toml:"address_family" oneof:"any ipv4 ipv6"`

	// AllowPrivateDestinations permits MX hosts on loopback and link-local
	// addresses, which anyone who has a domain could use to make us talk to
	// ourselves. Default: false.
	AllowPrivateDestinations bool `toml:"allow_private_destinations"`
}

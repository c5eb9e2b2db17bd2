package proxy_test

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"slipstream/bench/mta"
	"slipstream/bench/mta/mtatest"
)

// A chainWorld is everybody from who sends mail to who has it: Exim, which finds us in the DNS; our own process, with
// a door for each receiving domain; Postfix; NSD and Unbound, whom everybody asks; and those who know what is to be
// found.
type chainWorld struct {
	names    netip.AddrPort
	doors    chainServers // with their port
	exim     *mta.Instance
	postfix  *mta.Instance
	oracle   *chainOracle
	suffixes string // the list of public suffixes
	log      string // file of ours
}

// chainSuffixes is a list of public suffixes for the zone of the test.
const chainSuffixes = "example\nco.example\ntest\narpa\n"

// newChainWorld starts them, for mails that Exim is to send.
func newChainWorld(t *testing.T, mails []chainMail) *chainWorld {
	t.Helper()
	w := &chainWorld{}
	port := w.chooseDoors(t)
	w.postfix = mtatest.Start(t, mta.Postfix, mta.Config{Hostname: "inner.test",
		Local: []string{"tree.test", "psl.test", "six.test", "reject.test", "quarantine.test"},
		// Our address is one of Postfix's own, whose mail it would mend.
		Extra: []string{"local_header_rewrite_clients =", "header_size_limit = 4194304"}})
	keys := newChainKeys(t)
	host := func(addr string) string { return netip.MustParseAddrPort(addr).Addr().String() }
	w.startNames(t, chainZone(keys, chainServers{
		host(w.doors.tree), host(w.doors.psl), host(w.doors.reject), host(w.doors.quarantine)}))
	w.oracle = startChainOracle(t, w.names)
	w.oracle.ask(t, chainQuestion{Do: "keys", Keys: keys.secrets()})
	w.startProxy(t, port)
	w.startExim(t, mails, port)
	return w
}

// chooseDoors finds addresses that share a free port with ::1.
func (w *chainWorld) chooseDoors(t *testing.T) (port int) {
	t.Helper()
	for range 20 {
		at := realNeighbours(t, 4)
		port = portOf(at[0])
		ln, err := net.Listen("tcp", fmt.Sprintf("[::1]:%d", port))
		if err != nil && !strings.Contains(err.Error(), "in use") {
			t.Skip("no IPv6 on loopback: ", err)
		}
		if err == nil {
			_ = ln.Close() // it was only to see whether it is free
			w.doors = chainServers{at[0], at[1], at[2], at[3]}
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

// startNames runs NSD and, at port 53 of an address of its own, Unbound: a C library asks no other port.
func (w *chainWorld) startNames(t *testing.T, zone string) {
	t.Helper()
	ctx := mtatest.Context(t)
	nsd, err := mta.NSD{Zones: map[string]string{".": zone, "lame.example": ""}}.Start(ctx)
	mtatest.Check(t, err)
	t.Cleanup(func() { _ = nsd.Stop() })
	at := netip.MustParseAddrPort(w.doors.tree).Addr().As4()
	at[3] = 53 // a neighbour of the doors
	w.names = netip.AddrPortFrom(netip.AddrFrom4(at), 53)
	if ln, err := net.Listen("tcp", w.names.String()); err != nil {
		t.Skip("port 53 is not free on loopback: ", err)
	} else {
		_ = ln.Close() // it was only to see whether it is free
	}
	stubs := map[string]string{".": nsd.Addr(), "lame.example": nsd.Addr()}
	unbound, err := mta.Unbound{Listen: w.names.String(), Stubs: stubs}.Start(ctx)
	mtatest.Check(t, err)
	t.Cleanup(func() { _ = unbound.Stop() })
}

const chainConfig = `
hostname = "mx.tree.test"
state_dir = %[1]q
admin.listen = ""
dns.servers = [%[2]q]
[limits]
max_connections_per_client = 1000
[[inbound]]
name = "tree"
listen = [%[3]q, "[::1]:%[4]d"]
backend = %[5]q
auth.authserv_id = %[6]q
auth.trusted_networks = []
[[inbound]]
name = "psl"
listen = [%[7]q]
backend = %[5]q
auth.authserv_id = %[6]q
auth.trusted_networks = []
auth.discovery = "psl"
auth.dmarc_tld_file = %[8]q
[[inbound]]
name = "reject"
listen = [%[9]q]
backend = %[5]q
auth.authserv_id = %[6]q
auth.trusted_networks = []
auth.enforce = "reject"
auth.trusted_sealers = ["list.example"]
[[inbound]]
name = "quarantine"
listen = [%[10]q]
backend = %[5]q
auth.authserv_id = %[6]q
auth.trusted_networks = []
auth.enforce = "quarantine"
`

// startProxy runs our own service as it is shipped.
func (w *chainWorld) startProxy(t *testing.T, port int) {
	t.Helper()
	dir := t.TempDir()
	w.suffixes = filepath.Join(dir, "suffixes")
	text := fmt.Sprintf(chainConfig, filepath.Join(dir, "state"), w.names, w.doors.tree, port, w.postfix.Addr(), chainID,
		w.doors.psl, w.suffixes, w.doors.reject, w.doors.quarantine)
	config := filepath.Join(dir, "slipstream.toml")
	for name, text := range map[string]string{config: text, w.suffixes: chainSuffixes} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	w.log = log.Name()
	p := &mortalProxy{binary: buildBinary(t), config: config, log: log,
		doors: []string{w.doors.tree, w.doors.psl, w.doors.reject, w.doors.quarantine}}
	if err := p.start(mtatest.Context(t)); err != nil {
		text, _ := os.ReadFile(w.log)
		t.Fatalf("%v\n%s", err, text)
	}
	t.Cleanup(func() {
		_ = p.kill() // the test is over either way
		_ = log.Close()
		if t.Failed() {
			text, _ := os.ReadFile(w.log)
			lines := strings.Split(strings.TrimSpace(string(text)), "\n")
			t.Logf("our log:\n%s", strings.Join(lines[max(0, len(lines)-30):], "\n"))
		}
	})
}

// startExim runs Exim as it would send anywhere, by MX; but where it sends from and what it calls itself are looked up
// for each recipient in a file, and it adds nothing to a message.
func (w *chainWorld) startExim(t *testing.T, mails []chainMail, port int) {
	t.Helper()
	dir := t.TempDir()
	var cases strings.Builder
	for i, m := range mails {
		fmt.Fprintf(&cases, "%s: client=\"<; %s\" helo=\"%s\"\n", chainRecipient(i), m.client, m.helo)
	}
	if err := os.MkdirAll(filepath.Join(dir, "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "data/cases"), []byte(cases.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	const look = "${extract{%s}{${lookup{$local_part}lsearch{/slipstream/cases}}}}"
	w.exim = mtatest.Start(t, mta.Exim, mta.Config{Dir: dir, Hostname: "mx.sender.test", Local: []string{"sender.test"},
		RelayFrom: []string{"127.0.0.0/8"}, DNS: w.names.Addr().String(), MXPort: port,
		Extra: []string{"received_header_text =", "smtp_accept_max_nonmail = 1000", "header_maxsize = 4M",
			"dns_dnssec_ok = 0", "disable_ipv6 = false"},
		ExtraClient: []string{"message_linelength_limit = 100000", "interface = " + fmt.Sprintf(look, "client"),
			"helo_data = " + fmt.Sprintf(look, "helo")}})
}

// chainPeers is where the programs lie that fetch.sh lays out.
func chainPeers(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(cmp.Or(os.Getenv("SLIPSTREAM_PEERS"), "../.peers"))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func chainRecipient(i int) string { return fmt.Sprintf("n%d", i) }

// submit hands Exim a message to send.
func (w *chainWorld) submit(t *testing.T, d *mta.Dialog, m chainMail, to string, text []byte) {
	t.Helper()
	from := m.from
	if from == "<>" {
		from = ""
	}
	params := "BODY=8BITMIME"
	if strings.ContainsFunc(from, func(r rune) bool { return r >= utf8.RuneSelf }) {
		params += " SMTPUTF8"
	}
	realHear(t, d, 250, "MAIL FROM:<%s> %s", from, params)
	realHear(t, d, 250, "RCPT TO:<%s>", to)
	if a, err := d.Chunk(text); err != nil || a.Code != 250 {
		t.Fatalf("%s: Exim says %v, %v", m.name, a, err)
	}
}

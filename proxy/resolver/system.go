package resolver

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"

	"github.com/miekg/dns"
)

// systemServers reads the name servers of a resolv.conf file, at most 8. As the C library does, it takes the server on this
// host where the file names none or does not exist.
func systemServers(file string) ([]netip.AddrPort, error) {
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("resolver: %w", err)
	}
	conf, err := dns.ClientConfigFromReader(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("resolver: %s: %w", file, err)
	}
	var list []netip.AddrPort
	for _, s := range conf.Servers {
		addr, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("resolver: %s: nameserver %q is not an address", file, s)
		}
		if len(list) < maxServers {
			list = append(list, netip.AddrPortFrom(addr, 53))
		}
	}
	if len(list) == 0 {
		list = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53"), netip.MustParseAddrPort("[::1]:53")}
	}
	return list, nil
}

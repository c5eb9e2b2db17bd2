package proxy

import (
	"net/netip"

	"slipstream/proxy/intercept"
)

// The ports at which the world finds an MTA: with STARTTLS, and with TLS on connect
// (https://www.rfc-editor.org/rfc/rfc8314#section-7.3).
const (
	publicPort    = 25
	publicTLSPort = 465
)

// Interception is what the kernel must do for the doors of a configuration, but for
// who we are and what kind of machine it is.
func Interception(cfg *Config) intercept.Plan {
	var p intercept.Plan
	for i := range cfg.Outbound {
		if d := &cfg.Outbound[i]; d.Route == routeOriginal {
			p.Outbound = append(p.Outbound, intercept.Outbound{
				Door: d.Name, TProxy: d.tproxied(), Listen: listenAddrs(d.Listen),
				Networks: d.InterceptNetworks, Port: uint16(d.MXPort), Clients: d.Allow,
			})
		}
	}
	for i := range cfg.Inbound {
		d := &cfg.Inbound[i]
		in := intercept.Inbound{Door: d.Name, Spoof: d.ClientAddress == announceSpoof, Backends: backendAddrs(d.Backend)}
		if d.Transparent && len(d.Listen) > 0 {
			in.Fronts = append(in.Fronts, intercept.Front{Port: publicPort, Listen: listenAddrs(d.Listen)})
		}
		if d.Transparent && len(d.ListenTLS) > 0 {
			in.Fronts = append(in.Fronts, intercept.Front{Port: publicTLSPort, Listen: listenAddrs(d.ListenTLS)})
		}
		if in.Spoof || len(in.Fronts) > 0 {
			p.Inbound = append(p.Inbound, in)
		}
	}
	return p
}

func listenAddrs(listen []string) (addrs []netip.AddrPort) {
	for _, s := range listen {
		if a, err := parseListen(s); err == nil { // or the configuration would not have been read
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// backendAddrs are the addresses of a backend, where they can be known without
// asking anybody.
func backendAddrs(e Endpoint) []netip.AddrPort {
	if e.Host == "" {
		return nil
	}
	if e.Host == "localhost" {
		return []netip.AddrPort{
			netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), e.Port), netip.AddrPortFrom(netip.IPv6Loopback(), e.Port),
		}
	}
	a, err := netip.ParseAddr(e.Host)
	if err != nil {
		a = netip.Addr{} // a name: it may have another address tomorrow
	}
	return []netip.AddrPort{netip.AddrPortFrom(a.Unmap(), e.Port)}
}

package proxy

import (
	"slices"
)

// What the kernel asks of who does what only root could once.
const (
	bindCapability  = "CAP_NET_BIND_SERVICE" // ports below firstFreePort
	rawCapability   = "CAP_NET_RAW"          // connections from and to addresses of others
	adminCapability = "CAP_NET_ADMIN"        // rules
)

// A privilege is a capability that a configuration needs, and what for.
type privilege struct {
	name string
	why  []string // `inbound: client_address = "spoof"`
}

// privileges are what the doors need, and no more: where none is transparent
// there is none but for low ports.
func (c *Config) privileges() []privilege {
	bind, raw := privilege{name: bindCapability}, privilege{name: rawCapability}
	low := func(door string, addrs ...[]string) {
		for _, addr := range slices.Concat(addrs...) {
			if privileged(addr) {
				bind.why = append(bind.why, door+": "+addr)
			}
		}
	}
	for i := range c.Inbound {
		d := &c.Inbound[i]
		low(d.Name, d.Listen, d.ListenTLS)
		if d.Transparent {
			raw.why = append(raw.why, d.Name+": transparent")
		}
		if d.ClientAddress == announceSpoof {
			raw.why = append(raw.why, d.Name+`: client_address = "spoof"`)
		}
	}
	for i := range c.Outbound {
		d := &c.Outbound[i]
		low(d.Name, d.Listen)
		if d.tproxied() {
			raw.why = append(raw.why, d.Name+`: intercept = "tproxy"`)
		}
	}
	low("admin", []string{c.Admin.Listen})
	return slices.DeleteFunc([]privilege{bind, raw}, func(p privilege) bool { return len(p.why) == 0 })
}

// unitLines are the lines of the unit that give the service what it needs, and
// keep it from everything else.
func unitLines(needed []privilege) string {
	list := namesOf(needed)
	return `"AmbientCapabilities=` + list + `" and "CapabilityBoundingSet=` + list + `"`
}

package proxy

import (
	"errors"
	"fmt"
)

// errPrivilege: the kernel wants one that we do not have.
var errPrivilege = errors.New("needs " + rawCapability)

// rawRemedy says how to come by it.
const rawRemedy = "write AmbientCapabilities=" + rawCapability + " in the [Service] section of the unit, and " +
	rawCapability + " into CapabilityBoundingSet where it has one"

// openUp gives the listener of a port what its door needs of the kernel. A reload that needs it no longer takes nothing
// back: what no rule brings there does not come.
func (pp plannedPort) openUp(pt *port) error {
	if !pp.transparent {
		return nil
	}
	if err := setTransparent(pt.ln); err != nil {
		return fmt.Errorf("door %q, %s: %w; or have systemd open it, by a socket unit with Transparent=yes",
			pp.door.name, pp.addr, err)
	}
	return nil
}

// tproxied tells whether a door's connections are brought to it with the address that they were meant for.
func (d *OutboundConfig) tproxied() bool {
	return d.Route == routeOriginal && d.Intercept == interceptTPROXY
}

package proxy

import (
	"net/netip"
	"slices"
)

// The words of route and intercept.
const (
	routeMX           = "mx"
	routeOriginal     = "original"
	interceptRedirect = "redirect"
	interceptTPROXY   = "tproxy"
)

// intercept checks the keys of a door for intercepted connections.
func (v *configCheck) intercept(path string, d *OutboundConfig) {
	if d.Route == routeOriginal {
		v.original(path, d)
		return
	}
	usual := unsetOutbound()
	for _, k := range []struct {
		key     string
		changed bool
	}{
		{"intercept", d.Intercept != usual.Intercept},
		{"intercept_networks", !slices.Equal(d.InterceptNetworks, usual.InterceptNetworks)},
		{"mta_requires_tls", d.MTARequiresTLS},
	} {
		if k.changed && !v.blamed(path+"."+k.key) {
			v.wrong(path+"."+k.key, `has no use here; allowed with: route = "original"`)
		}
	}
}

// original checks a door whose clients mean to go elsewhere.
func (v *configCheck) original(path string, d *OutboundConfig) {
	if d.Protocol == "lmtp" {
		v.wrong(path+".protocol", `"lmtp" cannot be intercepted: nobody sends it to MX hosts; `+
			`allowed with route = "original": "smtp"`)
	}
	if len(d.InterceptNetworks) == 0 && !v.blamed(path+".intercept_networks") {
		v.wrong(path+".intercept_networks", `is empty, so nobody would be served; `+
			`allowed: one network or more, ["0.0.0.0/0", "::/0"] for all`)
	}
	if d.AddressFamily != "any" && !v.blamed(path+".address_family") {
		v.wrong(path+".address_family", `has no use with route = "original": the client has chosen the address; `+
			`allowed: intercept_networks`)
	}
	remote := func(n netip.Prefix) bool { return !n.Addr().IsLoopback() }
	if d.Intercept == interceptTPROXY && len(d.Allow) > 0 && !v.blamed(path+".allow") && !slices.ContainsFunc(d.Allow, remote) {
		v.missing(path+".allow", `names this machine alone, and intercept = "tproxy" takes the connections of others; `+
			`write the networks of the MTAs that this machine is the router of, such as allow = ["10.0.0.0/24"]`)
	}
	if v.blamed(path+".tls_cert") || v.blamed(path+".tls_key") {
		return
	}
	switch {
	case d.MTARequiresTLS && d.TLSCert == "":
		v.missing(path+".mta_requires_tls", "needs tls_cert and tls_key, which the MTA must be content with")
	case !d.MTARequiresTLS && d.TLSCert != "":
		v.missing(path+".tls_cert", `has no use with route = "original", where STARTTLS is not offered; `+
			`allowed with: mta_requires_tls = true`)
	}
}

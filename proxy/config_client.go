package proxy

// clientAddress checks how the backend learns who the client is.
func (v *configCheck) clientAddress(path string, d *InboundConfig) {
	if d.ClientAddress == announceSpoof && d.Backend.Path != "" {
		v.wrong(path+".client_address", `"spoof" needs a backend that is reached by TCP; allowed on a Unix socket: `+
			`"none", "xclient", "xforward", "proxy-v1", "proxy-v2"`)
	}
}

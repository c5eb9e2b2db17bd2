package wan

import "testing"

func TestSysctlPath(t *testing.T) {
	for name, want := range map[string]string{
		"net.ipv4.tcp_fastopen":         "/proc/sys/net/ipv4/tcp_fastopen",
		"net.ipv6.conf.wan.disable_ra":  "/proc/sys/net/ipv6/conf/wan/disable_ra",
		"net.netfilter.nf_log.2-x":      "/proc/sys/net/netfilter/nf_log/2-x",
		"":                              "",
		"net.":                          "",
		"network.x":                     "",
		"kernel.panic":                  "",
		"vm.swappiness":                 "",
		"net...kernel.panic":            "",
		"net./../kernel/panic":          "",
		"net.ipv4/../../kernel/panic":   "",
		"net.ipv4.tcp_fastopen\x00":     "",
		"net.ipv4.":                     "",
		"net.ipv4..tcp_fastopen":        "",
		"/proc/sys/net.ipv4.ip_forward": "",
	} {
		path, err := sysctlPath(name)
		if path != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", name, path, err)
		}
	}
}

func TestNumeric(t *testing.T) {
	for address, want := range map[string]bool{
		"198.18.0.1:25":   true,
		"[2001:2::1]:25":  true,
		"[fe80::1%wan]:1": true,
		":0":              true,
		"localhost:25":    false,
		"198.18.0.1":      false,
		"":                false,
	} {
		if err := numeric(address); (err == nil) != want {
			t.Errorf("%q: %v", address, err)
		}
	}
}

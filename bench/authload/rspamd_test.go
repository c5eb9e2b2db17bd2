//go:build linux

package authload

import (
	"fmt"
	"path/filepath"
	"testing"
)

// startRspamd runs rspamd with one worker and the four modules.
func startRspamd(tb testing.TB, _ *world, m mail) contestant {
	program, root, libraries := peer(tb, "rspamd", "usr/bin/rspamd")
	dir, addr := tb.TempDir(), freeAddr(tb)
	writeFile(tb, dir, "suffixes", "com\nnet\nexample\n") // the full list takes half a minute to compile
	config := writeFile(tb, dir, "rspamd.conf", fmt.Sprintf(`
options {
  pidfile = "%[1]s/pid"; tempdir = "%[1]s"; cache_file = "%[1]s/cache"; hs_cache_dir = "%[1]s/";
  stats_file = "%[1]s/stats";
  control_socket = "%[1]s/control mode=0600"; dynamic_conf = "%[1]s/dynamic"; history_file = "%[1]s/history";
  url_tld = "%[1]s/suffixes"; filters = "dkim"; local_addrs = []; check_local = true; check_authed = true;
  dns { nameserver = ["%[3]s:53:1"]; timeout = 1s; retransmits = 5; sockets = 16; }
}
lang_detection { languages = "%[2]s/languages"; }
logging { type = "console"; level = "error"; }
worker "normal" { bind_socket = "%[4]s"; count = 1; mime = true; }
modules { path = "%[2]s/plugins/spf.lua"; path = "%[2]s/plugins/dmarc.lua"; path = "%[2]s/plugins/arc.lua"; }
dkim { dkim_cache_size = 2k; time_jitter = 6h; trusted_only = false; skip_multi = false; }
spf { spf_cache_size = 2k; }
dmarc { }
arc { sign_inbound = false; sign_local = false; sign_authenticated = false; }
`, dir, filepath.Join(root, "usr/share/rspamd"), nameserver, addr))
	var args []string
	for name, path := range map[string]string{
		"SHAREDIR": "", "PLUGINSDIR": "plugins", "RULESDIR": "rules", "LUALIBDIR": "lualib", "WWWDIR": "www",
	} {
		args = append(args, "--var="+name+"="+filepath.Join(root, "usr/share/rspamd", path))
	}
	for _, name := range []string{"DBDIR", "RUNDIR", "LOGDIR", "CONFDIR", "LOCAL_CONFDIR"} {
		args = append(args, "--var="+name+"="+dir)
	}
	pid := launch(tb, "", libraries, addr, program, append(args, "-f", "-i", "-c", config)...)
	return contestant{pids: []int{pid}, dial: func() (session, error) {
		want := []string{"R_DKIM_ALLOW", "R_SPF_ALLOW", "DMARC_POLICY_ALLOW"}
		if m.sealed {
			want = append(want, "ARC_ALLOW")
		}
		return dialHTTP(addr, want...)()
	}}
}

package proxy

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A holder is the process that listens on a port.
type holder struct {
	pid  int
	name string
	exe  string // "" where we may not know
}

// String names the process as ps does.
func (h holder) String() string { return fmt.Sprintf("%s (pid %d)", h.name, h.pid) }

// ours tells whether it runs the same program as we do. A binary that was
// replaced since has a mark behind its name.
func (h holder) ours() bool {
	self, err := os.Executable()
	return err == nil && h.exe != "" &&
		filepath.Base(strings.TrimSuffix(h.exe, " (deleted)")) == filepath.Base(self)
}

// passesOn tells whether it is systemd, which holds ports for the services of socket units.
func (h holder) passesOn() bool { return h.pid == 1 && h.name == "systemd" }

// maxProcNet bounds how much of the kernel's list of sockets is looked at.
const maxProcNet = 1 << 16 // lines

// listenerOf finds who listens on an address, as far as Linux lets us see it in
// the /proc of root: other users' processes show only to the superuser.
func listenerOf(root fs.FS, addr netip.AddrPort) (holder, bool) {
	inode := ""
	for _, table := range []string{"proc/net/tcp", "proc/net/tcp6"} {
		if inode = listeningInode(root, table, addr); inode != "" {
			break
		}
	}
	if inode == "" {
		return holder{}, false
	}
	processes, err := fs.Glob(root, "proc/[0-9]*")
	if err != nil {
		return holder{}, false
	}
	for _, dir := range processes {
		if holdsSocket(root, dir, inode) {
			return describeProcess(root, dir)
		}
	}
	return holder{}, false
}

// The columns of /proc/net/tcp that matter, and its word for LISTEN (proc_pid_net(5)).
const (
	columnLocal = 1
	columnState = 3
	columnInode = 9
	stateListen = "0A"
)

// listeningInode finds the socket that listens on an address, "" if none does.
func listeningInode(root fs.FS, table string, addr netip.AddrPort) string {
	f, err := root.Open(table)
	if err != nil {
		return ""
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for range maxProcNet {
		if !lines.Scan() {
			break
		}
		columns := strings.Fields(lines.Text())
		if len(columns) <= columnInode || columns[columnState] != stateListen {
			continue
		}
		local, ok := parseProcAddr(columns[columnLocal])
		if ok && local.Port() == addr.Port() &&
			(local.Addr() == addr.Addr() || local.Addr().IsUnspecified() || addr.Addr().IsUnspecified()) {
			return columns[columnInode]
		}
	}
	return ""
}

// parseProcAddr reads "0100007F:09DD": the address in words of four octets, each
// with its lowest octet first, as little-endian machines show it.
func parseProcAddr(s string) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(s, ":")
	octets, err := hex.DecodeString(host)
	if !ok || err != nil || len(octets)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for word := range slices.Chunk(octets, 4) {
		slices.Reverse(word)
	}
	addr, ok := netip.AddrFromSlice(octets)
	n, err := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), true
}

func holdsSocket(root fs.FS, dir, inode string) bool {
	files, err := fs.ReadDir(root, path.Join(dir, "fd"))
	if err != nil {
		return false // another user's process, or one that has ended
	}
	return slices.ContainsFunc(files, func(f fs.DirEntry) bool {
		to, err := fs.ReadLink(root, path.Join(dir, "fd", f.Name()))
		return err == nil && to == "socket:["+inode+"]"
	})
}

func describeProcess(root fs.FS, dir string) (holder, bool) {
	pid, err := strconv.Atoi(path.Base(dir))
	if err != nil {
		return holder{}, false
	}
	h := holder{pid: pid, name: "process"}
	if name, err := fs.ReadFile(root, path.Join(dir, "comm")); err == nil {
		h.name = strings.TrimSpace(string(name))
	}
	if exe, err := fs.ReadLink(root, path.Join(dir, "exe")); err == nil {
		h.exe = exe
	}
	return h, true
}

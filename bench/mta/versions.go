package mta

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"strings"
)

// Versions lists what fetch.sh laid into a directory (as Config.Peers), each as "exim4-daemon-heavy 4.96-15+deb12u10";
// nothing where there is no such directory. Libraries are left out.
func Versions(peers string) []string {
	tree, err := findPeer(peers, "postfix")
	if err != nil {
		return nil
	}
	stamp, err := os.ReadFile(filepath.Join(filepath.Dir(tree), "stamp"))
	if err != nil {
		return nil
	}
	var list []string
	lines := bufio.NewScanner(bytes.NewReader(stamp))
	lines.Scan() // what the directory is good for
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) == 3 && leads(fields[1]) {
			list = append(list, fields[1]+" "+fields[2])
		}
	}
	return list
}

// leads says whether a package is one that a tree was made for.
func leads(name string) bool {
	switch name {
	case "postfix", "exim4-daemon-heavy", "swaks", "haproxy", "nginx":
		return true
	}
	return false
}

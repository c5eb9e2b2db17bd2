package mta

import (
	"fmt"
	"os"
	"path/filepath"
)

// findPeer returns the absolute path of one unpacked tree: "postfix", "exim", "swaks", "haproxy".
func findPeer(dir, name string) (string, error) {
	if dir == "" {
		dir = os.Getenv("SLIPSTREAM_PEERS")
	}
	if dir == "" {
		var err error
		if dir, err = searchUp(); err != nil {
			return "", err
		}
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	tree := filepath.Join(dir, name)
	if _, err := os.Stat(filepath.Join(tree, "usr")); err != nil {
		return "", fmt.Errorf("%w: no %s in %s; \"make peers\" fetches it", ErrUnavailable, name, dir)
	}
	return tree, nil
}

// searchUp looks for .peers in the working directory and above.
func searchUp() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		peers := filepath.Join(dir, ".peers")
		if _, err := os.Stat(filepath.Join(peers, "stamp")); err == nil {
			return peers, trust(peers)
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("%w: no .peers in %s or above; \"make peers\" makes one", ErrUnavailable, start)
		}
	}
}

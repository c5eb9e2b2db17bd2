package mta

import (
	"errors"
	"os/exec"
	"path/filepath"
)

// findProgram looks for a program, path, in the tree of a name, and else for one of the name that is installed. In the
// latter case the tree is the root.
func findProgram(peers, name, path string) (program, tree string, err error) {
	tree, err = findPeer(peers, name)
	if err == nil {
		return filepath.Join(tree, path), tree, nil
	}
	if !errors.Is(err, ErrUnavailable) {
		return "", "", err
	}
	program, missing := exec.LookPath(name)
	if missing != nil {
		return "", "", err // what can be done about it
	}
	program, err = filepath.Abs(program)
	return program, "/", err
}

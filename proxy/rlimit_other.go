//go:build !unix

package proxy

// raiseFileLimit has nothing to do where there is no such limit.
func raiseFileLimit() (uint64, error) { return 0, nil }

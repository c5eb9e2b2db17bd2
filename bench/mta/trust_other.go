//go:build !unix

package mta

// trust has nothing to compare.
func trust(string) error { return nil }

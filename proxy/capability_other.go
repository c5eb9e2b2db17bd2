//go:build !linux

package proxy

// capabilities is for systems that divide root's power so.
func capabilities() (held []string, ok bool) { return nil, false }

func canBeTransparent() error { return errNotTransparent }

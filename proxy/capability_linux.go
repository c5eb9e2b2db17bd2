package proxy

import "golang.org/x/sys/unix"

// capabilities tells which capabilities we may use now, of those that are of
// interest here; ok is false where the kernel does not say.
func capabilities() (held []string, ok bool) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3} // of this thread, and they are all alike
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return nil, false
	}
	for _, c := range []struct {
		name string
		bit  int
	}{
		{bindCapability, unix.CAP_NET_BIND_SERVICE},
		{rawCapability, unix.CAP_NET_RAW},
		{adminCapability, unix.CAP_NET_ADMIN},
	} {
		if data[0].Effective&(1<<c.bit) != 0 {
			held = append(held, c.name)
		}
	}
	return held, true
}

// canBeTransparent tries on a socket of its own what transparent doors do. That is
// the truth also where capabilities hold in another namespace than the network's.
func canBeTransparent() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return privilegeFor("setting IP_TRANSPARENT", socketTransparent(fd))
}

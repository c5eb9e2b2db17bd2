package wan

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	tunPath = "/dev/net/tun"
	// deviceName is what the device is called in each namespace.
	deviceName = "wan"
	// deviceQueue is how many packets the kernel keeps for us while we are elsewhere: at a gigabit per second a tenth of
	// a second.
	deviceQueue = 10000
	// patience is how long a new device may take until it can be used.
	patience = 5 * time.Second
)

// open makes both sides and sets the carrier to work.
func open(ctx context.Context, c Config) (*Link, error) {
	// 198.18.0.0/15 and 2001:2::/48 are for benchmarks and are routed nowhere.
	// https://www.rfc-editor.org/rfc/rfc2544#appendix-C.2.2 https://www.rfc-editor.org/rfc/rfc5180#section-8
	v4 := [2]netip.Addr{netip.AddrFrom4([4]byte{198, 18, 0, 1}), netip.AddrFrom4([4]byte{198, 18, 0, 2})}
	v6 := [2]netip.Addr{netip.MustParseAddr("2001:2::1"), netip.MustParseAddr("2001:2::2")}
	l := &Link{traffic: newTraffic(c, time.Now())}
	var namespaces [2]*namespace
	for way := range l.sides {
		s := &Side{addr: v4[way]}
		n, err := newNamespace(func(n *namespace) (err error) {
			s.addr6, err = furnish(ctx, n, c, [2]netip.Addr{v4[way], v4[1-way]}, [2]netip.Addr{v6[way], v6[1-way]})
			return err
		})
		if err != nil {
			return nil, errors.Join(err, discard(namespaces))
		}
		s.namespace, l.sides[way], namespaces[way] = n, s, n
	}
	err := ctx.Err()
	if err == nil {
		l.carrier, err = startCarrier(l.traffic, namespaces)
	}
	if err != nil {
		return nil, errors.Join(err, discard(namespaces))
	}
	return l, nil
}

func discard(namespaces [2]*namespace) error {
	var errs []error
	for _, n := range namespaces {
		if n != nil {
			errs = append(errs, n.closeDevice(), n.close())
		}
	}
	return errors.Join(errs...)
}

// furnish sets up the namespace of the calling thread: loopback, device, addresses (ours, the other side's), settings.
// It returns our IPv6 address, if there is IPv6.
func furnish(ctx context.Context, n *namespace, c Config, v4, v6 [2]netip.Addr) (netip.Addr, error) {
	loopback, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(loopback)
	}
	if err != nil {
		return netip.Addr{}, missing("a loopback in a network namespace", err)
	}
	if err := ctx.Err(); err != nil {
		return netip.Addr{}, err
	}
	hasIPv6, err := hushIPv6()
	if err != nil {
		return netip.Addr{}, err
	}
	if n.device, err = openDevice(); err != nil {
		return netip.Addr{}, err
	}
	pairs := [][2]netip.Addr{v4}
	if hasIPv6 {
		pairs = append(pairs, v6)
	} else {
		v6[0] = netip.Addr{}
	}
	err = setUpDevice(ctx, c.mtu(), pairs)
	if over := ctx.Err(); over != nil {
		return netip.Addr{}, over
	}
	if err != nil {
		return netip.Addr{}, missing("the set-up of a TUN device", err)
	}
	return v6[0], writeSysctls(c.Sysctls)
}

// hushIPv6 keeps devices that are made later from speaking by themselves, and says whether there is IPv6 at all.
func hushIPv6() (bool, error) {
	for _, s := range [][2]string{
		{"accept_ra", "0"}, {"autoconf", "0"}, {"router_solicitations", "0"}, {"accept_dad", "0"},
		{"addr_gen_mode", "1"}, // no link local address
	} {
		err := writeSysctl("net.ipv6.conf.default."+s[0], s[1])
		if errors.Is(err, fs.ErrNotExist) && s[0] == "accept_ra" {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

// openDevice makes a TUN device, without a header before the packets: the kernel then cuts segments and adds
// checksums itself, as for a real wire.
func openDevice() (int, error) {
	fd, err := unix.Open(tunPath, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, missing(tunPath, err)
	}
	request, err := unix.NewIfreq(deviceName)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, missing("a TUN device", err)
	}
	return fd, nil
}

// setUpDevice brings the device up and gives it its addresses, each with that of the other side and so the route to it.
func setUpDevice(ctx context.Context, mtu int, pairs [][2]netip.Addr) error {
	device, err := netlink.LinkByName(deviceName)
	if err != nil {
		return err
	}
	for _, err := range []error{
		netlink.LinkSetMTU(device, mtu),
		netlink.LinkSetTxQLen(device, deviceQueue),
		netlink.LinkSetMulticastOff(device),
		netlink.LinkSetUp(device),
	} {
		if err != nil {
			return err
		}
	}
	// The kernel finds out later, on its own thread, that a device runs. If an IPv6 address comes before that, it may
	// stay without its route.
	if err := await(ctx, running); err != nil {
		return err
	}
	for _, p := range pairs {
		a := &netlink.Addr{IPNet: host(p[0]), Peer: host(p[1])}
		if p[0].Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(device, a); err != nil {
			return fmt.Errorf("address %s: %w", p[0], err)
		}
	}
	return await(ctx, func() error { return usable(device, pairs) })
}

// await waits for the kernel to get something done, no longer than patience; the error says what is not.
func await(ctx context.Context, done func() error) error {
	end := time.NewTimer(patience)
	defer end.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		err := done()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-end.C:
			return err
		case <-tick.C:
		}
	}
}

// running says what keeps the device from running.
func running() error {
	device, err := netlink.LinkByName(deviceName)
	if err != nil {
		return err
	}
	if device.Attrs().RawFlags&unix.IFF_RUNNING == 0 {
		return errors.New("it does not run")
	}
	return nil
}

// usable says what keeps the addresses from being used.
func usable(device netlink.Link, pairs [][2]netip.Addr) error {
	addrs, err := netlink.AddrList(device, netlink.FAMILY_V6)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if a.Flags&unix.IFA_F_TENTATIVE != 0 {
			return fmt.Errorf("address %s is tentative", a.IP)
		}
	}
	for _, p := range pairs {
		if _, err := netlink.RouteGet(p[1].AsSlice()); err != nil {
			return fmt.Errorf("route to %s: %w", p[1], err)
		}
	}
	return nil
}

// host is the network that holds one address alone.
func host(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

// writeSysctls writes settings into the namespace of the calling thread, in the order of their names.
func writeSysctls(settings map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		if err := writeSysctl(name, settings[name]); err != nil {
			return err
		}
	}
	return nil
}

func writeSysctl(name, value string) error {
	path, err := sysctlPath(name)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY, 0) // not created: a name that does not exist is an error
	if errors.Is(err, unix.EROFS) {
		return fmt.Errorf("%w: setting %s needs a /proc/sys that can be written, which many containers lack: %w",
			ErrUnavailable, name, err)
	}
	if err != nil {
		return fmt.Errorf("wan: setting %s: %w", name, err)
	}
	_, err = file.WriteString(value)
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("wan: setting %s to %q: %w", name, value, err)
	}
	return nil
}

// droppedByDevice is how many packets the device of the calling thread's namespace could not hold for us.
func droppedByDevice() (int64, error) {
	device, err := netlink.LinkByName(deviceName)
	if err != nil || device.Attrs().Statistics == nil {
		return 0, err
	}
	return int64(device.Attrs().Statistics.TxDropped), nil
}

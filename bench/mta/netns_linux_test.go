package mta_test

import (
	"net"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"slipstream/bench/mta"
	"slipstream/bench/mta/mtatest"
)

// An instance started from a thread in another network namespace lives there.
func TestNetworkNamespace(t *testing.T) {
	t.Parallel()
	for _, kind := range mta.Kinds() {
		t.Run(string(kind), func(t *testing.T) {
			runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and the namespace with it
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				t.Skip("no network namespace of our own: ", err)
			}
			loopbackUp(t)
			in := mtatest.Start(t, kind, mta.Config{Listen: "127.0.0.1:2525"})
			a := say(t, dial(t, in, "", nil), 250, "EHLO client.test")
			if !a.Has("SIZE") {
				t.Errorf("EHLO: %s", a)
			}
			outside := make(chan error)
			go func() {
				conn, err := net.Dial("tcp", "127.0.0.1:2525")
				if err == nil {
					conn.Close()
				}
				outside <- err
			}()
			if err := <-outside; err == nil {
				t.Error("the machine sees port 2525")
			}
			ctx := mtatest.Context(t)
			if err := in.Submit(ctx, "a@a.test", []string{"b@" + in.Config().Hostname}, []byte(sample)); err != nil {
				t.Fatal(err)
			}
			if _, err := in.WaitDelivered(ctx, 1); err != nil {
				t.Error(err)
			}
		})
	}
}

func loopbackUp(t *testing.T) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	ifreq, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	ifreq.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifreq); err != nil {
		t.Fatal(err)
	}
}

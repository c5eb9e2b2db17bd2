package netsim_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"slipstream/bench/netsim"
)

// A server that greets is heard two round trips after the call.
func TestExample(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := netsim.New()
		n.SetLink("198.51.100.7", "192.0.2.1", netsim.Link{Delay: 50 * time.Millisecond})

		ln, err := n.Listen("192.0.2.1:25")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		go func() {
			c, err := ln.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			fmt.Fprint(c, "220 mx.example ESMTP\r\n")
			c.Close()
		}()

		start := time.Now()
		c, err := n.Dial(context.Background(), "198.51.100.7", "192.0.2.1:25")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		buf := make([]byte, 64)
		if _, err := c.Read(buf); err != nil {
			t.Fatal(err)
		}
		if got := time.Since(start); got != 200*time.Millisecond {
			t.Errorf("greeted after %v, want 200ms", got)
		}
	})
}

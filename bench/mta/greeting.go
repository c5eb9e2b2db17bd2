package mta

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// waitGreeting connects until the server says 220.
func (in *Instance) waitGreeting(ctx context.Context) error {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Minute)
		defer cancel()
	}
	return in.poll(ctx, "greeting", func() (bool, error) { return in.greets(ctx) == nil, nil })
}

// proxyHeader says that we come from this machine, in the version that a kind knows.
func proxyHeader(kind Kind) string {
	if kind == OpenSMTPD {
		return "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x7f\x00\x00\x01\x7f\x00\x00\x01\x00\x01\x00\x01"
	}
	return "PROXY TCP4 127.0.0.1 127.0.0.1 1 1\r\n"
}

func (in *Instance) greets(ctx context.Context) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", in.config.Listen)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	if len(in.config.Proxy) > 0 {
		io.WriteString(conn, proxyHeader(in.kind))
	}
	if in.config.ImplicitTLS {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) // only to see whether it is up
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return err
	}
	if !strings.HasPrefix(line, "220") {
		return fmt.Errorf("greeting %q", line)
	}
	_, err = io.WriteString(conn, "QUIT\r\n")
	return err
}

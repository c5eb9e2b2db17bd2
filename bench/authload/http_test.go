//go:build linux

package authload

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// overHTTP asks in the way that rspamd is asked: https://rspamd.com/doc/architecture/protocol.html
type overHTTP struct {
	client *http.Client
	addr   string
	want   []string // what the answer must have in it
}

func (o *overHTTP) check(m mail) error {
	req, err := http.NewRequest(http.MethodPost, "http://"+o.addr+"/checkv2", bytes.NewReader(m.whole()))
	if err != nil {
		return err
	}
	for name, value := range map[string]string{
		"IP": clientIP, "Helo": clientName, "Hostname": clientName, "From": mailFrom, "Rcpt": rcptTo,
	} {
		req.Header.Set(name, value)
	}
	resp, err := o.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	for _, want := range o.want {
		if !strings.Contains(string(answer), want) {
			return fmt.Errorf("status %s, no %q in\n%s", resp.Status, want, answer)
		}
	}
	return nil
}

func (o *overHTTP) close() { o.client.CloseIdleConnections() }

func dialHTTP(addr string, want ...string) func() (session, error) {
	return func() (session, error) {
		return &overHTTP{client: &http.Client{Transport: &http.Transport{}}, addr: addr, want: want}, nil
	}
}

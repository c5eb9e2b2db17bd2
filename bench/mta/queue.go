package mta

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Queued is one message that the server still has to send.
type Queued struct {
	ID         string
	Sender     string   // envelope; "" for <>
	Recipients []string // those still to come
}

// Queue returns what the server has not got rid of yet, in the server's own order.
func (in *Instance) Queue(ctx context.Context) ([]Queued, error) {
	command, parse := []string{"/usr/sbin/postqueue", "-j"}, parsePostqueue
	if in.kind == Exim {
		command, parse = []string{"/usr/sbin/exim4", "-bp"}, parseEximBp
	}
	out, err := in.Run(ctx, nil, command...)
	if err != nil {
		return nil, fmt.Errorf("mta: queue: %w: %s", err, bytes.TrimSpace(out))
	}
	return parse(out)
}

// parsePostqueue reads one JSON object for each message. Postfix walks its queues one after the other, and a message that
// moves on meanwhile (from active to deferred, say) is listed twice: the later word, which is the newer, is the one that
// counts.
func parsePostqueue(out []byte) ([]Queued, error) {
	var list []Queued
	d := json.NewDecoder(bytes.NewReader(out))
	for {
		var entry struct {
			ID         string `json:"queue_id"`
			Sender     string `json:"sender"`
			Recipients []struct {
				Address string `json:"address"`
			} `json:"recipients"`
		}
		err := d.Decode(&entry)
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return nil, fmt.Errorf("mta: postqueue -j: %w", err)
		}
		q := Queued{ID: entry.ID, Sender: entry.Sender}
		if q.Sender == "MAILER-DAEMON" { // how Postfix shows <>
			q.Sender = ""
		}
		for _, r := range entry.Recipients {
			q.Recipients = append(q.Recipients, r.Address)
		}
		list = slices.DeleteFunc(list, func(o Queued) bool { return o.ID == q.ID })
		list = append(list, q)
	}
}

// parseEximBp reads " 1m  443 1xUsyi-00000J-0T <sender>" and, indented, a line for each recipient, "D" before those
// that have it.
func parseEximBp(out []byte) ([]Queued, error) {
	var list []Queued
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) >= 4 && strings.HasPrefix(fields[3], "<"):
			list = append(list, Queued{ID: fields[2], Sender: strings.Trim(fields[3], "<>")})
		case len(fields) == 1 && len(list) > 0:
			q := &list[len(list)-1]
			q.Recipients = append(q.Recipients, fields[0])
		}
	}
	return list, lines.Err()
}

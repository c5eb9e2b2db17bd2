package mta

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Message is one message that the server delivered to one recipient of its own domains.
type Message struct {
	Sender    string // envelope; "" for <>
	Recipient string // envelope
	Raw       []byte // with the server's own Received field on top, every line ending in CRLF
}

// Delivered returns the deliveries so far, oldest first, one for each recipient.
func (in *Instance) Delivered() ([]Message, error) {
	dir := filepath.Join(in.data, "mail/new")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	type file struct {
		name string
		time time.Time
	}
	var files []file
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		files = append(files, file{e.Name(), info.ModTime()})
	}
	slices.SortFunc(files, func(a, b file) int {
		return cmp.Or(a.time.Compare(b.time), cmp.Compare(a.name, b.name))
	})
	var messages []Message
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(dir, f.name))
		if err != nil {
			return nil, err
		}
		m, err := parseDelivery(text)
		if err != nil {
			return nil, fmt.Errorf("mta: %s: %w", f.name, err)
		}
		messages = append(messages, m)
	}
	return messages, nil
}

// WaitDelivered waits until there are at least n deliveries and returns them all.
func (in *Instance) WaitDelivered(ctx context.Context, n int) ([]Message, error) {
	err := in.poll(ctx, fmt.Sprintf("%d deliveries", n), func() (bool, error) {
		entries, err := os.ReadDir(filepath.Join(in.data, "mail/new"))
		return len(entries) >= n, err
	})
	if err != nil {
		return nil, err
	}
	return in.Delivered()
}

// parseDelivery takes off the lines that local delivery puts on top: Return-Path, perhaps X-Original-To, Delivered-To.
func parseDelivery(text []byte) (Message, error) {
	var m Message
	for {
		line, rest, found := bytes.Cut(text, []byte("\n"))
		if !found {
			return m, errors.New("no Delivered-To on top")
		}
		text = rest
		name, value, _ := bytes.Cut(line, []byte(": "))
		switch string(name) {
		case "Return-Path":
			m.Sender = string(bytes.Trim(value, "<>"))
		case "X-Original-To":
		case "Delivered-To":
			m.Recipient = string(value)
			m.Raw = bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n"))
			return m, nil
		default:
			return m, fmt.Errorf("unexpected line %q on top", line)
		}
	}
}

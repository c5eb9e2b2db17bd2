package badgerkv_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"slipstream/tlsstore/badgerkv"
)

// childFull fills a disk: first by records, up to what is left to others, then by what others write, to the last octet.
func childFull(dir string) error {
	var said bytes.Buffer
	kv, err := badgerkv.Open(badgerkv.Options{Dir: dir, Key: testKey, Log: func(level, msg string) {
		if level != "debug" {
			fmt.Fprintln(&said, msg)
		}
	}})
	if err != nil {
		return err
	}
	key := []byte("key")
	value := noise(rand.New(rand.NewPCG(1, 2)), 100<<10)
	n := 0
	for ; err == nil; n++ {
		key = fmt.Appendf(key[:0], "key %d", n)
		err = kv.Set(key, value, time.Hour)
	}
	if !errors.Is(err, badgerkv.ErrFull) {
		return fmt.Errorf("Set: %w, want ErrFull", err)
	}
	fmt.Printf("%d records of 100 KiB until ErrFull\n", n-1)
	filled, err := fillDisk(filepath.Join(filepath.Dir(dir), "ballast"))
	if err != nil {
		return err
	}
	fmt.Printf("others wrote %d MiB, until %v\n", filled>>20, syscall.ENOSPC)
	for i := range n - 1 {
		if v, err := kv.Get(fmt.Appendf(nil, "key %d", i)); err != nil || !bytes.Equal(v, value) {
			return fmt.Errorf("record %d: %d octets, %w", i, len(v), err)
		}
	}
	if err := kv.Set(key, value, time.Hour); !errors.Is(err, badgerkv.ErrFull) {
		return fmt.Errorf("Set: %w, want ErrFull", err)
	}
	if err := kv.Delete(key); err == nil {
		return errors.New("Delete wrote to a full disk")
	}
	if _, err := kv.Maintain(context.Background()); !errors.Is(err, badgerkv.ErrFull) {
		return fmt.Errorf("Maintain: %w, want ErrFull", err)
	}
	if err := kv.Close(); !errors.Is(err, badgerkv.ErrFull) {
		return fmt.Errorf("Close: %w, want ErrFull", err)
	}
	if _, err := kv.Get(key); err == nil {
		return errors.New("Get after Close: no error")
	}
	fmt.Print("said: ", said.String())
	return nil
}

// fillDisk writes to a file until there is no room.
func fillDisk(path string) (int64, error) {
	f, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	b := make([]byte, 4096)
	var n int64
	for {
		m, err := f.Write(b)
		n += int64(m)
		if errors.Is(err, syscall.ENOSPC) {
			return n, nil
		} else if err != nil && !errors.Is(err, io.ErrShortWrite) {
			return n, err
		}
	}
}

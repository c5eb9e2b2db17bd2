package kvtest_test

import (
	"testing"

	"slipstream/tlsstore"
	"slipstream/tlsstore/kvtest"
)

func TestMemory(t *testing.T) {
	kvtest.Run(t, func(t *testing.T) tlsstore.KV { return tlsstore.Memory() })
}

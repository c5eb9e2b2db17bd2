package once

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain sees to it that no Memory leaves anything running behind.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

package image

import (
	"os"
	"testing"

	"gantry/internal/testenv"
)

// The tests mount file systems of their own.
func TestMain(m *testing.M) { os.Exit(testenv.Isolate(m)) }

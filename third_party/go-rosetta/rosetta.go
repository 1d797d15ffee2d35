// Package rosetta answers the Docker CLI's question whether it runs under
// Apple's Rosetta translator.
//
// The CLI asks only to word the version line on macOS. Gantry's clients run on
// Linux, where the answer is always no, so this package stands in for the
// module of the same path.
package rosetta

import "runtime"

// Available reports whether the host can translate binaries.
func Available() bool { return false }

// Enabled reports whether this process is being translated.
func Enabled() bool { return false }

// NativeArch returns the architecture of the host's CPU.
func NativeArch() string { return runtime.GOARCH }

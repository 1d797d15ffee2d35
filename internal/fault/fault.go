//go:build !fault

// Package fault marks the points of the code at which a crash would hurt.
//
// Built with the tag "fault", At ends the process, without running anything
// deferred, at the point named by the environment variable GANTRY_FAULT; the
// crash suite stops the daemon at each point in turn and checks what start-up
// makes of it. In normal builds At costs nothing.
package fault

// At does nothing in a normal build.
func At(string) error { return nil }

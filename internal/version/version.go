// Package version names the build.
package version

// Version is the revision that the Makefile links in.
var Version = "unknown"

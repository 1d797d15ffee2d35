package image

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"regexp"
	goruntime "runtime"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"gantry/internal/problem"
)

// Host returns the platform of this host.
func Host() ocispec.Platform {
	return ocispec.Platform{OS: goruntime.GOOS, Architecture: goruntime.GOARCH}
}

// runsToo lists architectures that a CPU runs beside its own.
var runsToo = map[string]string{"amd64": "386", "arm64": "arm"}

// Runs reports whether host runs what was made for p. An image that does not
// say its architecture is taken for the host's.
func Runs(p, host ocispec.Platform) bool {
	return (p.OS == "" || p.OS == host.OS) &&
		(p.Architecture == "" || p.Architecture == host.Architecture || p.Architecture == runsToo[host.Architecture])
}

// ForOneOf tells whether an image is for one of the platforms. A variant counts
// only where both have one.
func ForOneOf(img Image, platforms []ocispec.Platform) bool {
	is := img.Platform()
	return slices.ContainsFunc(platforms, func(p ocispec.Platform) bool {
		return p.OS == is.OS && p.Architecture == is.Architecture && (p.Variant == "" || is.Variant == "" || p.Variant == is.Variant)
	})
}

// FormatPlatform returns p as people write it: "linux/arm64/v8".
func FormatPlatform(p ocispec.Platform) string {
	out := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		out += "/" + p.Variant
	}
	return out
}

// platformPart is what each part of a platform must look like (containerd's
// platforms.Parse).
var platformPart = regexp.MustCompile("^[A-Za-z0-9_.-]+$")

// ParsePlatform parses "linux/amd64", "arm64", "linux" or "linux/arm/v7".
func ParsePlatform(s string) (ocispec.Platform, error) {
	parts := strings.Split(strings.ToLower(s), "/")
	for _, part := range parts {
		if !platformPart.MatchString(part) {
			return ocispec.Platform{}, problem.New(problem.Invalid, "%q is an invalid component of %q: platform specifier component must match %q", part, s, platformPart)
		}
	}
	if len(parts) == 1 && parts[0] == "linux" {
		return Host(), nil
	}
	p := ocispec.Platform{OS: "linux"}
	switch len(parts) {
	case 1:
		p.Architecture = parts[0]
	case 2:
		p.OS, p.Architecture = parts[0], parts[1]
	case 3:
		p.OS, p.Architecture, p.Variant = parts[0], parts[1], parts[2]
	default:
		return p, problem.New(problem.Invalid, "platform %q: want os/architecture", s)
	}
	switch p.Architecture {
	case "x86_64", "x86-64":
		p.Architecture = "amd64"
	case "aarch64":
		p.Architecture = "arm64"
	case "i386", "i686":
		p.Architecture = "386"
	}
	if p.Architecture == "arm64" && p.Variant == "v8" {
		p.Variant = ""
	}
	return p, nil
}

// CheckPlatform refuses an image that says it is for another CPU. name is what
// the user called it.
func CheckPlatform(img Image, name string) error {
	if Runs(img.Platform(), Host()) {
		return nil
	}
	return wrongPlatform("image "+name, FormatPlatform(img.Platform()))
}

func wrongPlatform(what, is string) error {
	return problem.New(problem.Invalid, "%s is for %s, this host is %s", what, is, FormatPlatform(Host()))
}

func isSpace(err error) bool {
	return errors.Is(err, problem.NoSpace) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

// random returns a name that nobody else has.
func random() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// Package apparmor knows what AppArmor there is on a host, which profile a
// container gets, and keeps the reference's default profile loaded.
//
// The profile is the kernel's to keep: it is given to apparmor_parser on its
// standard input, and nothing is written to /etc/apparmor.d. No goroutines.
package apparmor

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// Names of profiles.
const (
	Default    = "docker-default" // the reference's name, and its rules
	Unconfined = "unconfined"     // AppArmor's own, for none
)

// Support is what a host has.
type Support struct {
	Enabled bool // the kernel confines, and tells which profiles it has
	Default bool // Default is loaded, or can be
}

// Profile returns the profile of a container; empty is none at all. option is
// what was asked for. As in the reference, a privileged container is not
// confined whatever its options say, and on a host without AppArmor they mean
// nothing.
func (s Support) Profile(option string, privileged bool) string {
	switch {
	case !s.Enabled:
		return ""
	case privileged:
		return Unconfined
	case option != "":
		return option
	case s.Default:
		return Default
	}
	return ""
}

// Host is a host's AppArmor. Its methods may be called concurrently.
type Host struct {
	Support
	files  files
	parser string // program that loads profiles; empty: there is none

	mu sync.Mutex // held while the default profile is looked for and loaded
}

// files are where the kernel tells of itself, and where profiles' parts are.
type files struct{ enabled, profiles, current, parts string }

func hostFiles() files {
	return files{
		enabled:  "/sys/module/apparmor/parameters/enabled",
		profiles: "/sys/kernel/security/apparmor/profiles",
		current:  "/proc/self/attr/apparmor/current",
		parts:    "/etc/apparmor.d",
	}
}

// Look finds out what this host has. What is installed later is not seen.
func Look() *Host {
	return look(hostFiles(), findParser())
}

func look(f files, parser string) *Host {
	h := &Host{files: f, parser: parser}
	enabled, err := os.ReadFile(f.enabled)
	if err != nil || !strings.HasPrefix(string(enabled), "Y") {
		return h
	}
	loaded, err := h.loaded(Default)
	h.Enabled = err == nil
	h.Default = h.Enabled && (loaded || parser != "")
	return h
}

// findParser looks where the reference does, and where it is when the search
// path is an ordinary user's.
func findParser() string {
	for _, name := range []string{"apparmor_parser", "/sbin/apparmor_parser", "/usr/sbin/apparmor_parser"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// loaded tells whether the kernel has a profile. Its list has lines as
// "NAME (enforce)".
func (h *Host) loaded(profile string) (bool, error) {
	list, err := os.Open(h.files.profiles)
	if err != nil {
		return false, err
	}
	defer list.Close()
	lines := bufio.NewScanner(list)
	for lines.Scan() {
		if name, _, ok := strings.Cut(lines.Text(), " "); ok && name == profile {
			return true, nil
		}
	}
	return false, lines.Err()
}

// Ensure loads the profile that Profile returned if it is the default one and
// not loaded. It is called before each use: a reload of the host's profiles may
// drop what is not in its directory. Other profiles are their owner's to load.
func (h *Host) Ensure(ctx context.Context, profile string) error {
	if profile != Default || !h.Default {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	loaded, err := h.loaded(Default)
	if err != nil {
		return fmt.Errorf("could not check if %s AppArmor profile was loaded: %w", Default, err)
	}
	if loaded {
		return nil
	}
	if err := h.load(ctx); err != nil {
		return fmt.Errorf("AppArmor enabled on system but the %s profile could not be loaded: %w", Default, err)
	}
	return nil
}

func (h *Host) load(ctx context.Context) error {
	if h.parser == "" {
		return exec.ErrNotFound
	}
	// No cache: its directory may be read-only.
	c := exec.CommandContext(ctx, h.parser, "-Kr")
	c.Stdin = strings.NewReader(defaultProfile(h.daemonProfile(), h.hasPart))
	if output, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("running '%s' failed with output: %s\nerror: %w", c, output, err)
	}
	return nil
}

// daemonProfile is the profile of this process, which is the shims' too.
func (h *Host) daemonProfile() string {
	current, err := os.ReadFile(h.files.current)
	name, _, _ := strings.Cut(strings.TrimSpace(string(current)), " ")
	if err != nil || name == "" {
		return Unconfined
	}
	return name
}

// hasPart tells whether the host's profiles have a file to include.
func (h *Host) hasPart(name string) bool {
	_, err := os.Stat(filepath.Join(h.files.parts, name))
	return err == nil
}

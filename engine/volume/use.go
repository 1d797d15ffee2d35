package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Use says that owner (a container) uses a volume from now on; the first use
// mounts one that is to be mounted. Using it again changes nothing.
//
// Errors: NotFound; the kernel's, in the reference's words.
func (s *Store) Use(ctx context.Context, name, owner string) error {
	s.mu.Lock()
	r, ok := s.volumes[name]
	s.mu.Unlock()
	if !ok {
		return notFound(name)
	}
	if !r.mounts() {
		return nil
	}
	call, err := mountCallOf(r.Options).withAddresses(ctx, lookupHost)
	if err != nil {
		return mountError(s.data(name), err)
	}
	s.using.Lock()
	defer s.using.Unlock()
	mounted, err := isMounted(s.data(name))
	if err == nil && !mounted {
		err = call.mount(s.data(name))
	}
	if err != nil {
		return mountError(s.data(name), err)
	}
	if s.users[name] == nil {
		s.users[name] = map[string]bool{}
	}
	s.users[name][owner] = true
	return nil
}

func mountError(path string, err error) error {
	return fmt.Errorf("error while mounting volume '%s': %w", path, err)
}

// Done ends the use of a volume by owner; the last one unmounts it. A volume that
// owner does not use, or that is gone, is no error.
func (s *Store) Done(name, owner string) error {
	s.mu.Lock()
	r, ok := s.volumes[name]
	s.mu.Unlock()
	if !ok || !r.mounts() {
		return nil
	}
	s.using.Lock()
	defer s.using.Unlock()
	delete(s.users[name], owner)
	if len(s.users[name]) > 0 {
		return nil
	}
	delete(s.users, name)
	return unmount(s.data(name))
}

// Sweep unmounts the volumes which nobody uses: what an earlier process left.
func (s *Store) Sweep() error {
	s.mu.Lock()
	var names []string
	for name, r := range s.volumes {
		if r.mounts() {
			names = append(names, name)
		}
	}
	s.mu.Unlock()
	s.using.Lock()
	defer s.using.Unlock()
	var errs []error
	for _, name := range names {
		if len(s.users[name]) == 0 {
			errs = append(errs, unmount(s.data(name)))
		}
	}
	return errors.Join(errs...)
}

func (s *Store) data(name string) string { return filepath.Join(s.dir, name, dataDir) }

// mounts tells whether something is to be mounted at the volume's content.
func (r record) mounts() bool { return r.Options["device"] != "" || r.Options["type"] != "" }

// unmount unmounts what is mounted at path, if anything is.
func unmount(path string) error {
	mounted, err := isMounted(path)
	if err != nil || !mounted {
		return err
	}
	if err := unix.Unmount(path, 0); err != nil {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	return nil
}

func isMounted(path string) (bool, error) {
	points, err := mountsBelow(path)
	return slices.Contains(points, path), err
}

// mountsBelow returns the mount points at dir and below, the deepest last.
func mountsBelow(dir string) ([]string, error) {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var points []string
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		point := unescape.Replace(fields[4])
		if point == real || strings.HasPrefix(point, real+"/") {
			points = append(points, dir+strings.TrimPrefix(point, real))
		}
	}
	slices.Sort(points)
	return points, nil
}

// unescape undoes what the kernel does to names in mountinfo.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// removeAll removes a volume's directory, and never what is mounted in it: that
// is unmounted, or the volume stays.
func removeAll(dir string) error {
	points, err := mountsBelow(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, point := range slices.Backward(points) {
		if err := unix.Unmount(point, 0); err != nil {
			return fmt.Errorf("unmount %s: %w", point, err)
		}
	}
	return os.RemoveAll(dir)
}

package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"

	dmount "github.com/moby/moby/api/types/mount"
	"golang.org/x/sys/unix"

	"gantry/engine/container"
	"gantry/engine/image"
	"gantry/internal/problem"
)

// sources are what a container's mounts are bound from where that is not simply
// a path: a part of a volume, an image. They are mounted below the run directory
// while the container is made, which then has mounts of its own.
//
// Not below the container's directory: if the daemon dies now, what removes that
// directory must not come across a volume's content.
type sources struct {
	paths   map[string]string // by destination
	mounted []string
}

func (e *Engine) sourcesDir() string { return filepath.Join(e.cfg.RunDir, "mounts") }

// openSources mounts what a container's mounts need. Close them when it is made.
func (e *Engine) openSources(cfg *config) (s *sources, err error) {
	s = &sources{paths: map[string]string{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	for i, p := range cfg.Mounts {
		if p.Type != dmount.TypeImage && p.Subpath == "" {
			continue
		}
		base := p.Source
		if p.Type == dmount.TypeImage {
			if base, err = e.mountImage(s, cfg, i); err != nil {
				return s, err
			}
		}
		if p.Subpath != "" {
			if base, err = e.mountSubpath(s, base, p.Subpath); err != nil {
				return s, err
			}
		}
		s.paths[p.Destination] = base
	}
	return s, nil
}

// close unmounts the sources.
func (s *sources) close() error {
	var errs []error
	for _, path := range slices.Backward(s.mounted) {
		err := unix.Unmount(path, unix.MNT_DETACH)
		if err != nil && !errors.Is(err, unix.EINVAL) { // it was not mounted yet
			errs = append(errs, &fs.PathError{Op: "unmount", Path: path, Err: err})
			continue
		}
		errs = append(errs, os.Remove(path))
	}
	return errors.Join(errs...)
}

// place makes the file or directory that a source is mounted on.
func (e *Engine) place(s *sources, dir bool) (string, error) {
	path := filepath.Join(e.sourcesDir(), newID())
	if err := os.MkdirAll(e.sourcesDir(), 0o700); err != nil {
		return "", err
	}
	make := func() error { return os.Mkdir(path, 0o700) }
	if !dir {
		make = func() error { return unix.Mknod(path, unix.S_IFREG|0o600, 0) }
	}
	if err := make(); err != nil {
		return "", err
	}
	s.mounted = append(s.mounted, path)
	return path, nil
}

// mountImage mounts the image of the container's i-th mount with a writable layer
// of its own, which lives as long as the container.
func (e *Engine) mountImage(s *sources, cfg *config, i int) (string, error) {
	lower, err := e.cfg.Images.LayerDirs(cfg.Mounts[i].Layers)
	if err != nil {
		return "", err
	}
	own := filepath.Join(e.containerDir(cfg.ID), "images", strconv.Itoa(i))
	overlay := container.Overlay{Lower: lower, Upper: filepath.Join(own, "upper"), Work: filepath.Join(own, "work")}
	for _, dir := range []string{overlay.Upper, overlay.Work} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", err
		}
	}
	target, err := e.place(s, true)
	if err != nil {
		return "", err
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: its working directory is its own
		err := unix.Unshare(unix.CLONE_FS)
		if err == nil {
			err = overlay.Mount(target)
		}
		done <- err
	}()
	return target, <-done
}

// mountSubpath binds what is at a path in the directory base, and nothing that a
// link leads to outside of it.
func (e *Engine) mountSubpath(s *sources, base, subpath string) (string, error) {
	root, err := unix.Open(base, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &fs.PathError{Op: "open", Path: base, Err: err}
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, subpath, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH})
	switch {
	case errors.Is(err, unix.EXDEV):
		return "", invalid("path concatenation escapes the base directory, base: %s, path: %s", base, subpath)
	case err != nil:
		return "", problem.New(problem.NotFound, "cannot access path %s: %w", filepath.Join(base, subpath), err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", err
	}
	target, err := e.place(s, st.Mode&unix.S_IFMT == unix.S_IFDIR)
	if err != nil {
		return "", err
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return "", &fs.PathError{Op: "bind", Path: filepath.Join(base, subpath), Err: err}
	}
	return target, unix.Mount("", target, "", unix.MS_PRIVATE|unix.MS_REC, "")
}

// sweepSources unmounts the sources that an earlier process left.
func (e *Engine) sweepSources() error {
	entries, err := os.ReadDir(e.sourcesDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	s := &sources{}
	for _, entry := range entries {
		s.mounted = append(s.mounted, filepath.Join(e.sourcesDir(), entry.Name()))
	}
	return errors.Join(err, s.close())
}

// makeImageMount finds the image of a mount, which stays as long as the container.
func (e *Engine) makeImageMount(ctx context.Context, p *mountPoint) error {
	img, err := e.cfg.Images.Resolve(ctx, p.Source)
	if errors.Is(err, problem.NotFound) {
		// Not a NotFound, on which clients pull the container's image.
		return invalid("invalid mount config for type %q: %s", p.Type, err.Error())
	}
	if err != nil {
		return err
	}
	p.Image, p.Layers = img.ID, img.Layers
	return e.allowed(ctx, img, p.Source)
}

// holdMounts tells the image store which images the container's mounts use.
func (e *Engine) holdMounts(r *record) {
	for _, p := range r.config().Mounts {
		if p.Image != "" {
			e.cfg.Images.Hold(image.Hold{
				Owner: r.id + p.Destination, Image: p.Image, Layers: p.Layers, Running: func() bool { return r.running() != nil },
			})
		}
	}
}

func (e *Engine) releaseMounts(cfg *config) {
	for _, p := range cfg.Mounts {
		if p.Image != "" {
			e.cfg.Images.Release(cfg.ID + p.Destination)
		}
	}
}

// useVolumes mounts the volumes of a container, if they are to be mounted.
func (e *Engine) useVolumes(ctx context.Context, cfg *config, owner string) error {
	for _, p := range cfg.Mounts {
		if p.Type != dmount.TypeVolume {
			continue
		}
		if err := e.cfg.Volumes.Use(ctx, p.Name, owner); err != nil {
			e.doneVolumes(cfg, owner)
			return err
		}
	}
	return nil
}

// doneVolumes is the end of useVolumes. A volume that cannot be unmounted is
// mounted still when it is used next.
func (e *Engine) doneVolumes(cfg *config, owner string) {
	for _, p := range cfg.Mounts {
		if p.Type != dmount.TypeVolume {
			continue
		}
		if err := e.cfg.Volumes.Done(p.Name, owner); err != nil {
			e.log.Warn("volume stays mounted", "container", cfg.ID, "err", err)
		}
	}
}

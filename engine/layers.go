package engine

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"gantry/engine/container"
)

// layers are the directories of a container's root file system, topmost first,
// the writable one included.
type layers []string

// maxUserFile bounds what is read of an image's passwd and group.
const maxUserFile = 4 << 20

// readFile returns the content of a file as the container sees it, or
// fs.ErrNotExist. path is relative.
//
// Mounting the overlay for it would cost a milliseconds-long unmount, so the
// layers are searched; only where one answers with a symbolic link, which may
// lead into another layer, the overlay is mounted.
func (l layers) readFile(path string) ([]byte, error) {
	for _, dir := range l {
		data, err := readBeneath(dir, path)
		switch {
		case err == nil:
			return data, nil
		case errors.Is(err, unix.ELOOP):
			return l.readMounted(path)
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
		if hides(dir, path) {
			return nil, fs.ErrNotExist
		}
	}
	return nil, fs.ErrNotExist
}

func (l layers) readMounted(path string) ([]byte, error) {
	m, err := l.mount()
	if err != nil {
		return nil, err
	}
	defer m.Close()
	f, err := openBeneath(int(m.Fd()), path, unix.RESOLVE_IN_ROOT)
	if err != nil {
		return nil, err
	}
	return readRegular(f)
}

// readBeneath reads a file of one layer. The error is ELOOP if a symbolic link
// is on the way, and fs.ErrNotExist also for a whiteout.
func readBeneath(dir, path string) ([]byte, error) {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(root)
	f, err := openBeneath(root, path, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return nil, err
	}
	return readRegular(f)
}

func openBeneath(root int, path string, resolve uint64) (*os.File, error) {
	// Not blocking: what is there may be a FIFO or a whiteout's device.
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC, Resolve: resolve}
	fd, err := unix.Openat2(root, path, &how)
	switch {
	case errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENOTDIR):
		return nil, fs.ErrNotExist
	case err != nil:
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

func readRegular(f *os.File) ([]byte, error) {
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fs.ErrNotExist
	}
	return io.ReadAll(io.LimitReader(f, maxUserFile))
}

// hides tells whether a layer hides path in those below it: by a whiteout, by
// an opaque directory, or by something that is no directory.
func hides(dir, path string) bool {
	at := dir
	for name := range strings.SplitSeq(path, "/") {
		at += "/" + name
		info, err := os.Lstat(at)
		if err != nil {
			return false
		}
		if !info.IsDir() {
			return true
		}
		var opaque [1]byte
		if n, err := unix.Lgetxattr(at, "trusted.overlay.opaque", opaque[:]); err == nil && n == 1 && opaque[0] == 'y' {
			return true
		}
	}
	return false
}

// mount mounts the layers read-only and returns the root directory. The mount
// has no name in any mount namespace that stays: it goes when the file is closed.
func (l layers) mount() (*os.File, error) {
	empty, err := os.MkdirTemp("", "gantry-empty-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(empty)
	lower := []string(l)
	if len(lower) == 1 {
		// Overlay wants two lower directories when nothing is writable.
		lower = []string{empty, lower[0]}
	}
	root, err := mountDetached(lower)
	if errors.Is(err, unix.EINVAL) {
		// Before Linux 6.5 overlay takes any option, and refuses it here.
		root, err = mountHidden(lower, empty)
	}
	return root, err
}

// mountDetached makes a mount that never had a place.
func mountDetached(lower []string) (*os.File, error) {
	fsfd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open overlay: %w", err)
	}
	defer unix.Close(fsfd)
	if err := setLower(fsfd, lower); err != nil {
		return nil, err
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return nil, fmt.Errorf("create overlay of %d layers: %w", len(lower), err)
	}
	mfd, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("mount overlay: %w", err)
	}
	return os.NewFile(uintptr(mfd), "overlay"), nil
}

// mountHidden mounts at target in a mount namespace that is gone when it
// returns; the mount lives on in the file.
func mountHidden(lower []string, target string) (*os.File, error) {
	overlay := container.Overlay{Lower: lower}
	var root *os.File
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the changed thread dies with the goroutine
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
				return fmt.Errorf("unshare the mount namespace: %w", err)
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
				return fmt.Errorf("make mounts private: %w", err)
			}
			if err := overlay.Mount(target); err != nil {
				return err
			}
			fd, err := unix.Open(target, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				return &fs.PathError{Op: "open", Path: target, Err: err}
			}
			root = os.NewFile(uintptr(fd), "overlay")
			return nil
		}()
	}()
	err := <-done // and root is there
	return root, err
}

// setLower names the layers one by one where the kernel can (6.7), which has no
// limit on their number; else in one string of at most 255 bytes less than a page.
func setLower(fsfd int, lower []string) error {
	err := unix.FsconfigSetString(fsfd, "lowerdir+", lower[0])
	if err != nil {
		escaped := make([]string, len(lower))
		for i, dir := range lower {
			escaped[i] = strings.NewReplacer(`\`, `\\`, `:`, `\:`).Replace(dir)
		}
		if err := unix.FsconfigSetString(fsfd, "lowerdir", strings.Join(escaped, ":")); err != nil {
			return fmt.Errorf("set %d layers: %w", len(lower), err)
		}
		return nil
	}
	for _, dir := range lower[1:] {
		if err := unix.FsconfigSetString(fsfd, "lowerdir+", dir); err != nil {
			return fmt.Errorf("set layer %s: %w", dir, err)
		}
	}
	return nil
}

// openDirBeneath opens a directory below root, following symbolic links inside
// it, or returns nil if there is none.
func openDirBeneath(root int, path string) (*os.File, error) {
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT}
	fd, err := unix.Openat2(root, path, &how)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return nil, nil
	case err != nil:
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

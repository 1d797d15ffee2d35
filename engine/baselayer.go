package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// baseFiles are what a container of the Docker API has below its image's layers:
// the places that are mounted on, so that a start makes none of them in the
// writable layer, where commit would find them, and the file by which programs
// tell that Docker runs them. The reference has them in a layer of each container
// that it hides; here all containers share one. Parents come first.
var baseFiles = []struct {
	name   string
	mode   fs.FileMode
	target string // of a symbolic link
}{
	{".dockerenv", 0o755, ""},
	{"dev", fs.ModeDir | 0o755, ""},
	{"dev/console", 0o755, ""},
	{"dev/pts", fs.ModeDir | 0o755, ""},
	{"dev/shm", fs.ModeDir | 0o755, ""},
	{"etc", fs.ModeDir | 0o755, ""},
	{"etc/hostname", 0o755, ""},
	{"etc/hosts", 0o755, ""},
	{"etc/mtab", fs.ModeSymlink, "/proc/mounts"},
	{"etc/resolv.conf", 0o755, ""},
	{"proc", fs.ModeDir | 0o755, ""},
	{"sys", fs.ModeDir | 0o755, ""},
}

func (e *Engine) baseDir() string { return filepath.Join(e.cfg.Dir, "base") }

// makeBase makes the layer with the base files, unless there is one. It is there
// whole or not at all.
func (e *Engine) makeBase() error {
	dir := e.baseDir()
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	half := dir + ".new"
	if err := os.RemoveAll(half); err != nil {
		return err
	}
	if err := os.Mkdir(half, 0o755); err != nil {
		return err
	}
	for _, f := range baseFiles {
		if err := makeFile(filepath.Join(half, f.name), f.mode, f.target); err != nil {
			return fmt.Errorf("make the layer below images: %w", err)
		}
	}
	if err := os.Chmod(half, 0o755); err != nil { // whatever the umask
		return err
	}
	return os.Rename(half, dir)
}

// makeFile makes an empty file, a directory or a symbolic link.
func makeFile(path string, mode fs.FileMode, target string) error {
	switch mode.Type() {
	case fs.ModeSymlink:
		return os.Symlink(target, path)
	case fs.ModeDir:
		if err := os.Mkdir(path, mode.Perm()); err != nil {
			return err
		}
	default:
		if err := unix.Mknod(path, unix.S_IFREG|uint32(mode.Perm()), 0); err != nil {
			return &fs.PathError{Op: "create", Path: path, Err: err}
		}
	}
	return os.Chmod(path, mode.Perm()) // whatever the umask
}

// lowerDirs returns what is below a container's writable layer, topmost first.
func (e *Engine) lowerDirs(cfg *config) (layers, error) {
	lower, err := e.cfg.Images.LayerDirs(cfg.Layers)
	if err == nil && cfg.Sandbox == "" {
		lower = append(lower, e.baseDir())
	}
	return lower, err
}

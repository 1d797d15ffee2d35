package image

import (
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"gantry/internal/tree"
)

// OpenRoot returns the root file system that layers, bottom first, make
// together, read-only. Close it.
//
// It is an overlay that is mounted nowhere: it exists in a mount namespace that
// is gone when OpenRoot returns, and lives on in the handle alone. Whatever
// becomes of the process, nothing is left to unmount.
func (s *Store) OpenRoot(layers []digest.Digest) (*tree.Root, error) {
	return s.overlay(layers, "")
}

// OpenWritable is OpenRoot of a root file system that can be written to: what
// changes goes to c.Upper. Close it before CommitLayer takes Upper over.
func (s *Store) OpenWritable(layers []digest.Digest, c *Scratch) (*tree.Root, error) {
	return s.overlay(layers, fmt.Sprintf(",upperdir=%s,workdir=%s", c.Upper, c.Work))
}

func (s *Store) overlay(layers []digest.Digest, writable string) (*tree.Root, error) {
	links, err := s.links(layers)
	if err != nil {
		return nil, err
	}
	if len(links) == 1 && links[0] != "0" {
		links = append(links, "0") // without upper, overlayfs wants two layers
	}
	if writable == "" && len(links) == 1 {
		return tree.OpenRoot(s.link("0"))
	}
	options := "lowerdir=" + strings.Join(links, ":") + writable
	if writable != "" {
		options += ",redirect_dir=off,metacopy=off,index=off" // an upper must be complete in itself
	}
	return inNamespace(func() (*tree.Root, error) { return mountOverlay(filepath.Join(s.dir, "l"), options) })
}

// inNamespace calls do on a thread that it may give a mount namespace of its own.
// The thread ends with the goroutine, and the namespace with the thread.
func inNamespace(do func() (*tree.Root, error)) (*tree.Root, error) {
	type result struct {
		root *tree.Root
		err  error
	}
	done := make(chan result, 1)
	go func() {
		goruntime.LockOSThread() // never unlocked: the thread is not fit for other goroutines
		if unix.Gettid() == unix.Getpid() {
			// The main thread never ends, and /proc/self is what it sees. While it
			// is held here, another goroutine gets another thread.
			root, err := inNamespace(do)
			goruntime.UnlockOSThread()
			done <- result{root, err}
			return
		}
		root, err := do()
		done <- result{root, err}
	}()
	r := <-done
	return r.root, r.err
}

// mountOverlay mounts an overlay in a new namespace and returns its root. The
// names of lower layers are relative to dir, to be short.
func mountOverlay(dir, options string) (*tree.Root, error) {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return nil, fmt.Errorf("unshare the mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return nil, fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Chdir(dir); err != nil {
		return nil, err
	}
	target, err := filepath.EvalSymlinks(filepath.Join(dir, "0"))
	if err != nil {
		return nil, err
	}
	if err := unix.Mount("overlay", target, "overlay", 0, options); err != nil {
		return nil, fmt.Errorf("mount overlay (%s): %w", options, err)
	}
	fd, err := unix.Open(target, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return tree.NewRoot(os.NewFile(uintptr(fd), "/")), nil
}

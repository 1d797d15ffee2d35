package engine

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	dmount "github.com/moby/moby/api/types/mount"
	"golang.org/x/sys/unix"

	"gantry/engine/container"
	"gantry/internal/problem"
	"gantry/internal/tree"
)

// view is a container's file system as those outside it read and write it: its
// root and, if asked for, its volumes and bind mounts, in a mount namespace in
// which nothing runs. What the container itself has mounted (/proc, tmpfs, what
// its programs mount) is not in it, so that no file in it can be made to answer
// late or differently by the container.
//
// Nothing is left to unmount when the process dies: the namespace lives in ns.
type view struct {
	root *tree.Root
	ns   *os.File
	done func()
}

func (v *view) close() error {
	err := errors.Join(v.root.Close(), v.ns.Close())
	v.done()
	return err
}

// withMounts says whether a view has the container's volumes and bind mounts.
type withMounts bool

// viewMount is one mount of a view; target is a path in the container.
type viewMount struct {
	source, target string
	recursive      bool
	readOnly       bool
}

// openView returns a view of a container. Until it is closed, the container can
// be stopped and removed, but is not started: the kernel does not let two mounts
// write to one layer.
func (e *Engine) openView(ctx context.Context, r *record, mounts withMounts) (_ *view, err error) {
	if err := r.lock(ctx); err != nil {
		return nil, err
	}
	defer r.unlock()
	if r.isRemoving() {
		return nil, problem.New(problem.Conflict, "container %s is being removed", r.id)
	}
	cfg := seenMounts(r.config(), mounts)
	owner := "view " + newID()
	if err := e.useVolumes(ctx, cfg, owner); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			e.doneVolumes(cfg, owner)
		}
	}()
	from, err := e.openSources(cfg)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err := from.close(); err != nil {
			e.log.Warn("source of a mount stays mounted", "container", r.id, "err", err)
		}
	}()
	_, root, err := e.surround(cfg)
	if err != nil {
		return nil, err
	}
	b := viewBuilder{
		at:     filepath.Dir(r.dir),
		layers: container.Overlay{Lower: root[1:], Upper: root[0], Work: filepath.Join(r.dir, "work")},
	}
	if mounts {
		b.mounts = e.viewMounts(cfg, from)
	}
	if this := r.running(); this != nil {
		if b.namespace, err = mountNamespace(this.proc); err != nil {
			return nil, err
		}
		defer b.namespace.Close()
	}
	v, err := b.build()
	if err != nil {
		return nil, fmt.Errorf("open the file system of container %s: %w", r.id, err)
	}
	r.views.enter()
	v.done = func() {
		e.doneVolumes(cfg, owner)
		r.views.leave()
	}
	return v, nil
}

// seenMounts returns the configuration with those of its mounts that a view has.
// An image's is not among them: its writable layer is the running container's.
func seenMounts(cfg *config, mounts withMounts) *config {
	seen := *cfg
	seen.Mounts = slices.DeleteFunc(slices.Clone(cfg.Mounts), func(p mountPoint) bool {
		return !bool(mounts) || p.Type == dmount.TypeTmpfs || p.Type == dmount.TypeImage
	})
	return &seen
}

// viewMounts lists the mounts of a view, parents first. A file of the container's
// surroundings is there once it has been started.
func (e *Engine) viewMounts(cfg *config, from *sources) []viewMount {
	var list []viewMount
	own := map[string]bool{}
	for _, p := range cfg.Mounts {
		own[p.Destination] = true
	}
	for _, name := range []string{"resolv.conf", "hostname", "hosts"} {
		source := filepath.Join(e.containerDir(cfg.ID), name)
		if target := "/etc/" + name; !own[target] && exists(source) {
			list = append(list, viewMount{source: source, target: target})
		}
	}
	for _, p := range cfg.Mounts {
		source := p.Source
		if at := from.paths[p.Destination]; at != "" {
			source = at
		}
		list = append(list, viewMount{source: source, target: p.Destination, recursive: !p.NonRecursive, readOnly: !p.RW})
	}
	return list
}

// mountNamespace opens the mount namespace of a container's process.
func mountNamespace(proc *container.Container) (*os.File, error) {
	pid := proc.Pid()
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err == nil && proc.Pid() == pid && pid != 0 {
		return ns, nil
	}
	if err == nil {
		err = errors.Join(problem.New(problem.Conflict, "the container has just ended"), ns.Close())
	}
	return nil, fmt.Errorf("open the mount namespace: %w", err)
}

// viewBuilder makes a view on a thread of its own.
type viewBuilder struct {
	namespace *os.File // of the running container; nil: the layers are mounted
	layers    container.Overlay
	at        string // a directory to mount on, in the view's namespace only
	mounts    []viewMount
}

func (b *viewBuilder) build() (*view, error) {
	type result struct {
		view *view
		err  error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends in its namespace
		if unix.Gettid() == unix.Getpid() {
			// Not the main thread, which would stay there. While it is held,
			// another goroutine gets another thread.
			v, err := b.build()
			runtime.UnlockOSThread()
			done <- result{v, err}
			return
		}
		v, err := b.buildHere()
		done <- result{v, err}
	}()
	r := <-done
	return r.view, r.err
}

// buildHere leaves the thread in the view's namespace.
func (b *viewBuilder) buildHere() (v *view, err error) {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return nil, fmt.Errorf("unshare the working directory: %w", err)
	}
	root := -1
	if b.namespace != nil {
		if root, err = rootOf(b.namespace); err != nil {
			return nil, err
		}
		defer unix.Close(root)
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return nil, fmt.Errorf("unshare the mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return nil, fmt.Errorf("make mounts private: %w", err)
	}
	sources, err := b.openSources()
	defer func() {
		for _, fd := range sources {
			_ = unix.Close(fd) // a mount that found its place stays there
		}
	}()
	if err != nil {
		return nil, err
	}
	if root >= 0 {
		err = attach(root, unix.AT_FDCWD, b.at)
	} else {
		err = b.layers.Mount(b.at)
	}
	if err != nil {
		return nil, err
	}
	v = &view{}
	if v.root, err = tree.OpenRoot(b.at); err != nil {
		return nil, err
	}
	if err := b.attachSources(v.root, sources); err != nil {
		return nil, errors.Join(err, v.root.Close())
	}
	if v.ns, err = os.Open("/proc/thread-self/ns/mnt"); err != nil {
		return nil, errors.Join(err, v.root.Close())
	}
	// The copies of the host's mounts would keep alive what the host unmounts,
	// network namespaces among it.
	if err := b.leaveHost(); err != nil {
		return nil, errors.Join(err, v.root.Close(), v.ns.Close())
	}
	return v, nil
}

// leaveHost makes the view's root the root of the namespace, and unmounts all else.
func (b *viewBuilder) leaveHost() error {
	if err := unix.Chdir(b.at); err != nil {
		return fmt.Errorf("chdir to the view: %w", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot to the view: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the host's root: %w", err)
	}
	return nil
}

// rootOf returns a detached copy of the root mount of a mount namespace, without
// what is mounted below it.
func rootOf(namespace *os.File) (int, error) {
	home, err := os.Open("/proc/thread-self/ns/mnt")
	if err != nil {
		return -1, err
	}
	defer home.Close()
	if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNS); err != nil {
		return -1, fmt.Errorf("enter the mount namespace: %w", err)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		err = fmt.Errorf("copy the root mount: %w", err)
	}
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNS); back != nil {
		if err == nil {
			_ = unix.Close(fd) // of no use without the way back
		}
		return -1, errors.Join(err, fmt.Errorf("leave the mount namespace: %w", back))
	}
	return fd, err
}

// openSources opens what is mounted in the view before its root hides some of it.
func (b *viewBuilder) openSources() (fds []int, err error) {
	for _, m := range b.mounts {
		flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
		set := 0
		if m.recursive {
			flags, set = flags|unix.AT_RECURSIVE, unix.AT_RECURSIVE
		}
		fd, err := unix.OpenTree(unix.AT_FDCWD, m.source, flags)
		if err != nil {
			return fds, &fs.PathError{Op: "open", Path: m.source, Err: err}
		}
		fds = append(fds, fd)
		attr := unix.MountAttr{Propagation: unix.MS_PRIVATE}
		if m.readOnly {
			attr.Attr_set = unix.MOUNT_ATTR_RDONLY
		}
		if err := unix.MountSetattr(fd, "", uint(unix.AT_EMPTY_PATH|set), &attr); err != nil {
			return fds, fmt.Errorf("set the attributes of the mount of %s: %w", m.source, err)
		}
	}
	return fds, nil
}

func (b *viewBuilder) attachSources(root *tree.Root, sources []int) error {
	for i, m := range b.mounts {
		target, err := mountTarget(root, m.target, sources[i])
		if err != nil {
			return err
		}
		err = errors.Join(attach(sources[i], int(target.Fd()), ""), target.Close())
		if err != nil {
			return fmt.Errorf("%s: %w", m.target, err)
		}
	}
	return nil
}

// mountTarget opens the place of a mount, and makes one where there is none: the
// container has not been started yet.
func mountTarget(root *tree.Root, name string, source int) (*os.File, error) {
	target, err := root.Handle(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return target, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(source, &st); err != nil {
		return nil, fmt.Errorf("stat the source of %s: %w", name, err)
	}
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, ModTime: time.Now()}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		h.Typeflag, h.Mode = tar.TypeDir, 0o755
	}
	w := tree.NewWriter(root, tree.Options{KeepDirs: true})
	_, err = w.Put(h, nil)
	if err := errors.Join(err, w.Close()); err != nil {
		return nil, fmt.Errorf("make the mount point %s: %w", name, err)
	}
	return root.Handle(name)
}

// attach moves a detached mount to a directory, or to the one that dir itself is.
func attach(mount, dir int, path string) error {
	flags := unix.MOVE_MOUNT_F_EMPTY_PATH
	if path == "" {
		flags |= unix.MOVE_MOUNT_T_EMPTY_PATH
	}
	if err := unix.MoveMount(mount, "", dir, path, flags); err != nil {
		return fmt.Errorf("attach a mount: %w", err)
	}
	return nil
}

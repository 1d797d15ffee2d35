package engine

import (
	"context"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	dcontainer "github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"
)

// Changes lists how a container's file system differs from its image's.
func (e *Engine) Changes(ctx context.Context, ref string) ([]dcontainer.FilesystemChange, error) {
	r, err := e.find(ref)
	if err != nil {
		return nil, err
	}
	lower, err := e.cfg.Images.LayerDirs(r.config().Layers)
	if err != nil {
		return nil, err
	}
	image := layers(lower)
	upper := filepath.Join(r.dir, "upper")
	list := []dcontainer.FilesystemChange{}
	err = filepath.WalkDir(upper, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(path, upper)
		if rel == "" {
			return ctx.Err()
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		kind := dcontainer.ChangeAdd
		switch {
		case isWhiteout(info):
			kind = dcontainer.ChangeDelete
		case image.has(rel[1:]):
			kind = dcontainer.ChangeModify
		}
		list = append(list, dcontainer.FilesystemChange{Kind: kind, Path: rel})
		return nil
	})
	slices.SortFunc(list, func(a, b dcontainer.FilesystemChange) int { return strings.Compare(a.Path, b.Path) })
	return withoutStubs(list, upper, image), err
}

// stubs are what a container has as mount points whether or not its image does.
var stubs = []string{"/proc", "/sys", "/dev", "/etc/resolv.conf", "/etc/hosts", "/etc/hostname"}

// withoutStubs drops what is in the upper directory only to be mounted on, and
// the directories which are there only because of that.
func withoutStubs(list []dcontainer.FilesystemChange, upper string, image layers) []dcontainer.FilesystemChange {
	mounted := map[string]bool{}
	for _, stub := range stubs {
		mounted[stub] = true
	}
	hasChild := map[string]bool{}
	var kept []dcontainer.FilesystemChange
	// Children come before their parents from the end.
	for _, change := range slices.Backward(list) {
		made := change.Kind == dcontainer.ChangeAdd && mounted[change.Path]
		on := change.Kind != dcontainer.ChangeDelete && !hasChild[change.Path] && holdsStub(change.Path, mounted) &&
			image.sameDir(upper, change.Path, change.Kind)
		if made && !hasChild[change.Path] || on {
			continue
		}
		kept = append(kept, change)
		hasChild[filepath.Dir(change.Path)] = true
	}
	slices.Reverse(kept)
	if kept == nil {
		return []dcontainer.FilesystemChange{}
	}
	return kept
}

// holdsStub tells whether something is mounted below a directory.
func holdsStub(dir string, mounted map[string]bool) bool {
	for target := range mounted {
		if strings.HasPrefix(target, dir+"/") {
			return true
		}
	}
	return false
}

// sameDir tells whether a directory of upper is new, or has the owner and mode
// of the image's.
func (l layers) sameDir(upper, path string, kind dcontainer.ChangeType) bool {
	var above, below unix.Stat_t
	if err := unix.Lstat(upper+path, &above); err != nil || above.Mode&unix.S_IFMT != unix.S_IFDIR {
		return false
	}
	if kind == dcontainer.ChangeAdd {
		return true
	}
	for _, dir := range l {
		if err := unix.Lstat(dir+path, &below); err == nil {
			return above.Mode == below.Mode && above.Uid == below.Uid && above.Gid == below.Gid
		}
	}
	return false
}

// isWhiteout tells whether a file of a writable layer says that the one below
// is gone: a character device 0:0.
func isWhiteout(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.Mode()&fs.ModeCharDevice != 0 && st.Rdev == 0
}

// has tells whether the layers have a file at a relative path.
func (l layers) has(path string) bool {
	for _, dir := range l {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, path), &st); err == nil {
			return st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0
		}
		if hides(dir, path) {
			return false
		}
	}
	return false
}

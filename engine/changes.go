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
	lower, err := e.lowerDirs(r.config())
	if err != nil {
		return nil, err
	}
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
		case lower.has(rel[1:]):
			kind = dcontainer.ChangeModify
		}
		list = append(list, dcontainer.FilesystemChange{Kind: kind, Path: rel})
		return nil
	})
	slices.SortFunc(list, func(a, b dcontainer.FilesystemChange) int { return strings.Compare(a.Path, b.Path) })
	return list, err
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

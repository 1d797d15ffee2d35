package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"gantry/internal/fault"
)

// CopyUp fills an empty volume with the content of the directory src, and gives
// it src's owner and mode, as Docker does when an image has something where a
// new volume is mounted. A volume that has content is left alone.
//
// src must be a directory that nobody can change meanwhile: symbolic links in
// it are copied, not followed.
func (s *Store) CopyUp(ctx context.Context, name, src string) error {
	data, err := s.Path(name)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(data)
	if err != nil || len(entries) > 0 {
		return err
	}
	if mounted, err := isMounted(data); err != nil || mounted {
		return errors.Join(err, copyTree(ctx, src, data)) // a mount point cannot be exchanged
	}
	tmp := filepath.Join(filepath.Dir(data), copyDir)
	if err := errors.Join(os.RemoveAll(tmp), os.Mkdir(tmp, 0o755)); err != nil {
		return err
	}
	err = copyTree(ctx, src, tmp)
	if err == nil {
		err = fault.At("volume/copy/before-exchange")
	}
	if err == nil {
		err = unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, data, unix.RENAME_EXCHANGE)
	}
	if err != nil {
		err = fmt.Errorf("fill volume %s: %w", name, err)
	}
	return errors.Join(err, os.RemoveAll(tmp))
}

// inode names a file with several links, to keep them links in the copy.
type inode struct{ dev, ino uint64 }

// copyTree copies the content, owner, mode, times and extended attributes of
// the directory src onto the existing directory dst.
func copyTree(ctx context.Context, src, dst string) error {
	root, err := os.OpenRoot(src)
	if err != nil {
		return err
	}
	defer root.Close()
	links := map[inode]string{}
	return fs.WalkDir(root.FS(), ".", func(path string, entry fs.DirEntry, err error) error {
		if err := errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		// Not Join, which would clean "/." away: src may be a link to its directory.
		return copyEntry(src+"/"+path, filepath.Join(dst, path), links)
	})
}

func copyEntry(src, dst string, links map[inode]string) error {
	info, err := os.Lstat(src)
	if err != nil {
		return err
	}
	st := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() && st.Nlink > 1 {
		first, seen := links[inode{st.Dev, st.Ino}]
		if seen {
			return os.Link(first, dst)
		}
		links[inode{st.Dev, st.Ino}] = dst
	}
	switch {
	case info.IsDir():
		if err := os.Mkdir(dst, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(src)
		if err != nil {
			return err
		}
		if err := os.Symlink(target, dst); err != nil {
			return err
		}
		return os.Lchown(dst, int(st.Uid), int(st.Gid))
	case info.Mode().IsRegular():
		if err := copyFile(src, dst); err != nil {
			return err
		}
	case info.Mode()&fs.ModeSocket != 0:
		return nil // it means nothing without the process which bound it
	default:
		if err := unix.Mknod(dst, st.Mode, int(st.Rdev)); err != nil {
			return &fs.PathError{Op: "mknod", Path: dst, Err: err}
		}
	}
	return copyAttributes(src, dst, st)
}

func copyFile(src, dst string) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func copyAttributes(src, dst string, st *syscall.Stat_t) error {
	if err := os.Lchown(dst, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := copyXattrs(src, dst); err != nil {
		return err
	}
	// After chown, which clears the set-user-ID bit.
	if err := unix.Chmod(dst, st.Mode&0o7777); err != nil {
		return &fs.PathError{Op: "chmod", Path: dst, Err: err}
	}
	times := []unix.Timespec{{Sec: st.Atim.Sec, Nsec: st.Atim.Nsec}, {Sec: st.Mtim.Sec, Nsec: st.Mtim.Nsec}}
	return unix.UtimesNanoAt(unix.AT_FDCWD, dst, times, unix.AT_SYMLINK_NOFOLLOW)
}

func copyXattrs(src, dst string) error {
	names := make([]byte, 4096)
	n, err := unix.Llistxattr(src, names)
	if errors.Is(err, unix.ENOTSUP) || n == 0 {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "listxattr", Path: src, Err: err}
	}
	value := make([]byte, 64<<10) // XATTR_SIZE_MAX
	for _, name := range splitNames(names[:n]) {
		size, err := unix.Lgetxattr(src, name, value)
		if err != nil {
			return &fs.PathError{Op: "getxattr " + name, Path: src, Err: err}
		}
		if err := unix.Lsetxattr(dst, name, value[:size], 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
			return &fs.PathError{Op: "setxattr " + name, Path: dst, Err: err}
		}
	}
	return nil
}

// splitNames splits the NUL-terminated names of listxattr, without those that
// belong to overlayfs itself.
func splitNames(list []byte) []string {
	var names []string
	start := 0
	for i, b := range list {
		if b != 0 {
			continue
		}
		name := string(list[start:i])
		if !hasOverlayPrefix(name) {
			names = append(names, name)
		}
		start = i + 1
	}
	return names
}

func hasOverlayPrefix(name string) bool {
	const prefix = "trusted.overlay."
	return len(name) >= len(prefix) && name[:len(prefix)] == prefix
}

func diskUsage(ctx context.Context, dir string) (int64, error) {
	var total int64
	seen := map[inode]bool{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed while we walked
		}
		if err := errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		if st.Nlink > 1 && !entry.IsDir() {
			if seen[inode{st.Dev, st.Ino}] {
				return nil
			}
			seen[inode{st.Dev, st.Ino}] = true
		}
		total += st.Blocks * 512
		return nil
	})
	return total, err
}

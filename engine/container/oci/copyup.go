package oci

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// copyUp copies the content of one directory to another, each given by a
// descriptor: owners, modes, times, links and extended attributes with it. It
// follows no link out of either.
func copyUp(from, to int) error {
	source, err := os.OpenRoot(fdPath(from))
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenRoot(fdPath(to))
	if err != nil {
		return err
	}
	defer target.Close()
	linked := map[[2]uint64]string{} // by device and inode, the first name of each file
	var directories []string
	err = fs.WalkDir(source.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := source.Lstat(name)
		if err != nil {
			return err
		}
		if info.IsDir() {
			directories = append(directories, name)
			if name != "." {
				err = target.Mkdir(name, 0o700)
			}
		} else {
			err = copyFile(source, target, name, info, linked)
		}
		return err
	})
	if err != nil {
		return err
	}
	// From the deepest: what is made in a directory changes its times.
	for i := len(directories) - 1; i >= 0; i-- {
		info, err := source.Lstat(directories[i])
		if err != nil {
			return err
		}
		if err := copyAttributes(source, target, directories[i], info); err != nil {
			return err
		}
	}
	return nil
}

func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func copyFile(source, target *os.Root, name string, info fs.FileInfo, linked map[[2]uint64]string) error {
	stat := info.Sys().(*syscall.Stat_t)
	inode := [2]uint64{stat.Dev, stat.Ino}
	if first, ok := linked[inode]; ok {
		return target.Link(first, name)
	}
	if stat.Nlink > 1 {
		linked[inode] = name
	}
	switch info.Mode().Type() {
	case fs.ModeSymlink:
		to, err := source.Readlink(name)
		if err != nil {
			return err
		}
		return errors.Join(target.Symlink(to, name), target.Lchown(name, int(stat.Uid), int(stat.Gid)))
	case 0:
		if err := copyContent(source, target, name); err != nil {
			return err
		}
	default:
		if err := makeNode(target, name, stat); err != nil {
			return err
		}
	}
	return copyAttributes(source, target, name, info)
}

func copyContent(source, target *os.Root, name string) error {
	in, err := source.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := target.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// makeNode makes a device, fifo or socket.
func makeNode(target *os.Root, name string, stat *syscall.Stat_t) error {
	dir, err := target.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	return unix.Mknodat(int(dir.Fd()), path.Base(name), stat.Mode, int(stat.Rdev))
}

// copyAttributes copies all of a file but its content. It is no link.
func copyAttributes(source, target *os.Root, name string, info fs.FileInfo) error {
	stat := info.Sys().(*syscall.Stat_t)
	err := errors.Join(
		target.Lchown(name, int(stat.Uid), int(stat.Gid)),
		target.Chmod(name, info.Mode().Perm()|info.Mode()&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky)))
	if err == nil && (info.IsDir() || info.Mode().IsRegular()) {
		err = copyXattrs(source, target, name)
	}
	return errors.Join(err, target.Chtimes(name, info.ModTime(), info.ModTime()))
}

func copyXattrs(source, target *os.Root, name string) error {
	in, err := source.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	size, err := unix.Flistxattr(int(in.Fd()), nil)
	if err != nil || size == 0 {
		return nil // a file system without
	}
	out, err := target.Open(name)
	if err != nil {
		return err
	}
	defer out.Close()
	list := make([]byte, size)
	if size, err = unix.Flistxattr(int(in.Fd()), list); err != nil {
		return err
	}
	for _, attr := range strings.Split(strings.TrimSuffix(string(list[:size]), "\x00"), "\x00") {
		n, err := unix.Fgetxattr(int(in.Fd()), attr, nil)
		if err != nil {
			continue // removed meanwhile, or not ours to read
		}
		value := make([]byte, n)
		if n, err = unix.Fgetxattr(int(in.Fd()), attr, value); err != nil {
			return err
		}
		if err := unix.Fsetxattr(int(out.Fd()), attr, value[:n], 0); err != nil && err != unix.EOPNOTSUPP && err != unix.EPERM {
			return err
		}
	}
	return nil
}

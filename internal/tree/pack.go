package tree

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Pack writes the tree under root to w as the archive of a layer: whiteouts of
// overlayfs become whiteout files. The same tree gives the same bytes: names
// in byte order, PAX, times to the nanosecond, no names of owners.
//
// Sockets are left out, as no archive can hold them. A tree that overlayfs
// wrote with redirected directories or with metadata-only copies is refused:
// its files are not all in it. Pack returns how many bytes its files have.
func Pack(ctx context.Context, w io.Writer, root *Root) (int64, error) {
	p := &packer{ctx: ctx, root: root, tar: tar.NewWriter(w), links: map[inode]string{}, buf: make([]byte, bufferBytes)}
	if err := p.dir(""); err != nil {
		return p.bytes, err
	}
	return p.bytes, p.tar.Close()
}

type inode struct{ dev, ino uint64 }

type packer struct {
	ctx   context.Context
	root  *Root
	tar   *tar.Writer
	links map[inode]string // first name of each file that has several
	bytes int64
	buf   []byte

	live bool   // of Archive: the tree may change, and is no layer
	from string // the name of what Archive writes
	as   string // what takes its place in the names of entries
}

// named returns the name of an entry in the archive.
func (p *packer) named(name string) string {
	if !p.live {
		return name
	}
	rel := strings.TrimPrefix(strings.TrimPrefix(name, p.from), "/")
	if p.as == "." {
		return "./" + rel // clients look for the dot
	}
	return path.Join(p.as, rel)
}

// dir packs what is in the directory name.
func (p *packer) dir(name string) error {
	if err := context.Cause(p.ctx); err != nil {
		return err
	}
	names, err := p.root.ReadDir(name)
	if err != nil {
		if p.live && name != p.from && vanished(err) {
			return nil
		}
		return err
	}
	for _, base := range names {
		err := p.entry(path.Join(name, base))
		if p.live && errors.Is(err, errGone) {
			continue
		}
		if err != nil {
			return fmt.Errorf("pack %s: %w", path.Join("/", name, base), err)
		}
	}
	return nil
}

// errGone tells that a file went away before anything of it was written.
var errGone = errors.New("the file is gone")

func (p *packer) entry(name string) (err error) {
	fd, err := p.root.openat2(name, unix.O_PATH|unix.O_NOFOLLOW, 0, inRoot)
	if p.live && vanished(err) {
		return errors.Join(errGone, err)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if isWhiteout(&st) && !p.live {
		return p.mark(path.Join(path.Dir(name), whiteoutPrefix+path.Base(name)), &st)
	}
	h, err := header(p.named(name), fd, &st)
	if err != nil || h == nil {
		return err
	}
	opaque, err := p.xattrs(fd, h)
	if err != nil {
		return err
	}
	if st.Nlink > 1 && h.Typeflag != tar.TypeDir {
		id := inode{uint64(st.Dev), st.Ino}
		if first, ok := p.links[id]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			return p.tar.WriteHeader(h)
		}
		p.links[id] = h.Name
	}
	if err := p.tar.WriteHeader(h); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg:
		return p.content(fd, h.Size)
	case tar.TypeDir:
		if opaque {
			if err := p.mark(path.Join(name, whiteoutOpaque), &st); err != nil {
				return err
			}
		}
		return p.dir(name)
	}
	return nil
}

// mark writes an empty file that says something to who unpacks.
func (p *packer) mark(name string, st *unix.Stat_t) error {
	return p.tar.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: name, ModTime: time.Unix(0, 0), Format: tar.FormatPAX,
	})
}

// content writes the content of the file that the handle fd is of: not by its
// name, behind which there may be another by now.
func (p *packer) content(fd int, size int64) (err error) {
	f, err := reopen(fd)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var from io.Reader = f
	if p.live {
		from = io.LimitReader(f, size)
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{p.tar}, struct{ io.Reader }{from}, p.buf)
	p.bytes += n
	if err != nil || n == size {
		return err
	}
	if !p.live {
		return fmt.Errorf("has %d bytes, had %d", n, size)
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{p.tar}, struct{ io.Reader }{io.LimitReader(zeros{}, size-n)}, p.buf)
	return err
}

// header returns the entry for an open file, or nil if it has none.
func header(name string, fd int, st *unix.Stat_t) (*tar.Header, error) {
	h := &tar.Header{
		Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Sec, st.Mtim.Nsec), Format: tar.FormatPAX,
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, st.Size
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, strings.TrimSuffix(name, "/")+"/"
	case unix.S_IFLNK:
		target, err := readlinkat(fd, "")
		if err != nil {
			return nil, err
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, target
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	default:
		return nil, nil
	}
	return h, nil
}

// xattrs adds the attributes that belong to a layer to h, and reports whether
// the file is an opaque directory.
func (p *packer) xattrs(fd int, h *tar.Header) (opaque bool, err error) {
	self := fmt.Sprintf("/proc/self/fd/%d", fd)
	if h.Typeflag == tar.TypeSymlink {
		return false, nil // Linux gives links no attributes that a layer keeps
	}
	names, err := listXattrs(self, p.buf)
	if err != nil {
		return false, err
	}
	for _, name := range names {
		switch {
		case p.live && overlayXattr(name):
		case name == "trusted.overlay.redirect" || name == "trusted.overlay.metacopy":
			return false, fmt.Errorf("overlayfs attribute %s: the layer is not complete in itself", name)
		case name == opaqueXattr:
			value, err := getXattr(self, name)
			if err != nil {
				return false, err
			}
			opaque = string(value) == "y"
		case keptXattr(name):
			value, err := getXattr(self, name)
			if err != nil {
				return false, err
			}
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords[xattrRecord+name] = string(value)
		}
	}
	return opaque, nil
}

// keptXattr reports whether an attribute is part of a layer: capabilities,
// access lists, and what users set; not the host's labels and marks.
func keptXattr(name string) bool {
	return name == "security.capability" || strings.HasPrefix(name, "system.posix_acl_") ||
		strings.HasPrefix(name, "user.") && !overlayXattr(name)
}

func listXattrs(file string, buf []byte) ([]string, error) {
	n, err := unix.Listxattr(file, buf)
	if err == unix.ENOTSUP {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list attributes: %w", err)
	}
	var names []string
	for name := range bytes.SplitSeq(buf[:n], []byte{0}) {
		if len(name) > 0 {
			names = append(names, string(name))
		}
	}
	return names, nil
}

func getXattr(file, name string) ([]byte, error) {
	buf := make([]byte, 64<<10) // XATTR_SIZE_MAX
	n, err := unix.Getxattr(file, name, buf)
	if err != nil {
		return nil, fmt.Errorf("get attribute %s: %w", name, err)
	}
	return buf[:n], nil
}

// Xattrs returns the attributes of a file that belong to a layer, as PAX
// records; nil if there are none. A link is not followed.
func (r *Root) Xattrs(name string) (_ map[string]string, err error) {
	fd, err := r.openat2(name, unix.O_PATH|unix.O_NOFOLLOW, 0, inRoot)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	h := &tar.Header{Name: name}
	p := &packer{buf: make([]byte, 64<<10)}
	_, err = p.xattrs(fd, h)
	return h.PAXRecords, err
}

package logfile

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// compressed ends the name of a compressed file.
const compressed = ".gz"

// part is an open file of a log. A compressed one is inflated, into a file
// without a name, when it is read.
type part struct {
	*os.File
	inode  uint64   // of the file as the shim wrote it
	packed bool     // File is compressed
	origin *os.File // compressed, where File is what was inflated from it
}

func (p *part) Close() error {
	if p.origin != nil {
		p.origin.Close()
	}
	return p.File.Close()
}

// live says whether the open file is the one that the shim wrote.
func (p *part) live() bool { return !p.packed && p.origin == nil }

// is says whether two open parts are of one file. The inode number of one that
// was compressed, and removed, may be another's by now.
func (p *part) is(q *part) bool {
	if p.inode != q.inode || p.live() && q.live() {
		return p.inode == q.inode
	}
	a, err := p.start()
	b, err2 := q.start()
	return err == nil && err2 == nil && bytes.Equal(a, b)
}

// startSize is more than the first line has, with the time at which it was written.
const startSize = 128 << 10

// start returns the first bytes that the shim wrote.
func (p *part) start() ([]byte, error) {
	var r io.Reader = io.NewSectionReader(p.File, 0, math.MaxInt64)
	if p.packed {
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, err
		}
		r = z
	}
	return io.ReadAll(io.LimitReader(r, startSize))
}

// removed says whether the file has no name any more.
func (p *part) removed() (bool, error) {
	f := p.File
	if p.origin != nil {
		f = p.origin
	}
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	return info.Sys().(*syscall.Stat_t).Nlink == 0, nil
}

// openPart opens the file called name, or its compressed form. Where a crash
// has left both, the plain one counts.
func openPart(name string) (*part, error) {
	for range 2 { // the one may become the other in between
		f, err := os.Open(name)
		if err == nil {
			info, err := f.Stat()
			if err != nil {
				return nil, errors.Join(err, f.Close())
			}
			return &part{File: f, inode: inodeOf(info)}, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		f, err = os.Open(name + compressed)
		if err == nil {
			return packedPart(f)
		}
		if !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	return nil, &os.PathError{Op: "open", Path: name, Err: os.ErrNotExist}
}

// packedPart reads which file a compressed one was.
func packedPart(f *os.File) (*part, error) {
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", f.Name(), err), f.Close())
	}
	number, _ := strings.CutPrefix(z.Comment, inodeComment)
	inode, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s is not a log that Gantry has compressed", f.Name()), f.Close())
	}
	return &part{File: f, inode: inode, packed: true}, nil
}

// inodeComment and a number are in the header of each compressed file, so that
// a reader that is in the middle of the plain one knows it again.
const inodeComment = "inode "

func inodeOf(info os.FileInfo) uint64 { return info.Sys().(*syscall.Stat_t).Ino }

// inflate makes the part one that can be read at any offset. Its plain form is
// on the log's disk, or where that is full in memory, for as long as it is open.
func (p *part) inflate() error {
	if !p.packed {
		return nil
	}
	plain, err := unnamed(filepath.Dir(p.Name()))
	if err != nil {
		return err
	}
	err = unpack(plain, p.File)
	if errors.Is(err, unix.ENOSPC) {
		plain.Close()
		if plain, err = inMemory(); err != nil {
			return err
		}
		err = unpack(plain, p.File)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("%s: %w", p.Name(), err), plain.Close())
	}
	p.origin, p.File, p.packed = p.File, plain, false
	return nil
}

func unpack(to, from *os.File) error {
	if _, err := from.Seek(0, io.SeekStart); err != nil {
		return err
	}
	z, err := gzip.NewReader(from)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, z)
	return err
}

func unnamed(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return inMemory() // a file system without such files, a full or a read-only one
	}
	return os.NewFile(uintptr(fd), "inflated log"), nil
}

func inMemory() (*os.File, error) {
	fd, err := unix.MemfdCreate("inflated log", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "inflated log"), nil
}

func closeAll(parts []*part) {
	for _, p := range parts {
		p.Close()
	}
}

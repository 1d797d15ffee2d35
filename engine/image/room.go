package image

import (
	"archive/tar"
	"context"

	"golang.org/x/sys/unix"

	"gantry/internal/problem"
)

// Bounds of what one archive may make of itself. A few bytes of it may claim
// terabytes of zeros or millions of devices.
const (
	maxEntries = 4 << 20   // of a layer; the largest that are known have a tenth of it
	maxHoles   = 64 << 30  // bytes that the sparse files of a layer show: reading them takes seconds a GiB
	maxReserve = 256 << 20 // bytes of the file system that unpacking leaves free
	minStep    = 1 << 20   // bytes between two looks at the file system
	entryStep  = 1 << 10   // entries between two looks
)

// room is what one archive may take of a file system.
type room struct {
	ctx     context.Context //nolint:containedctx // as long as one call
	dir     string          // on that file system
	reserve int64           // bytes that stay free
	largest int64           // bytes of the whole file system: more no layer can have, holes included
	entries int64           // so far
	bytes   int64           // so far
	holes   int64           // that sparse files show, so far
	step    int64           // bytes until the next look
}

func newRoom(ctx context.Context, dir string) (*room, error) {
	st, err := statfs(dir)
	if err != nil {
		return nil, err
	}
	r := &room{ctx: ctx, dir: dir, largest: int64(st.Blocks) * st.Bsize}
	r.reserve = min(r.largest/100, maxReserve)
	return r, r.look()
}

func statfs(dir string) (unix.Statfs_t, error) {
	var st unix.Statfs_t
	for {
		err := unix.Statfs(dir, &st)
		if err != unix.EINTR {
			return st, err
		}
	}
}

// entry takes one entry in; size is what its file will show, holes included.
func (r *room) entry(h *tar.Header) error {
	r.entries++
	if r.entries > maxEntries {
		return problem.New(problem.Invalid, "archive: more than %d entries", maxEntries)
	}
	if h.Size > r.largest-r.bytes {
		return problem.New(problem.NoSpace, "archive entry %q: %d bytes, more than the file system holds", h.Name, h.Size)
	}
	if sparse(h) {
		if r.holes += h.Size; r.holes > maxHoles {
			return problem.New(problem.Invalid, "archive entry %q: sparse files of more than %d bytes", h.Name, maxHoles)
		}
	}
	if r.entries%entryStep == 0 {
		return r.look()
	}
	return nil
}

// content takes n bytes of a file in.
func (r *room) content(n int) error {
	r.bytes += int64(n)
	if r.step -= int64(n); r.step > 0 {
		return nil
	}
	if err := context.Cause(r.ctx); err != nil {
		return err // holes are read from nowhere, so nothing else would end them
	}
	return r.look()
}

// look refuses what would fill the file system.
func (r *room) look() error {
	st, err := statfs(r.dir)
	if err != nil {
		return err
	}
	free := int64(st.Bavail) * st.Bsize
	if free < r.reserve {
		return problem.New(problem.NoSpace, "unpack: %d bytes are free, %d have to stay so: %w", free, r.reserve, unix.ENOSPC)
	}
	if st.Files > 0 && st.Ffree < st.Files/100 {
		return problem.New(problem.NoSpace, "unpack: %d of %d inodes are free: %w", st.Ffree, st.Files, unix.ENOSPC)
	}
	r.step = max(min(r.reserve/4, free-r.reserve), minStep)
	return nil
}

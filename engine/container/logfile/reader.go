package logfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// reader is one iteration over a log.
type reader struct {
	path    string
	options Options
	yield   func(Entry, error) bool

	files   []*part // still to be read, oldest first; the first is being read
	pending []byte  // read, not yet whole lines
	offset  int64   // of what follows pending, in the first file
	buf     []byte
	watch   *watcher // nil unless following
	stopped bool     // the consumer has had enough
}

func (r *reader) close() {
	closeAll(r.files)
	if r.watch != nil {
		r.watch.close()
	}
}

func (r *reader) read(ctx context.Context) error {
	if r.options.Follow {
		// Before the files are opened, so that no change is missed.
		w, err := watch(ctx, r.path, r.options.Done, r.options.Until)
		if err != nil {
			return err
		}
		r.watch = w
	}
	if err := r.open(); err != nil {
		return err
	}
	if r.options.After != (Position{}) {
		if err := r.seekAfter(r.options.After); err != nil {
			return err
		}
	}
	if r.options.Tail != 0 {
		if err := r.seekTail(); err != nil {
			return err
		}
	}
	for {
		ended := r.watch == nil || r.watch.ended()
		if err := r.drain(ctx); err != nil || r.stopped {
			return err
		}
		if ended {
			return nil
		}
		if err := r.watch.wait(ctx); err != nil {
			return err
		}
	}
}

// openTries bounds how often a rotation may come between the opening of files.
const openTries = 10

// open opens all files of the log.
func (r *reader) open() error {
	for range openTries {
		files, err := openAll(r.path)
		if err != nil {
			return err
		}
		r.files = files
		if _, err := os.Stat(r.path); errors.Is(err, os.ErrNotExist) {
			return nil // not written yet, or between two names: nothing is newer
		}
		if len(files) > 0 && same(files[len(files)-1], r.path) {
			return nil
		}
		closeAll(files)
		r.files = nil
	}
	return fmt.Errorf("read log %s: it is rotated faster than it can be opened", r.path)
}

// openAll opens the files that there are, oldest first. Meanwhile the shim does
// not rotate, which might hide some of them: it lets the newest grow.
func openAll(path string) ([]*part, error) {
	dir, err := os.Open(filepath.Dir(path))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	defer dir.Close() // gives the lock up
	// A file system without locks: the shim cannot rotate there either.
	_ = unix.Flock(int(dir.Fd()), unix.LOCK_SH)
	var files []*part // newest first
	for n := 0; ; n++ {
		f, err := openPart(name(path, n))
		if errors.Is(err, os.ErrNotExist) && n > 0 {
			break
		}
		if errors.Is(err, os.ErrNotExist) {
			continue // being rotated, or never written
		}
		if err != nil {
			closeAll(files)
			return nil, fmt.Errorf("read log: %w", err)
		}
		if slices.ContainsFunc(files, f.is) {
			f.Close() // it was renamed since it was opened as a newer one
			continue
		}
		files = append(files, f)
	}
	slices.Reverse(files)
	return files, nil
}

// name is the name of the n-th newest file.
func name(path string, n int) string {
	if n == 0 {
		return path
	}
	return path + "." + strconv.Itoa(n)
}

// same says whether path still names the open file f.
func same(f *part, path string) bool {
	info, err := os.Stat(path)
	return err == nil && f.live() && inodeOf(info) == f.inode
}

// drain yields what is there, through all files, and stays at the end of the
// newest.
func (r *reader) drain(ctx context.Context) error {
	for {
		if len(r.files) == 0 {
			if err := r.open(); err != nil || len(r.files) == 0 {
				return err
			}
		}
		// Asked before the file is read to its end: the writer, once it has
		// begun the next file, writes nothing more to this one.
		next, err := r.next()
		if err != nil {
			return err
		}
		if err := r.drainFile(ctx); err != nil || r.stopped {
			return err
		}
		if !next {
			return nil
		}
		// A torn last line stays behind with its file.
		r.pending, r.offset = r.pending[:0], 0
		r.files[0].Close()
		r.files = r.files[1:]
	}
}

// next says whether there is a file after the first one, opening those that
// rotation has made since.
func (r *reader) next() (bool, error) {
	if len(r.files) > 1 {
		return true, nil
	}
	if r.watch == nil || same(r.files[0], r.path) {
		return false, nil
	}
	for range openTries {
		newer, found, err := r.newer()
		if err != nil {
			return false, err
		}
		if !found {
			closeAll(newer)
			continue // a rotation came between the opening of files
		}
		r.files = append(r.files, newer...)
		return len(r.files) > 1, nil
	}
	return false, nil // the end of the rotation wakes the watch
}

// newer opens the files that are newer than the first one: all there are, if
// that was deleted meanwhile. found is false when it exists and was not seen.
func (r *reader) newer() (files []*part, found bool, err error) {
	all, err := openAll(r.path)
	if err != nil {
		return nil, false, err
	}
	current := r.files[0]
	deleted, err := current.removed()
	if err != nil {
		closeAll(all)
		return nil, false, err
	}
	first := slices.IndexFunc(all, current.is) + 1
	closeAll(all[:first])
	return all[first:], first > 0 || deleted, nil
}

// drainFile yields the rest of the first file.
func (r *reader) drainFile(ctx context.Context) error {
	if r.buf == nil {
		r.buf = make([]byte, 64<<10)
	}
	f := r.files[0]
	if err := f.inflate(); err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	if info, err := f.Stat(); err == nil && info.Size() < r.offset {
		r.pending, r.offset = r.pending[:0], 0 // truncated: it has begun anew
	}
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		n, err := f.ReadAt(r.buf, r.offset)
		r.offset += int64(n)
		r.pending = append(r.pending, r.buf[:n]...)
		if !r.yieldLines() {
			r.stopped = true
			return nil
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read log: %w", err)
		}
	}
}

// maxLine is more than any line of a log has: 16 KiB of text, each byte of which
// may take six in JSON.
const maxLine = 1 << 20

// yieldLines yields the whole lines of pending; false if no more are wanted.
func (r *reader) yieldLines() bool {
	rest := r.pending
	for {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			break
		}
		e, ok := parse(r.options.Format, rest[:i+1])
		e.At = Position{r.files[0].inode, r.offset - int64(len(rest)), r.offset - int64(len(rest)-i-1), e.Time}
		rest = rest[i+1:]
		if ok && r.options.wants(&e) && !r.yield(e, nil) {
			return false
		}
		if ok && !r.options.Until.IsZero() && e.Time.After(r.options.Until) {
			return false // all that follows is later still
		}
	}
	if len(rest) > maxLine {
		rest = nil // no writer's line; what follows of it will not parse either
	}
	r.pending = append(r.pending[:0], rest...)
	return true
}

// seekTail moves to the first of the last lines that are wanted.
func (r *reader) seekTail() error {
	want := r.options.Tail
	found := 0
	for i := len(r.files) - 1; i >= 0; i-- {
		f := r.files[i]
		at := int64(-1)
		if err := f.inflate(); err != nil {
			return fmt.Errorf("read log: %w", err)
		}
		err := backwards(f.File, func(line []byte, start int64) bool {
			e, ok := parse(r.options.Format, line)
			if !ok || !r.options.wants(&e) {
				return true
			}
			// A piece belongs to the line whose end was seen before it; the
			// newest piece of all may be one without an end.
			if !e.Partial || found == 0 {
				found++
			}
			if want < 0 || found > want {
				at = start + int64(len(line))
				return false
			}
			return true
		})
		if err != nil {
			return fmt.Errorf("read log: %w", err)
		}
		if at >= 0 {
			closeAll(r.files[:i])
			r.files, r.offset = r.files[i:], at
			return nil
		}
	}
	return nil
}

// backwards calls each with the lines of f, each with its newline, last first,
// and the offsets where they begin, until it returns false. What follows the
// last newline is left out.
func backwards(f *os.File, each func(line []byte, start int64) bool) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	const block = 64 << 10
	end := info.Size()
	var tail []byte // what was read from end on and has no newline before it
	torn := true    // tail ends in what follows the last newline
	for end > 0 {
		start := max(0, end-block)
		chunk := make([]byte, end-start, int(end-start)+len(tail))
		if _, err := f.ReadAt(chunk, start); err != nil && err != io.EOF {
			return err
		}
		chunk = append(chunk, tail...)
		for {
			stop := len(chunk)
			if !torn {
				stop-- // the newline that ends the line
			}
			i := bytes.LastIndexByte(chunk[:max(0, stop)], '\n')
			if i < 0 {
				break
			}
			if !torn && !each(chunk[i+1:], start+int64(i)+1) {
				return nil
			}
			torn = false
			chunk = chunk[:i+1]
		}
		tail, end = chunk, start
	}
	if !torn && len(tail) > 0 {
		each(tail, 0)
	}
	return nil
}

// Package logs reads container logs in the format of the Container Runtime
// Interface, one line each:
//
//	2016-10-06T00:17:09.669794202Z stdout F text of the line
//
// where P in place of F says that the line continues in the next record. A log
// that outgrew its file is continued: PATH holds the newest records, PATH.1
// those before, PATH.2 older ones.
//
// Following waits for inotify events; the package starts no goroutine that
// outlives Read.
package logs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Options selects what is read.
type Options struct {
	Follow     bool
	Timestamps bool      // begin each line with its time
	Since      time.Time // zero: from the beginning
	Tail       int64     // the last lines; negative: all
	Limit      int64     // bytes written; 0: no bound
}

// Record is one parsed line.
type Record struct {
	Time    time.Time
	Stamp   []byte // Time as it is written
	Stderr  bool
	Partial bool // continues in the next record
	Text    []byte
}

// Parse reads one line, given without its newline.
func Parse(line []byte) (Record, error) {
	var r Record
	stamp, rest, ok := bytes.Cut(line, []byte{' '})
	if !ok {
		return r, errors.New("log line without a stream")
	}
	t, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return r, fmt.Errorf("log line's time: %w", err)
	}
	stream, rest, ok := bytes.Cut(rest, []byte{' '})
	if !ok {
		return r, errors.New("log line without tags")
	}
	switch string(stream) {
	case "stdout":
	case "stderr":
		r.Stderr = true
	default:
		return r, fmt.Errorf("log line of stream %q", stream)
	}
	tags, text, _ := bytes.Cut(rest, []byte{' '})
	first, _, _ := bytes.Cut(tags, []byte{':'})
	r.Time, r.Stamp, r.Text, r.Partial = t, stamp, text, string(first) == "P"
	return r, nil
}

var errLimit = errors.New("limit reached")

// Read writes the log at path to stdout and stderr; either may be nil, to leave
// that stream out. With Follow it goes on until ended is closed and everything
// is read, or ctx ends.
func Read(ctx context.Context, path string, opts Options, ended <-chan struct{}, stdout, stderr io.Writer) error {
	w := &writer{opts: opts, stdout: stdout, stderr: stderr, left: opts.Limit}
	var watch *watcher
	if opts.Follow {
		// Before the first read: what is written after it must wake us.
		var err error
		if watch, err = newWatcher(filepath.Dir(path)); err != nil {
			return err
		}
		defer watch.Close()
	}
	err := readAll(ctx, path, opts, ended, watch, w)
	if errors.Is(err, errLimit) {
		return nil
	}
	return err
}

func readAll(ctx context.Context, path string, opts Options, ended <-chan struct{}, watch *watcher, w *writer) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { f.Close() }()
	if err := readHistory(ctx, path, f, opts, w); err != nil {
		return err
	}
	t := &tailReader{f: f}
	if err := t.drain(ctx, w); err != nil || !opts.Follow {
		return err
	}
	for {
		last := false
		select {
		case <-ended:
			last = true
		case <-ctx.Done():
			return nil
		case err := <-watch.changed:
			if err != nil {
				return err
			}
		}
		if err := t.drain(ctx, w); err != nil {
			return err
		}
		for {
			next, err := successor(path, f)
			if err != nil {
				return err
			}
			if next == nil {
				break
			}
			// Between the drain and the rename more may have been written.
			if err := t.drain(ctx, w); err != nil {
				next.Close()
				return err
			}
			f.Close()
			f, t = next, &tailReader{f: next}
			if err := t.drain(ctx, w); err != nil {
				return err
			}
		}
		if last {
			return nil // an unfinished last line is dropped: no more is coming
		}
	}
}

// successorTries bounds how often a rotation may come in between.
const successorTries = 16

// successor opens the file that continues f, or returns nil while f is the
// newest. Where f is gone already, reading goes on with the oldest one left.
func successor(path string, f *os.File) (*os.File, error) {
	for range successorTries {
		name, err := after(path, f)
		if err != nil || name == "" {
			return nil, err
		}
		next, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // renamed meanwhile
		}
		if err != nil {
			return nil, err
		}
		again, err := after(path, f)
		if err == nil && again == name {
			return next, nil
		}
		next.Close()
		if err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("log %s is rotated faster than it can be read", path)
}

// after names the file that continues f, or "".
func after(path string, f *os.File) (string, error) {
	have, err := f.Stat()
	if err != nil {
		return "", err
	}
	names, err := rotated(path)
	if err != nil {
		return "", err
	}
	names = append(names, path)
	found := -1
	for i, name := range names {
		info, err := os.Stat(name)
		if errors.Is(err, fs.ErrNotExist) && name == path {
			names = names[:i] // between the rename and the making of the new file
			break
		}
		if err == nil && os.SameFile(have, info) {
			found = i
		}
	}
	if found+1 < len(names) {
		return names[found+1], nil
	}
	return "", nil
}

// readHistory writes the older files where they are wanted, and leaves f at
// the first line of it that is.
func readHistory(ctx context.Context, path string, f *os.File, opts Options, w *writer) error {
	older, err := rotated(path)
	if err != nil {
		return err
	}
	if have, err := f.Stat(); err == nil {
		older = slices.DeleteFunc(older, func(name string) bool { // rotated since it was opened
			info, err := os.Stat(name)
			return err == nil && os.SameFile(have, info)
		})
	}
	if opts.Tail >= 0 {
		missing, err := seekTail(f, opts.Tail)
		if err != nil {
			return err
		}
		var from []*os.File // oldest first
		defer func() {
			for _, o := range from {
				o.Close()
			}
		}()
		for i := len(older) - 1; i >= 0 && missing > 0; i-- {
			o, err := os.Open(older[i])
			if err != nil {
				return err
			}
			from = slices.Insert(from, 0, o)
			if missing, err = seekTail(o, missing); err != nil {
				return err
			}
		}
		for _, o := range from {
			if err := (&tailReader{f: o}).drain(ctx, w); err != nil {
				return err
			}
		}
		return nil
	}
	for _, name := range older {
		o, err := os.Open(name)
		if err != nil {
			return err
		}
		err = (&tailReader{f: o}).drain(ctx, w)
		o.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// rotated lists the older files of a log, oldest first.
func rotated(path string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	numbers := map[int]string{}
	var order []int
	for _, e := range entries {
		suffix, ok := strings.CutPrefix(e.Name(), filepath.Base(path)+".")
		n, err := strconv.Atoi(suffix)
		if !ok || err != nil {
			continue
		}
		numbers[n] = filepath.Join(filepath.Dir(path), e.Name())
		order = append(order, n)
	}
	slices.Sort(order)
	slices.Reverse(order)
	out := make([]string, len(order))
	for i, n := range order {
		out[i] = numbers[n]
	}
	return out, nil
}

const block = 8192

// seekTail positions f at its last n lines and returns how many it lacks.
func seekTail(f *os.File, n int64) (missing int64, err error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil || n == 0 {
		return 0, err
	}
	buf := make([]byte, block)
	found := int64(0)
	for end := size; end > 0; {
		begin := max(end-block, 0)
		b := buf[:end-begin]
		if _, err := f.ReadAt(b, begin); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		for i := len(b) - 1; i >= 0; i-- {
			if b[i] != '\n' || begin+int64(i) == size-1 {
				continue
			}
			if found++; found == n {
				_, err := f.Seek(begin+int64(i)+1, io.SeekStart)
				return 0, err
			}
		}
		end = begin
	}
	if size > 0 {
		found++ // the first line has no newline before it
	}
	_, err = f.Seek(0, io.SeekStart)
	return n - found, err
}

// tailReader reads whole lines of a growing file.
type tailReader struct {
	f    *os.File
	part []byte // the beginning of a line that is still being written
}

// drain writes all whole lines that are there.
func (t *tailReader) drain(ctx context.Context, w *writer) error {
	r := bufio.NewReaderSize(t.f, 32<<10)
	for ctx.Err() == nil {
		line, err := r.ReadSlice('\n')
		switch {
		case err == nil && len(t.part) == 0:
			if err := w.line(line[:len(line)-1]); err != nil {
				return err
			}
			continue
		case err == nil:
			t.part = append(t.part, line[:len(line)-1]...)
			if err := w.line(t.part); err != nil {
				return err
			}
			t.part = t.part[:0]
			continue
		}
		t.part = append(t.part, line...)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
	}
	return nil
}

// writer applies the options to the records.
type writer struct {
	opts           Options
	stdout, stderr io.Writer
	left           int64
	inside         [2]bool // a partial line of stdout, stderr is open
}

func (w *writer) line(line []byte) error {
	r, err := Parse(line)
	if err != nil {
		return nil // a line that a crash tore; the reference skips it too
	}
	if r.Time.Before(w.opts.Since) {
		return nil
	}
	out, i := w.stdout, 0
	if r.Stderr {
		out, i = w.stderr, 1
	}
	if out == nil {
		return nil
	}
	var b []byte
	if w.opts.Timestamps && !w.inside[i] {
		b = append(append(b, r.Stamp...), ' ')
	}
	b = append(b, r.Text...)
	if !r.Partial {
		b = append(b, '\n')
	}
	w.inside[i] = r.Partial
	if w.opts.Limit > 0 && int64(len(b)) > w.left {
		b = b[:w.left]
	}
	w.left -= int64(len(b))
	if _, err := out.Write(b); err != nil {
		return err
	}
	if w.opts.Limit > 0 && w.left == 0 {
		return errLimit
	}
	return nil
}

// Last returns the last lines of a log, at most maxBytes of them, for a
// container's termination message.
func Last(ctx context.Context, path string, lines, maxBytes int64) (string, error) {
	var b bytes.Buffer
	if err := Read(ctx, path, Options{Tail: lines}, nil, &b, &b); err != nil {
		return "", err
	}
	data := b.Bytes()
	if int64(len(data)) > maxBytes {
		data = data[int64(len(data))-maxBytes:]
	}
	return string(data), nil
}

package image

import (
	"archive/tar"
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"

	"gantry/internal/tree"
)

// A split file holds all of an archive but the content of the files that were
// unpacked from it. It is a zstd stream of operations:
//
//	'S' n bytes          n bytes of the archive as they are
//	'F' size len name    the content of the file name under diff/, size bytes
//
// where n, size and len are unsigned varints. Headers, padding and whatever
// follows the end of the archive are kept as they came, so the archive made
// again is the same to the byte, whatever program wrote it.

const (
	opSegment = 'S'
	opFile    = 'F'
)

// stashed says that what had Name when File contents had been written moved to
// stash/N: a later entry of the archive took its place.
type stashed struct {
	File int    `json:"file"`
	Name string `json:"name"`
	N    int    `json:"n"`
}

// splitter reads an archive for a tar.Reader and writes its split file. File
// content is left out between body and its end.
type splitter struct {
	r       io.Reader
	out     *bufio.Writer
	zip     *zstd.Encoder
	segment []byte
	inBody  bool
	read    int64 // bytes of the archive
	files   int   // contents left out
}

// segmentBytes bounds the segment that is kept in memory.
const segmentBytes = 64 << 10

func newSplitter(r io.Reader, split io.Writer) (*splitter, error) {
	zip, err := zstd.NewWriter(split, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	return &splitter{r: r, zip: zip, out: bufio.NewWriter(zip)}, nil
}

func (s *splitter) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.read += int64(n)
	if !s.inBody {
		s.segment = append(s.segment, p[:n]...)
		if len(s.segment) >= segmentBytes {
			if werr := s.flush(); werr != nil {
				return n, werr
			}
		}
	}
	return n, err
}

func (s *splitter) flush() error {
	if len(s.segment) == 0 {
		return nil
	}
	err := errors.Join(s.out.WriteByte(opSegment), s.uvarint(uint64(len(s.segment))))
	_, werr := s.out.Write(s.segment)
	s.segment = s.segment[:0]
	return errors.Join(err, werr)
}

func (s *splitter) uvarint(n uint64) error {
	_, err := s.out.Write(binary.AppendUvarint(nil, n))
	return err
}

// body returns a reader of the current entry's content that keeps it out of the
// split file. A sparse file's content is not what the archive holds, so that
// one is kept.
func (s *splitter) body(h *tar.Header, r io.Reader) *body {
	return &body{split: s, r: r, raw: sparse(h)}
}

func sparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// body is the content of one entry.
type body struct {
	split *splitter
	room  *room
	r     io.Reader
	raw   bool
	n     int64 // bytes read, which are those that are left out unless raw
}

func (b *body) Read(p []byte) (int, error) {
	b.split.inBody = !b.raw
	n, err := b.r.Read(p)
	b.split.inBody = false
	b.n += int64(n)
	if rerr := b.room.content(n); rerr != nil {
		return n, rerr
	}
	return n, err
}

// end notes that what was read of the body is now in the file name.
func (b *body) end(name string) error {
	if b.raw || b.n == 0 {
		return nil
	}
	s := b.split
	if err := s.flush(); err != nil {
		return err
	}
	s.files++
	err := errors.Join(s.out.WriteByte(opFile), s.uvarint(uint64(b.n)), s.uvarint(uint64(len(name))))
	_, werr := s.out.WriteString(name)
	return errors.Join(err, werr)
}

// close reads the stream to its end and finishes the split file.
func (s *splitter) close() error {
	if _, err := io.Copy(io.Discard, struct{ io.Reader }{s}); err != nil {
		return err
	}
	return errors.Join(s.flush(), s.out.Flush(), s.zip.Close())
}

// assembler writes archives from split files.
type assembler struct {
	ctx   context.Context
	diff  *tree.Root
	stash *tree.Root // nil when moved is empty
	moved []stashed
	buf   []byte
}

// join writes the archive that split was made of to w.
func (a *assembler) join(w io.Writer, split io.Reader) error {
	zip, err := zstd.NewReader(split, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return err
	}
	defer zip.Close()
	ops := bufio.NewReader(zip)
	for files := 0; ; {
		if err := context.Cause(a.ctx); err != nil {
			return err
		}
		op, err := ops.ReadByte()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		n, err := binary.ReadUvarint(ops)
		if err != nil {
			return err
		}
		switch op {
		case opSegment:
			err = a.segment(w, ops, int64(n))
		case opFile:
			err = a.file(w, ops, int64(n), files)
			files++
		default:
			err = fmt.Errorf("split file: operation %q", op)
		}
		if err != nil {
			return err
		}
	}
}

// segment writes n bytes of the split file.
func (a *assembler) segment(w io.Writer, ops io.Reader, n int64) error {
	got, err := io.CopyBuffer(struct{ io.Writer }{w}, io.LimitReader(ops, n), a.buf)
	if err == nil && got != n {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// file writes the content of one file; index says which of the archive's it is.
func (a *assembler) file(w io.Writer, ops *bufio.Reader, size int64, index int) (err error) {
	length, err := binary.ReadUvarint(ops)
	if err != nil {
		return err
	}
	if length > 1<<20 {
		return fmt.Errorf("split file: a name of %d bytes", length)
	}
	b := make([]byte, length)
	if _, err := io.ReadFull(ops, b); err != nil {
		return err
	}
	root, name := a.place(string(b), index)
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, io.LimitReader(f, size), a.buf)
	if err == nil && n != size {
		err = fmt.Errorf("%s has %d bytes, the archive had %d", name, n, size)
	}
	return err
}

// place returns where the content of archive file number index is now.
func (a *assembler) place(name string, index int) (*tree.Root, string) {
	for _, m := range a.moved {
		if m.File <= index {
			continue // what moved then was there before this file was written
		}
		if rest, ok := strings.CutPrefix(name, m.Name); ok && (rest == "" || rest[0] == '/') {
			return a.stash, fmt.Sprintf("%d%s", m.N, rest)
		}
	}
	return a.diff, name
}

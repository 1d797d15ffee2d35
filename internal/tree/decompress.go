package tree

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"

	"gantry/internal/problem"
)

// Compression is how a stream is packed.
type Compression string

// The compressions that Decompress knows.
const (
	Plain Compression = ""
	Gzip  Compression = "gzip"
	Zstd  Compression = "zstd"
	Bzip2 Compression = "bzip2"
	XZ    Compression = "xz"
)

var magics = []struct {
	prefix []byte
	is     Compression
}{
	{[]byte{0x1f, 0x8b, 0x08}, Gzip},
	{[]byte{0x28, 0xb5, 0x2f, 0xfd}, Zstd},
	{[]byte("BZh"), Bzip2},
	{[]byte{0xfd, '7', 'z', 'X', 'Z', 0}, XZ},
	{[]byte("LZIP"), "lzip"},
	{[]byte{0x04, 0x22, 0x4d, 0x18}, "lz4"},
}

// Detect tells from its first bytes how a stream is packed. Names that are not
// among the constants are formats that Decompress refuses.
func Detect(head []byte) Compression {
	for _, m := range magics {
		if bytes.HasPrefix(head, m.prefix) {
			return m.is
		}
	}
	if len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}) {
		return Zstd // a skippable frame comes first
	}
	return Plain
}

// Decompress returns the stream in r unpacked, whatever its compression. A
// goroutine reads ahead, so that unpacking and what the caller does overlap;
// Close ends it, and waits. It does not close r: a Read of r that hangs makes
// Close hang.
//
// tee may be nil; otherwise it is given what is unpacked, in the goroutine, and
// has all of it when the reader has returned io.EOF.
func Decompress(r io.Reader, tee io.Writer) (io.ReadCloser, Compression, error) {
	b := bufio.NewReaderSize(r, bufferBytes)
	head, err := b.Peek(8)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, Plain, err
	}
	kind := Detect(head)
	switch kind {
	case Plain:
		return newAhead(b, tee, func() {}), kind, nil
	case Gzip:
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, kind, fmt.Errorf("gzip: %w", err)
		}
		return newAhead(z, tee, func() {}), kind, nil
	case Zstd:
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, kind, fmt.Errorf("zstd: %w", err)
		}
		return newAhead(z, tee, z.Close), kind, nil
	case Bzip2:
		return newAhead(bzip2.NewReader(b), tee, func() {}), kind, nil
	case XZ:
		z, err := xz.NewReader(b, xz.DefaultDictMax)
		if err != nil {
			return nil, kind, fmt.Errorf("xz: %w", err)
		}
		return newAhead(z, tee, func() {}), kind, nil
	}
	return nil, kind, problem.New(problem.Unsupported, "%s compression is not supported: use gzip, zstd, xz, bzip2 or none", kind)
}

// ahead reads a stream in a goroutine of its own.
type ahead struct {
	full chan chunk  // filled buffers, in order; closed by the goroutine after its last
	free chan []byte // buffers to fill; as many as there are, so that returning one never blocks
	stop chan struct{}
	cur  chunk
	done bool
}

type chunk struct {
	b   []byte // what is left of buf to read
	buf []byte
	err error
}

// aheadBuffers is how many buffers go round: one is read, one filled, one waits.
const aheadBuffers = 3

func newAhead(r io.Reader, tee io.Writer, closed func()) *ahead {
	a := &ahead{
		full: make(chan chunk, aheadBuffers),
		free: make(chan []byte, aheadBuffers),
		stop: make(chan struct{}),
	}
	for range aheadBuffers {
		a.free <- make([]byte, bufferBytes)
	}
	go func() {
		defer close(a.full)
		defer closed()
		for {
			var buf []byte
			select {
			case buf = <-a.free:
			case <-a.stop:
				return
			}
			n, err := fill(r, buf)
			if tee != nil {
				if _, terr := tee.Write(buf[:n]); terr != nil {
					err = terr
				}
			}
			a.full <- chunk{b: buf[:n], buf: buf, err: err}
			if err != nil {
				return
			}
		}
	}()
	return a
}

// fill is io.ReadFull that keeps a cut-off stream and its end apart: gzip says
// io.ErrUnexpectedEOF for the first.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}

func (a *ahead) Read(p []byte) (int, error) {
	for len(a.cur.b) == 0 {
		if a.cur.err != nil {
			return 0, a.cur.err
		}
		if a.cur.buf != nil {
			a.free <- a.cur.buf
			a.cur = chunk{}
		}
		next, ok := <-a.full
		if !ok {
			return 0, io.ErrClosedPipe
		}
		a.cur = next
	}
	n := copy(p, a.cur.b)
	a.cur.b = a.cur.b[n:]
	return n, nil
}

func (a *ahead) Close() error {
	if a.done {
		return nil
	}
	a.done = true
	close(a.stop)
	for range a.full {
	}
	return nil
}

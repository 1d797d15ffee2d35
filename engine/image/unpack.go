package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"gantry/internal/tree"
)

// unpacked is a layer in a temporary directory, not yet in the store.
type unpacked struct {
	dir    string // holds what layers/HEX will hold
	diffID digest.Digest
	record layerRecord
	room   *room // while it is being unpacked
}

// unpack unpacks the archive in r, of any compression, into a new directory.
// Decompression and hashing overlap with the writing of files. Nothing is
// synced. On error nothing is left.
func (s *Store) unpack(ctx context.Context, r io.Reader) (_ *unpacked, err error) {
	dir, err := s.temp("layer")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	hash := digest.SHA256.Digester()
	plain, _, err := tree.Decompress(ctxReader{ctx, r}, hash.Hash())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, plain.Close()) }()
	u := &unpacked{dir: dir, record: layerRecord{Split: true}}
	if u.room, err = newRoom(ctx, dir); err != nil {
		return nil, err
	}
	if err := u.extract(ctx, plain); err != nil {
		return nil, err
	}
	u.diffID = hash.Digest()
	return u, nil
}

// extract unpacks a plain archive to its end.
func (u *unpacked) extract(ctx context.Context, r io.Reader) (err error) {
	for _, sub := range []string{"diff", "stash"} {
		if err := mkdir755(filepath.Join(u.dir, sub)); err != nil {
			return err
		}
	}
	out, err := os.OpenFile(filepath.Join(u.dir, "split"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	split, err := newSplitter(r, out)
	if err != nil {
		return err
	}
	root, err := tree.OpenRoot(filepath.Join(u.dir, "diff"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	w := tree.NewWriter(root, tree.Options{Layer: true, Stash: func(parent int, base, name string) error {
		return u.stash(parent, base, name, split.files)
	}})
	if err := u.entries(ctx, w, split); err != nil {
		w.Abandon()
		return err
	}
	u.record.Tar = split.read
	if len(u.record.Stash) == 0 {
		return errors.Join(w.Close(), os.Remove(filepath.Join(u.dir, "stash")))
	}
	return w.Close()
}

func (u *unpacked) entries(ctx context.Context, w *tree.Writer, split *splitter) error {
	archive := tar.NewReader(split)
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return split.close()
		}
		if err != nil {
			return fmt.Errorf("archive: %w", err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if err := u.room.entry(h); err != nil {
			return err
		}
		b := split.body(h, archive)
		b.room = u.room
		name, err := w.Put(h, b)
		if err != nil {
			return err
		}
		if name == "" {
			continue
		}
		u.record.Bytes += b.n
		if err := b.end(name); err != nil {
			return err
		}
	}
}

// stash moves a file or tree that the archive replaces out of the layer's tree.
func (u *unpacked) stash(parent int, base, name string, files int) error {
	n := len(u.record.Stash)
	u.record.Stash = append(u.record.Stash, stashed{File: files, Name: name, N: n})
	to := filepath.Join(u.dir, "stash", strconv.Itoa(n))
	return unix.Renameat(parent, base, unix.AT_FDCWD, to)
}

func mkdir755(path string) error {
	if err := os.Mkdir(path, 0o755); err != nil {
		return err
	}
	return os.Chmod(path, 0o755) // whatever the umask
}

// ctxReader ends a stream when ctx does.
type ctxReader struct {
	ctx context.Context //nolint:containedctx // as long as one call
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

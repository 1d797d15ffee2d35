package tree

import (
	"archive/tar"
	"context"
	"errors"
	"io"
)

// Extract creates all entries of a plain tar archive under root.
func Extract(ctx context.Context, r io.Reader, root *Root, opt Options) (err error) {
	w := NewWriter(root, opt)
	defer func() {
		if err != nil {
			w.Abandon()
			return
		}
		err = w.Close()
	}()
	archive := tar.NewReader(r)
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if _, err := w.Put(h, archive); err != nil {
			return err
		}
	}
}

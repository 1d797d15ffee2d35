package tree

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// The names with which a layer's archive says what it removes (OCI image-spec,
// layer.md, "Whiteouts").
const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh."     // AUFS's own files; the next one excepted they mean nothing
	whiteoutOpaque = ".wh..wh..opq" // in a directory: nothing of below shows in it
)

// opaqueXattr marks a directory in which nothing of the layers below shows.
const opaqueXattr = "trusted.overlay.opaque"

// isWhiteout reports whether st is what overlayfs takes for "removed".
func isWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// overlayXattr reports whether an attribute is overlayfs's own.
func overlayXattr(name string) bool {
	return strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.")
}

// whiteout does what a whiteout file in the directory parent asks for. It is
// about the layers below only: what this layer itself has under the name stays,
// in whatever order the archive names them.
func (w *Writer) whiteout(parent int, base string) error {
	if base == whiteoutOpaque {
		return setOpaque(parent, ".")
	}
	if strings.HasPrefix(base, whiteoutMeta) {
		return nil
	}
	name := strings.TrimPrefix(base, whiteoutPrefix)
	if name == "" || name == "." || name == ".." {
		return fmt.Errorf("whiteout of %q", name)
	}
	err := unix.Mknodat(parent, name, unix.S_IFCHR|0o600, 0)
	if err != unix.EEXIST {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(parent, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return setOpaque(parent, name)
	}
	return nil
}

func setOpaque(parent int, base string) error {
	if err := lsetxattr(parent, base, opaqueXattr, "y"); err != nil {
		return fmt.Errorf("set %s: %w", opaqueXattr, err)
	}
	return nil
}

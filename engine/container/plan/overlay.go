package plan

import (
	"path"
	"slices"
	"strings"

	"gantry/internal/problem"
)

// Overlay names the directories of an overlay mount, as absolute paths.
type Overlay struct {
	Lower       []string // topmost first; at least one
	Upper, Work string   // on one file system; both empty: read-only
}

// maxMountData is what mount(2) takes: a page, with its final zero.
const maxMountData = 4095

// options returns the overlay's mount options, with those paths relative to base
// that are in it, to fit more layers into the one page there is.
func (o *Overlay) options(user bool) (base, data string, err error) {
	all := slices.Concat(o.Lower, []string{o.Upper, o.Work})
	base = "/"
	if len(o.Lower) > 0 {
		base = path.Dir(o.Lower[0])
	}
	for _, p := range all {
		if strings.ContainsAny(p, ":,\\") {
			return "", "", problem.New(problem.Invalid, "overlay directory %q: ':', ',' and '\\' are not possible", p)
		}
	}
	short := make([]string, len(o.Lower))
	for i, p := range o.Lower {
		if short[i] = p; path.Dir(p) == base {
			short[i] = path.Base(p)
		}
	}
	data = "lowerdir=" + strings.Join(short, ":")
	if o.Upper != "" {
		data += ",upperdir=" + o.Upper + ",workdir=" + o.Work
	}
	data += ",redirect_dir=off,index=off,metacopy=off" // an upper must be complete in itself
	if user {
		data += ",userxattr"
	}
	if len(data) > maxMountData {
		return "", "", problem.New(problem.Invalid, "overlay of %d layers: their paths need %d bytes, and the kernel takes %d", len(o.Lower), len(data), maxMountData)
	}
	return base, data, nil
}

package builder

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"gantry/engine/image"
)

// engineStubs are what a container has as mount points whether or not its image
// does.
var engineStubs = []string{"/proc", "/sys", "/dev", "/etc/resolv.conf", "/etc/hosts", "/etc/hostname", "/.dockerenv"}

// stubs are what a run makes in the upper directory only to mount on it. It is
// no part of the layer.
type stubs struct {
	made    []string               // paths that the image lacks, deepest first
	parents map[string]unix.Stat_t // directories of the image that they are in
}

// prepare finds the stubs of a run, and refuses a command for another CPU.
func (x *stageRun) prepare(p runPlan, mounts []Mount) (_ stubs, err error) {
	root, err := x.build.cfg.Images.OpenRoot(x.st.layers)
	if err != nil {
		return stubs{}, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	if err := image.CheckExecutable(root, x.stage.label(), p.args, p.env, x.st.resolve(".")); err != nil {
		return stubs{}, err
	}
	s := stubs{parents: map[string]unix.Stat_t{}}
	paths := slices.Clone(engineStubs)
	for _, m := range mounts {
		paths = append(paths, m.Target)
	}
	for _, p := range paths {
		for ; p != "/" && p != "."; p = path.Dir(p) {
			if _, err := root.Stat(p); !errors.Is(err, fs.ErrNotExist) {
				break
			}
			s.made = append(s.made, p)
			if st, err := root.Lstat(path.Dir(p)); err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR && path.Dir(p) != "/" {
				s.parents[path.Dir(p)] = st
			}
		}
	}
	slices.SortFunc(s.made, func(a, b string) int { return strings.Count(b, "/") - strings.Count(a, "/") })
	s.made = slices.Compact(s.made)
	return s, nil
}

// remove removes them from an upper directory, if they are empty, and also the
// directories that are in it only because of them.
func (s stubs) remove(upper string) error {
	root, err := os.OpenRoot(upper)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, p := range s.made {
		rel := strings.TrimPrefix(p, "/")
		info, err := root.Lstat(rel)
		if err != nil {
			continue // not made, or below a link: then it is not ours
		}
		if info.IsDir() || info.Mode().IsRegular() && info.Size() == 0 {
			if err := removeEmpty(root, rel); err != nil {
				return err
			}
		}
	}
	for p, before := range s.parents {
		rel := strings.TrimPrefix(p, "/")
		if info, err := root.Lstat(rel); err != nil || !info.IsDir() {
			continue
		}
		same, err := copiedUp(root, rel, before)
		if err != nil {
			return err
		}
		if same {
			if err := removeEmpty(root, rel); err != nil {
				return err
			}
		}
	}
	return nil
}

func removeEmpty(root *os.Root, name string) error {
	err := root.Remove(name)
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// copiedUp reports whether a directory of the upper is the image's but for its
// time: then the image's shows when it is gone.
func copiedUp(root *os.Root, name string, before unix.Stat_t) (_ bool, err error) {
	f, err := root.Open(name)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return false, err
	}
	opaque := make([]byte, 8)
	if _, err := unix.Fgetxattr(int(f.Fd()), "trusted.overlay.opaque", opaque); err == nil {
		return false, nil
	}
	return st.Mode == before.Mode && st.Uid == before.Uid && st.Gid == before.Gid, nil
}

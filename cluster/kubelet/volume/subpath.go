package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"
)

// SubPath resolves sub below the volume at hostPath, making missing
// directories, and returns a path that stays bound to what it resolved to:
// the container may change the volume meanwhile, so the file found is
// bind-mounted in the pod's directory and that is what the runtime is given.
func (s *Store) SubPath(pod types.UID, container string, n int, hostPath, sub string) (string, error) {
	if filepath.IsAbs(sub) || sub == "" {
		return "", fmt.Errorf("subPath %q must be relative", sub)
	}
	info, err := os.Stat(hostPath)
	if err != nil {
		return "", err
	}
	if !info.IsDir() {
		return "", fmt.Errorf("subPath %q in a volume that is a file", sub)
	}
	root, err := os.OpenRoot(hostPath)
	if err != nil {
		return "", err
	}
	defer root.Close()
	if _, err := root.Stat(sub); errors.Is(err, fs.ErrNotExist) {
		if err := root.MkdirAll(sub, info.Mode().Perm()); err != nil {
			return "", err
		}
	}
	f, err := openBeneath(hostPath, sub)
	if err != nil {
		return "", fmt.Errorf("open subPath %q: %w", sub, err)
	}
	defer f.Close()
	target := filepath.Join(s.Dir, string(pod), "volume-subpaths", container, strconv.Itoa(n))
	if err := place(f, target); err != nil {
		return "", fmt.Errorf("bind subPath %q: %w", sub, err)
	}
	return target, nil
}

// openBeneath opens what sub means below dir, following symbolic links that
// stay there. os.Root would do, but for O_PATH it opens a link itself.
func openBeneath(dir, sub string) (*os.File, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	fd, err := unix.Openat2(int(d.Fd()), sub, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), sub), nil
}

// place bind-mounts the open file f at target, in place of what was there.
func place(f *os.File, target string) error {
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	if err := unmount(target); err != nil {
		return err
	}
	if err := os.RemoveAll(target); err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.IsDir() {
		err = os.Mkdir(target, 0o755)
	} else {
		err = os.WriteFile(target, nil, 0o600) // a mount point
	}
	if err != nil {
		return err
	}
	source := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	return unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, "")
}

// unmount removes the mount at target, if there is one.
func unmount(target string) error {
	err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// TearDown unmounts and removes all volumes of a pod, and the pod's directories
// with them. It is idempotent.
func (s *Store) TearDown(pod types.UID) error {
	dir := filepath.Join(s.Dir, string(pod))
	mounts, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if err := unmount(m); err != nil {
			return fmt.Errorf("unmount %s: %w", m, err)
		}
	}
	return errors.Join(os.RemoveAll(dir), os.RemoveAll(filepath.Join(s.RunDir, string(pod))))
}

// mountsBelow lists the mount points below dir, deepest last mounted first.
func mountsBelow(dir string) ([]string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var out []string
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		point := unescape(fields[4])
		if strings.HasPrefix(point, dir+"/") {
			out = append([]string{point}, out...)
		}
	}
	return out, nil
}

// unescape undoes mountinfo's octal escapes (proc_pid_mountinfo(5)).
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Pods lists the pods that have a directory.
func (s *Store) Pods() ([]types.UID, error) {
	var out []types.UID
	for _, dir := range []string{s.Dir, s.RunDir} {
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			out = append(out, types.UID(e.Name()))
		}
	}
	return out, nil
}

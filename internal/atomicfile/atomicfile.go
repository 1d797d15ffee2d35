// Package atomicfile writes state files so that a crash at any point leaves
// either the old content or the new, never a torn or an empty file.
package atomicfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"gantry/internal/fault"
)

// tempPrefix marks files that a crash may leave; Sweep removes them.
const tempPrefix = ".tmp-"

// Write replaces path's content with data. When it returns nil the new content
// survives power loss. The directory must exist.
func Write(path string, data []byte, perm fs.FileMode) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, tempPrefix+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(perm), f.Sync(), f.Close())
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := fault.At("atomicfile/before-rename"); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(dir)
}

// Replace is Write without waiting for the disk, for what can be found out
// again: after the death of the process the content is the old or the new, but
// after a loss of power it may also be empty.
func Replace(path string, data []byte, perm fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), tempPrefix+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(perm), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(f.Name()))
	}
	return nil
}

// OverwriteJSON replaces the content of a file where the disk has no room for a
// second one: in the space that the file has, by one write, which the death of
// the process does not tear. A loss of power might. data must be JSON.
func OverwriteJSON(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &st)
	if err == nil && int64(len(data)) > 512*st.Blocks {
		err = fmt.Errorf("overwrite %s: %w", path, unix.ENOSPC)
	}
	if err == nil {
		// JSON may end in blanks: what is there is longer, or not.
		padded := append(slices.Clip(data), bytes.Repeat([]byte{' '}, max(0, int(st.Size)-len(data)))...)
		_, err = f.WriteAt(padded, 0)
	}
	return errors.Join(err, f.Sync(), f.Close())
}

// WriteJSON is Write of v's JSON encoding.
func WriteJSON(path string, v any, perm fs.FileMode) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	return Write(path, data, perm)
}

// SyncDir makes the names in dir durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Sweep removes what interrupted writes left in dir. Only the directory's one
// writer may call it.
func Sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tempPrefix) {
			errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

package volume

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The names through which a volume's content is swapped: the files are seen
// through symbolic links into dataName, itself a link to the current version.
const (
	dataName    = "..data"
	dataTemp    = "..data_tmp"
	versionHead = "..v-"
)

// writeFiles makes dir show exactly files. Readers see all of the old content
// or all of the new. Content that is already there is left alone.
func writeFiles(dir string, files map[string]file, group *int64) error {
	for name := range files {
		if !fs.ValidPath(name) || strings.HasPrefix(name, "..") {
			return fmt.Errorf("invalid path %q in volume", name)
		}
	}
	current, err := os.Readlink(filepath.Join(dir, dataName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if current != "" && sameFiles(filepath.Join(dir, current), files) {
		return expose(dir, files)
	}
	version, err := os.MkdirTemp(dir, versionHead)
	if err != nil {
		return err
	}
	err = fill(version, files, group)
	if err == nil {
		err = swap(dir, filepath.Base(version))
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(version))
	}
	return errors.Join(expose(dir, files), removeVersions(dir, filepath.Base(version)))
}

// sameFiles tells whether the version directory holds exactly files.
func sameFiles(version string, files map[string]file) bool {
	count := 0
	err := filepath.WalkDir(version, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(version, path)
		if err != nil {
			return err
		}
		want, ok := files[name]
		have, err := os.ReadFile(path)
		if err != nil || !ok || !bytes.Equal(have, want.data) {
			return fs.SkipAll
		}
		count++
		return nil
	})
	return err == nil && count == len(files)
}

func fill(version string, files map[string]file, group *int64) error {
	if err := own(version, 0o755, group); err != nil {
		return err
	}
	for name, f := range files {
		path := filepath.Join(version, name)
		for parent := filepath.Dir(path); parent != version; parent = filepath.Dir(parent) {
			if err := os.MkdirAll(parent, 0o755); err != nil {
				return err
			}
			if err := own(parent, 0o755, group); err != nil {
				return err
			}
		}
		if err := os.WriteFile(path, f.data, 0o600); err != nil { // a version no link leads to yet: may be torn
			return err
		}
		if err := own(path, f.mode, group); err != nil {
			return err
		}
	}
	return nil
}

// own gives path its mode, and to the pod's group, which may then read it.
func own(path string, mode fs.FileMode, group *int64) error {
	if group != nil {
		if err := os.Chown(path, -1, int(*group)); err != nil {
			return err
		}
		mode |= 0o440
	}
	return os.Chmod(path, mode)
}

func swap(dir, version string) error {
	temp := filepath.Join(dir, dataTemp)
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(version, temp); err != nil {
		return err
	}
	return os.Rename(temp, filepath.Join(dir, dataName))
}

// expose makes the links under which the files are known, and removes those of
// files that are gone.
func expose(dir string, files map[string]file) error {
	var top []string
	for name := range files {
		first, _, _ := strings.Cut(name, "/")
		if !slices.Contains(top, first) {
			top = append(top, first)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") {
			continue
		}
		if i := slices.Index(top, e.Name()); i >= 0 {
			top = slices.Delete(top, i, i+1)
			continue
		}
		errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
	}
	for _, name := range top {
		errs = append(errs, os.Symlink(filepath.Join(dataName, name), filepath.Join(dir, name)))
	}
	return errors.Join(errs...)
}

func removeVersions(dir, keep string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), versionHead) && e.Name() != keep {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

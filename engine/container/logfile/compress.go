package logfile

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"gantry/internal/fault"
)

// packing is the prefix of a file that is being compressed to. What a crash
// leaves of it is removed by the next Compress.
const packing = ".packing-"

// Compress compresses the rotated files of the log at path that are not yet.
// The shim may write and rotate meanwhile, readers may read. One process at a
// time does it for a log.
func Compress(path string) error {
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), packing+"*"))
	if err != nil {
		return err
	}
	for _, name := range left {
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	for range maxRotated {
		done, err := compressOne(path)
		if done || err != nil {
			return err
		}
	}
	return nil
}

// maxRotated is more than any log has of files that wait to be compressed.
const maxRotated = 10000

// compressOne compresses the oldest plain file; done when there is none.
func compressOne(path string) (done bool, err error) {
	oldest := 0
	for n := 1; ; n++ {
		_, err := os.Stat(name(path, n))
		_, packedErr := os.Stat(name(path, n) + compressed)
		if err != nil && packedErr != nil {
			break
		}
		if err == nil {
			oldest = n
		}
	}
	if oldest == 0 {
		return true, nil
	}
	plain, err := os.Open(name(path, oldest))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil // rotated just now
	}
	if err != nil {
		return false, err
	}
	defer plain.Close()
	info, err := plain.Stat()
	if err != nil {
		return false, err
	}
	packed := filepath.Join(filepath.Dir(path), packing+filepath.Base(path))
	if err := pack(packed, plain, info); err != nil {
		return false, errors.Join(fmt.Errorf("compress %s: %w", plain.Name(), err), os.Remove(packed))
	}
	if err := fault.At("logfile/compress/packed"); err != nil {
		return false, err
	}
	return false, replace(path, packed, inodeOf(info))
}

func pack(to string, from *os.File, info os.FileInfo) error {
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, info.Mode().Perm())
	if err != nil {
		return err
	}
	z, err := gzip.NewWriterLevel(f, gzip.BestSpeed)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	z.Comment = fmt.Sprint(inodeComment, inodeOf(info))
	z.ModTime = info.ModTime()
	_, err = io.Copy(z, from)
	return errors.Join(err, z.Close(), f.Sync(), f.Close())
}

// replace puts the compressed file in the place that the plain one has by now,
// under the lock that the shim takes to rotate.
func replace(path, packed string, inode uint64) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close() // gives the lock up
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	for n := 1; ; n++ {
		info, err := os.Stat(name(path, n))
		if err != nil {
			if _, err := os.Stat(name(path, n) + compressed); err != nil {
				return os.Remove(packed) // the log has grown past it
			}
			continue
		}
		if inodeOf(info) != inode {
			continue
		}
		if err := os.Rename(packed, name(path, n)+compressed); err != nil {
			return err
		}
		if err := fault.At("logfile/compress/renamed"); err != nil {
			return err
		}
		return os.Remove(name(path, n))
	}
}

// IsRotated says whether a file's name is that of a rotated file of the log
// called base that is to be compressed.
func IsRotated(base, file string) bool {
	number, ok := strings.CutPrefix(file, base+".")
	return ok && number != "" && strings.Trim(number, "0123456789") == ""
}

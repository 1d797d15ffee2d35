package push

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// epoch is the time of every file that push makes up: an image depends on the
// source alone, not on when it was built.
var epoch = time.Unix(0, 0).UTC()

// goDockerfile puts a static program on an empty image. The base comes first:
// it is the same for all apps, so its layer is stored once.
const goDockerfile = `FROM scratch
COPY base/ /
ENV ZONEINFO=/usr/share/zoneinfo.zip
COPY app /app
USER 65532:65532
ENTRYPOINT ["/app"]
`

// archiveGo writes the build context of a Go program.
func archiveGo(w io.Writer, program string) error {
	t := tar.NewWriter(w)
	add := func(name string, mode int64, content []byte) error {
		return errors.Join(
			t.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(content)), ModTime: epoch, Typeflag: tar.TypeReg}),
			writeAll(t, content))
	}
	addDir := func(name string, mode int64) error {
		return t.WriteHeader(&tar.Header{Name: name + "/", Mode: mode, ModTime: epoch, Typeflag: tar.TypeDir})
	}
	certificates, err := firstFile(certificateFiles...)
	if err != nil {
		return err
	}
	zones, err := firstFile(zoneFile())
	if err != nil {
		return err
	}
	err = errors.Join(
		add("Dockerfile", 0o644, []byte(goDockerfile)),
		addDir("base", 0o755), addDir("base/tmp", 0o1777), addDir("base/etc", 0o755),
		add("base/etc/passwd", 0o644, []byte("root:x:0:0:root:/:\nnonroot:x:65532:65532:nonroot:/:\n")),
		add("base/etc/group", 0o644, []byte("root:x:0:\nnonroot:x:65532:\n")),
		addDir("base/etc/ssl", 0o755), addDir("base/etc/ssl/certs", 0o755),
		add("base/etc/ssl/certs/ca-certificates.crt", 0o644, certificates),
		addDir("base/usr", 0o755), addDir("base/usr/share", 0o755),
		add("base/usr/share/zoneinfo.zip", 0o644, zones),
	)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	return errors.Join(add("app", 0o755, content), t.Close())
}

func writeAll(w io.Writer, content []byte) error {
	_, err := w.Write(content)
	return err
}

// certificateFiles are where distributions keep the public certificate
// authorities, as Go's crypto/x509 looks for them.
var certificateFiles = []string{
	"/etc/ssl/certs/ca-certificates.crt",
	"/etc/pki/tls/certs/ca-bundle.crt",
	"/etc/ssl/ca-bundle.pem",
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
	"/etc/ssl/cert.pem",
}

// firstFile returns the content of the first that exists; none exists: nothing.
func firstFile(paths ...string) ([]byte, error) {
	for _, path := range paths {
		if path == "" {
			continue
		}
		data, err := os.ReadFile(path)
		if !errors.Is(err, fs.ErrNotExist) {
			return data, err
		}
	}
	return nil, nil
}

// zoneFile returns the time zones that come with Go, or "".
func zoneFile() string {
	program, err := exec.LookPath("go")
	if err != nil {
		return ""
	}
	program, err = filepath.EvalSymlinks(program)
	if err != nil {
		return ""
	}
	for _, root := range []string{filepath.Dir(filepath.Dir(program)), "/usr/local/go", "/usr/lib/go", "/usr/share/go"} {
		path := filepath.Join(root, "lib/time/zoneinfo.zip")
		if exists(path) {
			return path
		}
	}
	return ""
}

// archiveDir writes the files of dir that its .dockerignore lets through, with
// names, modes and times as they are.
func archiveDir(w io.Writer, dir string) error {
	ignored, err := ignoredBy(dir)
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil || name == "." {
			return err
		}
		skip, err := ignored.MatchesOrParentMatches(name)
		if err != nil {
			return err
		}
		if skip && name != "Dockerfile" && name != ".dockerignore" {
			if e.IsDir() && !ignored.Exclusions() {
				return fs.SkipDir
			}
			return nil // an exception may still let a file below it through
		}
		return archiveFile(t, path, filepath.ToSlash(name))
	})
	return errors.Join(err, t.Close())
}

func ignoredBy(dir string) (*patternmatcher.PatternMatcher, error) {
	f, err := os.Open(filepath.Join(dir, ".dockerignore"))
	if errors.Is(err, fs.ErrNotExist) {
		return patternmatcher.New(nil)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	patterns, err := ignorefile.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	matcher, err := patternmatcher.New(patterns)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return matcher, nil
}

func archiveFile(t *tar.Writer, path, name string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if info.Mode()&(fs.ModeSocket|fs.ModeNamedPipe) != 0 {
		return nil // they hold nothing that could be copied
	}
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if target, err = os.Readlink(path); err != nil {
			return err
		}
	}
	header, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	header.Name = name
	if info.IsDir() {
		header.Name += "/"
	}
	header.Uid, header.Gid, header.Uname, header.Gname = 0, 0, "", ""
	// Times of access and change differ between checkouts of one source.
	header.AccessTime, header.ChangeTime = time.Time{}, time.Time{}
	header.Format = tar.FormatPAX
	if err := t.WriteHeader(header); err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.CopyN(t, f, header.Size); err != nil {
		return fmt.Errorf("%s changed while it was read: %w", strings.TrimSuffix(name, "/"), err)
	}
	return nil
}

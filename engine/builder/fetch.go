package builder

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/opencontainers/go-digest"

	"gantry/internal/problem"
	"gantry/internal/tree"
)

// isRemote reports whether src names something to fetch.
func isRemote(src string) bool {
	ref, isGit := gitRef(src)
	return isGit && !ref.IndistinguishableFromLocal || strings.HasPrefix(src, "http://") || strings.HasPrefix(src, "https://")
}

// gitRef parses src if it names a git repository.
func gitRef(src string) (*dfgitutil.GitRef, bool) {
	ref, isGit, err := dfgitutil.ParseGitRef(src)
	return ref, isGit && err == nil
}

// addRemotes fetches what ADD names, and returns what releases it.
func (x *stageRun) addRemotes(ctx context.Context, req *copyRequest, cmd *instructions.AddCommand) (release func() error, err error) {
	var releases []func() error
	release = func() error {
		var errs []error
		for _, f := range releases {
			errs = append(errs, f())
		}
		return errors.Join(errs...)
	}
	if cmd.Checksum != "" && len(cmd.SourcePaths) != 1 {
		return release, problem.New(problem.Invalid, "checksum can't be specified for multiple sources")
	}
	req.remote = map[string]origin{}
	for _, src := range cmd.SourcePaths {
		if !isRemote(src) {
			if cmd.Checksum != "" {
				return release, problem.New(problem.Invalid, "checksum requires HTTP(S) or Git sources")
			}
			continue
		}
		var o origin
		var done func() error
		if ref, isGit := gitRef(src); isGit {
			o, done, err = x.addGit(ctx, ref, cmd)
		} else {
			o, done, err = x.addURL(ctx, src, cmd)
		}
		if err != nil {
			return release, fmt.Errorf("ADD failed: %w", err)
		}
		releases = append(releases, done)
		req.remote[src] = o
	}
	return release, nil
}

func (x *stageRun) addURL(ctx context.Context, src string, cmd *instructions.AddCommand) (origin, func() error, error) {
	f, err := fetch(ctx, src, filepath.Join(x.build.cfg.Dir, "tmp"))
	if err != nil {
		return origin{}, nil, err
	}
	err = f.verify(cmd.Checksum)
	if err == nil && f.name == "" && endsWithSlash(cmd.DestPath) {
		err = problem.New(problem.Invalid, "cannot determine filename from url: %s", src)
	}
	it := item{src: f, path: f.name, header: f.header}
	if err == nil && cmd.Unpack != nil && *cmd.Unpack {
		it.unpack, err = copyRequest{verb: "ADD", unpack: cmd.Unpack}.unpacks(it)
	}
	if err != nil {
		return origin{}, nil, errors.Join(err, f.file.Close())
	}
	return origin{name: f.name, files: []item{it}}, f.file.Close, nil
}

func (x *stageRun) addGit(ctx context.Context, ref *dfgitutil.GitRef, cmd *instructions.AddCommand) (_ origin, _ func() error, err error) {
	if cmd.KeepGitDir != nil {
		if ref.KeepGitDir != nil && *ref.KeepGitDir != *cmd.KeepGitDir {
			return origin{}, nil, problem.New(problem.Invalid, "inconsistent keep-git-dir configuration")
		}
		ref.KeepGitDir = cmd.KeepGitDir
	}
	if cmd.Checksum != "" {
		if ref.Checksum != "" && ref.Checksum != cmd.Checksum {
			return origin{}, nil, problem.New(problem.Invalid, "checksum mismatch %q != %q", cmd.Checksum, ref.Checksum)
		}
		ref.Checksum = cmd.Checksum
	}
	c, err := checkOut(ctx, ref, filepath.Join(x.build.cfg.Dir, "tmp"))
	if err != nil {
		return origin{}, nil, err
	}
	o, err := copyRequest{verb: "ADD", src: rootSource{c.root}}.origin(cleanName(ref.SubDir), filter{})
	if errors.Is(err, fs.ErrNotExist) {
		err = problem.New(problem.NotFound, "%s of %s: %w", ref.SubDir, ref.Remote, err)
	}
	if err == nil && !o.dir {
		err = problem.New(problem.Invalid, "%s of %s is not a directory", ref.SubDir, ref.Remote)
	}
	if err != nil {
		return origin{}, nil, errors.Join(err, c.Close())
	}
	return o, c.Close, nil
}

// fetched is a file from a URL, and a source of that one file. The file has no
// name on disk.
type fetched struct {
	name   string
	header *tar.Header
	file   *os.File
	digest digest.Digest
}

// client fetches for builds: through the proxy that the environment names, with
// a bound on silence and none on length.
var client = &http.Client{Transport: &http.Transport{
	Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: 30 * time.Second, ResponseHeaderTimeout: time.Minute,
	IdleConnTimeout: 30 * time.Second,
}}

// fetch reads a URL to its end, into dir.
func fetch(ctx context.Context, src, dir string) (_ *fetched, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, src, nil)
	if err != nil {
		return nil, problem.New(problem.Invalid, "%w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		return nil, problem.New(problem.Unavailable, "%w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 400 {
		return nil, problem.New(problem.NotFound, "failed to GET %s with status %s", src, resp.Status)
	}
	file, err := os.CreateTemp(dir, "fetched-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close())
		}
	}()
	if err := os.Remove(file.Name()); err != nil {
		return nil, err
	}
	hash := sha256.New()
	n, err := io.Copy(io.MultiWriter(file, hash), resp.Body)
	if err != nil {
		return nil, problem.New(problem.Unavailable, "GET %s: %w", src, err)
	}
	modified, err := http.ParseTime(resp.Header.Get("Last-Modified"))
	if err != nil {
		modified = time.Unix(0, 0)
	}
	f := &fetched{name: fileName(resp), file: file, digest: digest.NewDigest(digest.SHA256, hash)}
	f.header = &tar.Header{Typeflag: tar.TypeReg, Mode: 0o600, Size: n, ModTime: modified.UTC()}
	return f, nil
}

// fileName is what the server, or else the URL, calls the file.
func fileName(resp *http.Response) string {
	if _, params, err := mime.ParseMediaType(resp.Header.Get("Content-Disposition")); err == nil {
		if name := path.Base(path.Clean("/" + params["filename"])); name != "/" {
			return name
		}
	}
	if name := path.Base(resp.Request.URL.Path); name != "." && name != "/" {
		return name
	}
	return ""
}

func (f *fetched) verify(checksum string) error {
	if checksum == "" {
		return nil
	}
	want, err := digest.Parse(checksum)
	if err != nil {
		return problem.New(problem.Invalid, "checksum %s: %w", checksum, err)
	}
	got := f.digest
	if want.Algorithm() != digest.SHA256 {
		if got, err = want.Algorithm().FromReader(f.reader()); err != nil {
			return err
		}
	}
	if got != want {
		return problem.New(problem.Invalid, "digest mismatch %s: %s", got, want)
	}
	return nil
}

func (f *fetched) reader() io.Reader { return io.NewSectionReader(f.file, 0, f.header.Size) }

func (f *fetched) lookup(name string) (*tar.Header, error) {
	if name != f.name {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
	}
	return f.header, nil
}

func (f *fetched) children(string) ([]string, error) { return nil, nil }

func (f *fetched) open(string) (io.ReadCloser, error) { return io.NopCloser(f.reader()), nil }

func (f *fetched) contentDigest(string) (digest.Digest, error) { return f.digest, nil }

// receiveRemote fetches a build context: a git repository, an archive, or a lone
// Dockerfile.
func (r *run) receiveRemote(ctx context.Context, remote string, arrived func(int64)) (_ *buildContext, err error) {
	tmp := filepath.Join(r.cfg.Dir, "tmp")
	if ref, isGit := gitRef(remote); isGit {
		if ref.IndistinguishableFromLocal {
			ref.Remote = "https://" + ref.Remote
		}
		c, err := checkOut(ctx, ref, tmp)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, c.Close()) }()
		return c.context(ctx, ref.SubDir, tmp, arrived)
	}
	u, err := url.Parse(remote)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" {
		return nil, problem.New(problem.Invalid, "remote %q is neither a git repository nor an HTTP URL", remote)
	}
	f, err := fetch(ctx, remote, tmp)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.file.Close()) }()
	plain, _, err := tree.Decompress(f.reader(), nil)
	if err != nil {
		return nil, err
	}
	_, notTar := tar.NewReader(plain).Next()
	if err := plain.Close(); err != nil {
		return nil, err
	}
	if notTar == nil {
		return receive(ctx, f.reader(), tmp, arrived)
	}
	// A Dockerfile, under whatever name the request has for it.
	text, err := io.ReadAll(io.LimitReader(f.reader(), maxDockerfile))
	if err != nil {
		return nil, err
	}
	r.req.Dockerfile = defaultDockerfile
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	h := &tar.Header{Name: defaultDockerfile, Mode: 0o600, Size: int64(len(text)), ModTime: f.header.ModTime}
	if err := w.WriteHeader(h); err != nil {
		return nil, err
	}
	if _, err := w.Write(text); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return receive(ctx, &archive, tmp, arrived)
}

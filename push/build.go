package push

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"gantry/internal/problem"
	"gantry/push/docker"
)

// build makes the image of a source and names it after its content, so that
// the same source gives the same reference. It returns the reference and the
// TCP ports that the image exposes.
func (p *Pusher) build(ctx context.Context, s source, name string) (ref string, ports []int, err error) {
	var archive func(io.Writer) error
	if s.dockerfile {
		archive = func(w io.Writer) error { return archiveDir(w, s.dir) }
	} else {
		program, err := outputPath(s.dir)
		if err != nil {
			return "", nil, err
		}
		lock, err := lockFile(program + ".lock")
		if err != nil {
			return "", nil, err
		}
		defer lock.Close()
		if err := p.compile(ctx, s, program); err != nil {
			return "", nil, err
		}
		archive = func(w io.Writer) error { return archiveGo(w, program) }
	}
	p.cfg.Report.Begin("build")
	id, sent, err := p.buildImage(ctx, archive)
	if err != nil {
		p.cfg.Report.Fail()
		return "", nil, &problem.UserError{Op: "build", Object: s.dir, Err: err}
	}
	image, err := p.cfg.Docker.Image(ctx, id)
	if err != nil {
		return "", nil, fmt.Errorf("look at the image: %w", err)
	}
	const shortID = 12
	tag := strings.TrimPrefix(image.ID, "sha256:")[:shortID]
	if err := p.cfg.Docker.Tag(ctx, image.ID, name, tag); err != nil {
		return "", nil, fmt.Errorf("name the image: %w", err)
	}
	p.cfg.Report.Done("%s:%s (%s sent)", name, tag, Bytes(sent))
	return name + ":" + tag, image.Ports(), nil
}

// buildImage sends the archive while it is made.
func (p *Pusher) buildImage(ctx context.Context, archive func(io.Writer) error) (id string, sent int64, err error) {
	r, w := io.Pipe()
	count := &counter{w: w, changed: func(n int64) { p.cfg.Report.Detail("%s sent", Bytes(n)) }}
	archived := make(chan error, 1) // one result
	go func() {
		err := archive(count)
		_ = w.CloseWithError(err) // never fails
		archived <- err
	}()
	id, err = p.cfg.Docker.Build(ctx, docker.BuildRequest{Context: r}, func(text string) {
		p.cfg.Report.Output(text)
		if line := strings.TrimSpace(text); strings.HasPrefix(line, "Step ") {
			p.cfg.Report.Detail("%s", line)
		}
	})
	_ = r.CloseWithError(errors.New("the engine has stopped reading")) // never fails
	if archiveErr := <-archived; err == nil && archiveErr != nil {
		err = archiveErr
	}
	return id, count.n, err
}

// counter counts what passes through.
type counter struct {
	w       io.Writer
	n       int64
	changed func(int64)
}

func (c *counter) Write(data []byte) (int, error) {
	n, err := c.w.Write(data)
	c.n += int64(n)
	c.changed(c.n)
	return n, err
}

// outputPath returns where the program of a directory is kept. It stays from
// push to push, because the go command leaves a program alone that is up to
// date, and linking it is most of the work of a push that changes nothing.
func outputPath(dir string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir() // no home: root's directory in it is as good
	}
	path := filepath.Join(cache, "gantry", "push", fmt.Sprintf("%x", sha256.Sum256([]byte(dir)))[:16])
	return path, os.MkdirAll(filepath.Dir(path), 0o700)
}

// lockFile waits until this process alone has the file at path. The lock goes
// with the file that is returned.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		}
	}
}

// compile builds the program of a Go module at out: static, and the same for
// the same source wherever that is.
func (p *Pusher) compile(ctx context.Context, s source, out string) error {
	p.cfg.Report.Begin("compile")
	pkg, err := mainPackage(ctx, s.dir)
	if err != nil {
		p.cfg.Report.Fail()
		return err
	}
	what := pkg
	if pkg == "." {
		what = s.dir
	}
	p.cfg.Report.Detail("%s", what)
	info, err := p.cfg.Docker.Info(ctx)
	if err != nil {
		p.cfg.Report.Fail()
		return err
	}
	// The build ID stays in: by it the go command sees that a program is up to
	// date. With -trimpath it depends on the source and the toolchain alone.
	arguments := []string{"build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out}
	if zoneFile() == "" {
		arguments = append(arguments, "-tags=timetzdata") // the program carries the time zones itself
	}
	build := exec.CommandContext(ctx, "go", append(arguments, pkg)...)
	build.Dir = s.dir
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+goArch(info.Architecture))
	output, err := build.CombinedOutput()
	if err != nil {
		p.cfg.Report.Fail()
		text := strings.TrimSpace(string(output))
		if text == "" {
			text = err.Error()
		}
		return &problem.UserError{Op: "compile", Object: what, Err: problem.New(problem.Invalid, "\n%s", text)}
	}
	p.cfg.Report.Done("%s", what)
	return nil
}

// goArch translates the kernel's name of a CPU.
func goArch(machine string) string {
	switch machine {
	case "x86_64":
		return "amd64"
	case "aarch64":
		return "arm64"
	}
	return machine
}

// Bytes writes a size for people.
func Bytes(n int64) string {
	const unit = 1024
	size, units := float64(n), []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for ; size >= unit && i < len(units)-1; i++ {
		size /= unit
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", size, units[i])
}

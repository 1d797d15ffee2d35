package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"gantry/internal/control"
	"gantry/internal/problem"
	"gantry/internal/version"
)

// Status implements control.Server.
func (s *server) Status() control.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	status := control.Status{
		Instance: s.cfg, Version: version.Version, PID: os.Getpid(), Phase: s.phase,
		Since: s.begun, Steps: s.progress.Steps(), HTTP: s.http, Notes: slices.Clone(s.notes),
	}
	if !s.cfg.Disabled("cluster") {
		status.API, status.Node = cmp.Or(s.api, s.cfg.APIListen), nodeName()
	}
	if s.failure != nil {
		status.Error, status.Try = s.failure.Error(), problem.Try(s.failure)
	}
	return status
}

// Stop implements control.Server.
func (s *server) Stop(containers control.Fate) {
	select {
	case s.stop <- containers:
	default: // it is stopping already
	}
}

// Ports implements control.Server.
func (s *server) Ports(ctx context.Context, container string) ([]control.Port, error) {
	s.mu.Lock()
	host := s.host
	s.mu.Unlock()
	if host == nil {
		return nil, problem.New(problem.Unavailable, "the engine is starting")
	}
	pid, err := host.pid(ctx, container)
	if err != nil {
		return nil, err
	}
	return listening(pid)
}

// Usage implements control.Server.
func (s *server) Usage(ctx context.Context) (control.Usage, error) {
	var u control.Usage
	var err error
	if u.PSSBytes, err = ownPSS(); err != nil {
		return u, err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(s.cfg.DataDir, &st); err != nil {
		return u, fmt.Errorf("disk of %s: %w", s.cfg.DataDir, err)
	}
	u.DiskFreeBytes = int64(st.Bavail) * st.Bsize
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	u.DiskBytes, err = diskUse(ctx, s.cfg.DataDir)
	u.DiskPartial = errors.Is(err, context.DeadlineExceeded)
	if u.DiskPartial {
		err = nil
	}
	return u, err
}

// ownPSS reads the process's proportional set size (proc_pid_smaps).
func ownPSS() (int64, error) {
	data, err := os.ReadFile("/proc/self/smaps_rollup")
	if err != nil {
		return 0, err
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		if rest, ok := bytes.CutPrefix(lines.Bytes(), []byte("Pss:")); ok {
			kib, err := strconv.ParseInt(string(bytes.Fields(rest)[0]), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("smaps_rollup has no Pss")
}

// diskUse adds the blocks of the files below dir, each once however many
// names it has. Other file systems mounted below, such as the containers' root
// file systems, do not count.
func diskUse(ctx context.Context, dir string) (int64, error) {
	var top unix.Stat_t
	if err := unix.Stat(dir, &top); err != nil {
		return 0, err
	}
	var sum int64
	linked := make(map[uint64]bool)
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var st unix.Stat_t
		if err != nil || unix.Lstat(path, &st) != nil {
			return nil // removed while we looked
		}
		if st.Dev != top.Dev {
			return fs.SkipDir
		}
		if !e.IsDir() && st.Nlink > 1 {
			if linked[st.Ino] {
				return nil
			}
			linked[st.Ino] = true
		}
		sum += st.Blocks * 512
		return nil
	})
	return sum, err
}

// serveControl opens the control socket.
func (s *server) serveControl(ctx context.Context, g *errgroup.Group) error {
	l, err := listenUnix(s.cfg.ControlSocket())
	if err != nil {
		return err
	}
	serveHTTP(ctx, g, "control socket", l, control.Handler(s))
	return nil
}

// serveHTTP serves h on l as a part of g until ctx ends.
func serveHTTP(ctx context.Context, g *errgroup.Group, name string, l net.Listener, h http.Handler) {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	part(ctx, g, name, func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, func() { _ = srv.Close() }) // open streams end with the server
		defer stop()
		err := srv.Serve(l)
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		return err
	})
}

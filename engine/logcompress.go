package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"gantry/engine/container/logfile"
)

// compressor compresses the files that containers' logs leave when they are
// rotated, one at a time: it is told of them by the directories' changes.
type compressor struct {
	log     *slog.Logger
	inotify *os.File

	mu    sync.Mutex
	paths map[int32]string // of logs, by the watch on their directory
	ended []string         // logs that are watched no more, and may have files left
}

func newCompressor(log *slog.Logger) (*compressor, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch rotated logs: %w", err)
	}
	return &compressor{log: log, inotify: os.NewFile(uintptr(fd), "inotify"), paths: map[int32]string{}}, nil
}

// watch begins to look after the log at path, and returns what ends that.
func (c *compressor) watch(path string) func() {
	if c == nil {
		return func() {}
	}
	var watch int
	err := c.control(func(fd int) (err error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		watch, err = unix.InotifyAddWatch(fd, filepath.Dir(path), unix.IN_MOVED_TO|unix.IN_ONLYDIR)
		if err == nil {
			c.paths[int32(watch)] = path
		}
		return err
	})
	if err != nil {
		c.log.Warn("rotated logs stay uncompressed", "path", path, "err", err)
		return func() {}
	}
	return func() {
		_ = c.control(func(fd int) error {
			c.mu.Lock()
			defer c.mu.Unlock()
			// What was rotated last may not have been read of yet.
			c.ended = append(c.ended, path)
			delete(c.paths, int32(watch))
			// It is gone already when the directory is. Otherwise the reader hears of it.
			_, err := unix.InotifyRmWatch(fd, uint32(watch))
			return err
		})
	}
}

func (c *compressor) control(do func(fd int) error) error {
	raw, err := c.inotify.SyscallConn()
	if err != nil {
		return err
	}
	var done error
	if err := raw.Control(func(fd uintptr) { done = do(int(fd)) }); err != nil {
		return err
	}
	return done
}

// run compresses what an earlier process left, and then what is rotated, until
// ctx ends. What fails is tried again.
func (c *compressor) run(ctx context.Context, todo []string) {
	stop := context.AfterFunc(ctx, func() { _ = c.inotify.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	defer c.inotify.Close()
	again := backoff{}
	buf := make([]byte, 16<<10)
	for {
		todo = c.compress(todo, again.delay == 0)
		var deadline time.Time // none
		if len(todo) == 0 {
			again = backoff{}
		} else {
			deadline = time.Now().Add(again.next())
		}
		_ = c.inotify.SetReadDeadline(deadline) // fails when it is closed, as the read does
		if ctx.Err() != nil {
			return // its deadline may be the one that was replaced
		}
		n, err := c.inotify.Read(buf)
		if err != nil && (ctx.Err() != nil || !errors.Is(err, os.ErrDeadlineExceeded)) {
			return
		}
		todo = append(todo, c.rotated(buf[:max(n, 0)])...)
	}
}

// rotated returns the logs that events are about.
func (c *compressor) rotated(events []byte) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	seen := map[string]bool{}
	paths := c.ended
	c.ended = nil
	for len(events) >= unix.SizeofInotifyEvent {
		watch := int32(binary.NativeEndian.Uint32(events))
		size := int(binary.NativeEndian.Uint32(events[12:]))
		name, _, _ := strings.Cut(string(events[unix.SizeofInotifyEvent:][:size]), "\x00")
		events = events[unix.SizeofInotifyEvent+size:]
		path := c.paths[watch]
		if path != "" && !seen[path] && logfile.IsRotated(filepath.Base(path), name) {
			seen[path] = true
			paths = append(paths, path)
		}
	}
	return paths
}

// compress compresses logs and returns those that could not be. The first time
// that is said.
func (c *compressor) compress(paths []string, say bool) (failed []string) {
	slices.Sort(paths)
	for _, path := range slices.Compact(paths) {
		err := logfile.Compress(path)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		failed = append(failed, path)
		if say {
			c.log.Warn("a rotated log cannot be compressed, and is tried again", "path", path, "err", err)
		}
	}
	return failed
}

// beginCompression starts the compressor. Without one, for want of an inotify
// instance, logs are bounded all the same.
func (e *Engine) beginCompression() {
	c, err := newCompressor(e.log)
	if err != nil {
		e.log.Warn("rotated logs stay uncompressed", "err", err)
		return
	}
	e.compressor = c
	var left []string
	for _, r := range e.all() {
		if cfg := r.config(); cfg.compresses() {
			left = append(left, cfg.LogPath)
		}
	}
	e.spawn(func(ctx context.Context) { c.run(ctx, left) })
}

// compresses tells whether the container's rotated logs are to be compressed.
func (c *config) compresses() bool {
	if c.LogFormat != "json-file" {
		return false
	}
	bounds, err := parseLog(c.HostConfig.LogConfig)
	return err == nil && bounds.compress
}

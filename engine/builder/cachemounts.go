package builder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// cacheMounts says which directories of RUN --mount=type=cache are in use.
type cacheMounts struct {
	mu      sync.Mutex
	users   map[string]int
	used    map[string]time.Time // when a step last left it, since the start
	changed chan struct{}        // closed when a user leaves, and replaced
}

func newCacheMounts() *cacheMounts {
	return &cacheMounts{users: map[string]int{}, used: map[string]time.Time{}, changed: make(chan struct{})}
}

// acquire chooses the directory of a cache: a shared one always, a locked one
// when nobody else uses it, and for a private one the first that nobody uses.
func (c *cacheMounts) acquire(ctx context.Context, name string, sharing instructions.ShareMode) (dir string, release func(), err error) {
	for {
		c.mu.Lock()
		dir = name
		for n := 1; sharing == instructions.MountSharingPrivate && c.users[dir] > 0; n++ {
			dir = fmt.Sprintf("%s.%d", name, n)
		}
		if sharing != instructions.MountSharingLocked || c.users[dir] == 0 {
			c.users[dir]++
			c.mu.Unlock()
			return dir, func() { c.release(dir) }, nil
		}
		changed := c.changed
		c.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return "", nil, context.Cause(ctx)
		}
	}
}

func (c *cacheMounts) release(dir string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.used[dir] = time.Now()
	if c.users[dir]--; c.users[dir] == 0 {
		delete(c.users, dir)
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

// state tells when a directory was last used since the start, and whether it is
// in use.
func (c *cacheMounts) state(name string) (used time.Time, busy bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.used[name], c.users[name] > 0
}

// prune removes the directories below dir that nobody uses, and returns how
// many bytes they had.
func (c *cacheMounts) prune(dir string) (freed int64, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		n, err := c.pruneOne(dir, e.Name())
		if freed += n; err != nil {
			return freed, err
		}
	}
	return freed, nil
}

func (c *cacheMounts) pruneOne(dir, name string) (int64, error) {
	c.mu.Lock()
	if c.users[name] > 0 {
		c.mu.Unlock()
		return 0, nil
	}
	c.users[name]++ // a locked user waits until it is gone
	c.mu.Unlock()
	defer c.release(name)
	at := filepath.Join(dir, name)
	n, err := sizeOf(at)
	return n, errors.Join(err, os.RemoveAll(at))
}

// sizeOf is how many bytes the regular files below dir have.
func sizeOf(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	return n, err
}

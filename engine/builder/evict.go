package builder

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// CacheLease is the owner, in the image store, of the layers of the build cache.
const CacheLease = "build cache"

// CacheMount is what RUN --mount=type=cache keeps in one directory.
type CacheMount struct {
	Name  string
	Bytes int64
	Busy  bool // a step uses it
	Used  time.Time
}

// Results lists the layers that the cache has by the results that have them, and
// when each result was last used. Those without a layer are left out.
func (b *Builder) Results() map[string]CachedLayer {
	b.cache.mu.Lock()
	defer b.cache.mu.Unlock()
	out := map[string]CachedLayer{}
	for k, r := range b.cache.entries {
		if r.Layer != "" {
			out[string(k)] = CachedLayer{Layer: r.Layer, Used: r.Used}
		}
	}
	return out
}

// CachedLayer is the layer of one result.
type CachedLayer struct {
	Layer digest.Digest
	Used  time.Time
}

// Evict forgets results that no build has used since, and removes the layers
// that only they had. It returns how many it forgot.
func (b *Builder) Evict(ctx context.Context, ids []string, since time.Time) (int, error) {
	keys := make([]cacheKey, len(ids))
	for i, id := range ids {
		keys[i] = cacheKey(id)
	}
	n := b.cache.forget(keys, since)
	if n == 0 {
		return 0, nil
	}
	if err := b.cache.flush(); err != nil {
		return n, err
	}
	_, err := b.cfg.Images.Collect(ctx)
	return n, err
}

// maxBare is how many results without a layer are kept. The disk's budget does
// not see them, for they have no bytes; without a bound there would be more with
// each build.
const maxBare = 10_000

// surplus returns those results without a layer that were used longest ago, where
// there are more than most.
func surplus(entries map[cacheKey]result, most int) []cacheKey {
	var bare []cacheKey
	for k, r := range entries {
		if r.Layer == "" {
			bare = append(bare, k)
		}
	}
	if len(bare) <= most {
		return nil
	}
	slices.SortFunc(bare, func(a, b cacheKey) int { return cmp.Or(entries[b].Used.Compare(entries[a].Used), cmp.Compare(a, b)) })
	return bare[most:]
}

func (b *Builder) mountsDir() string { return filepath.Join(b.cfg.Dir, "mounts") }

// Mounts lists the directories of cache mounts.
func (b *Builder) Mounts() ([]CacheMount, error) {
	entries, err := os.ReadDir(b.mountsDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []CacheMount
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		n, err := sizeOf(filepath.Join(b.mountsDir(), e.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		used, busy := b.caches.state(e.Name())
		if info.ModTime().After(used) {
			used = info.ModTime()
		}
		out = append(out, CacheMount{Name: e.Name(), Bytes: n, Busy: busy, Used: used})
	}
	return out, nil
}

// EvictMount removes the directory of a cache mount, unless a step uses it or has
// used it since. It returns how many bytes that freed.
func (b *Builder) EvictMount(name string, since time.Time) (int64, error) {
	if used, busy := b.caches.state(name); busy || used.After(since) {
		return 0, nil
	}
	n, err := b.caches.pruneOne(b.mountsDir(), name)
	if errors.Is(err, fs.ErrNotExist) {
		return n, nil
	}
	return n, err
}

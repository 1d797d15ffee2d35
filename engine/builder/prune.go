package builder

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"gantry/internal/problem"
)

// PruneOptions say which results Prune forgets.
type PruneOptions struct {
	Before time.Time // those that were not used since; zero: none
	Keep   int64     // bytes: the results used last stay as long as they take no more
	Mounts bool      // also the directories of cache mounts that no step uses
}

// PruneReport is what Prune did.
type PruneReport struct {
	Entries   int   // results forgotten
	Reclaimed int64 // bytes
}

// Prune forgets results, and removes the layers that only they had.
func (b *Builder) Prune(ctx context.Context, opts PruneOptions) (PruneReport, error) {
	records, err := b.cache.records(ctx)
	if err != nil {
		return PruneReport{}, err
	}
	r := PruneReport{Entries: b.cache.forget(pruned(records, opts), time.Now())}
	if err := b.cache.flush(); err != nil {
		return r, err
	}
	var mounts int64
	if opts.Mounts {
		if mounts, err = b.caches.prune(b.mountsDir()); err != nil {
			return r, err
		}
	}
	r.Reclaimed, err = b.cfg.Images.Collect(ctx)
	r.Reclaimed += mounts
	return r, err
}

// pruned decides which results are forgotten.
func pruned(records []CacheRecord, opts PruneOptions) []cacheKey {
	slices.SortFunc(records, func(a, b CacheRecord) int { return cmp.Or(b.Used.Compare(a.Used), cmp.Compare(a.ID, b.ID)) })
	var gone []cacheKey
	left := opts.Keep
	for _, r := range records {
		left -= r.Bytes
		if !r.Used.After(opts.Before) && (opts.Keep == 0 || left < 0) {
			gone = append(gone, cacheKey(r.ID))
		}
	}
	return gone
}

// CacheRecord is one result that the build cache has.
type CacheRecord struct {
	ID      string
	Layer   digest.Digest // empty: nothing was written
	Bytes   int64         // of the layer; 0 where another record counts it
	Shared  bool          // an image, or another record, has the layer too
	Created time.Time
	Used    time.Time
}

// Usage lists what the build cache has.
func (b *Builder) Usage(ctx context.Context) ([]CacheRecord, error) {
	records, err := b.cache.records(ctx)
	if err != nil {
		return nil, err
	}
	images, err := b.cfg.Images.List(ctx)
	if err != nil {
		return nil, err
	}
	inImage := map[digest.Digest]bool{}
	for _, img := range images {
		for _, layer := range img.Layers {
			inImage[layer] = true
		}
	}
	for i, r := range records {
		records[i].Shared = r.Shared || inImage[r.Layer]
	}
	return records, nil
}

// records returns the entries, the first made first.
func (c *cache) records(ctx context.Context) ([]CacheRecord, error) {
	c.mu.Lock()
	records := make([]CacheRecord, 0, len(c.entries))
	for k, r := range c.entries {
		records = append(records, CacheRecord{ID: string(k), Layer: r.Layer, Created: r.Created, Used: r.Used})
	}
	c.mu.Unlock()
	slices.SortFunc(records, func(a, b CacheRecord) int { return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID)) })
	counted := map[digest.Digest]bool{}
	for i, r := range records {
		if r.Layer == "" {
			continue
		}
		if counted[r.Layer] {
			records[i].Shared = true
			continue
		}
		counted[r.Layer] = true
		layer, err := c.images.Layer(ctx, r.Layer)
		if errors.Is(err, problem.NotFound) {
			continue // lost with the host's power; get drops such an entry
		}
		if err != nil {
			return nil, err
		}
		records[i].Bytes = layer.Bytes
	}
	return records, nil
}

// forget drops entries that were not used since, and gives up the layers that no
// other entry has.
func (c *cache) forget(keys []cacheKey, since time.Time) (dropped int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	gone := map[digest.Digest]bool{}
	for _, k := range keys {
		r, ok := c.entries[k]
		if !ok || r.Used.After(since) {
			continue
		}
		delete(c.entries, k)
		c.dirty[k] = true
		gone[r.Layer] = true
		dropped++
	}
	for _, r := range c.entries {
		delete(gone, r.Layer)
	}
	for layer := range gone {
		if layer != "" {
			c.images.EndLease(CacheLease, layer)
		}
	}
	return dropped
}

package builder

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"
)

// Check explains each violation of the build cache on disk: entries that cannot
// be read or whose layer the image store does not have, and contexts that belong
// to no build. Builds under way leave such traces too.
func (b *Builder) Check() []error {
	var errs []error
	entries := map[cacheKey]result{}
	err := b.cache.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(resultsBucket).ForEach(func(k, v []byte) error {
			var r result
			if err := json.Unmarshal(v, &r); err != nil {
				errs = append(errs, fmt.Errorf("build cache entry %s: %w", k, err))
				return nil
			}
			entries[cacheKey(k)] = r
			return nil
		})
	})
	if err != nil {
		errs = append(errs, err)
	}
	for k, r := range entries {
		b.cache.mu.Lock()
		_, live := b.cache.entries[k]
		b.cache.mu.Unlock()
		if r.Layer == "" || !live {
			continue // one that was dropped goes with the next flush
		}
		if err := b.cfg.Images.Lease(checkOwner, r.Layer); err != nil {
			errs = append(errs, fmt.Errorf("build cache entry %s: %w", k, err))
		}
	}
	b.cfg.Images.EndLease(checkOwner)
	left, err := os.ReadDir(filepath.Join(b.cfg.Dir, "tmp"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	for _, e := range left {
		errs = append(errs, fmt.Errorf("build/tmp/%s belongs to no build", e.Name()))
	}
	return errs
}

// checkOwner holds a layer while Check looks at it.
const checkOwner = "check"

package builder

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"gantry/engine/image"
	"gantry/internal/fault"
	"gantry/internal/problem"
)

// cacheKey stands for all that the result of a step depends on.
type cacheKey string

// key makes a cache key of parts, told apart by their lengths.
func key(parts ...string) cacheKey {
	h := sha256.New()
	var n [8]byte
	for _, p := range parts {
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write([]byte(p))
	}
	return cacheKey(fmt.Sprintf("%x", h.Sum(nil)))
}

// chain is a key part for a stack of layers.
func chain(layers []digest.Digest) string {
	var b bytes.Buffer
	for _, l := range layers {
		b.WriteString(string(l))
	}
	return b.String()
}

// result is what a step made.
type result struct {
	Layer   digest.Digest `json:"layer,omitempty"` // empty: nothing was written
	Created time.Time     `json:"created"`         // of the state after it
	Used    time.Time     `json:"used"`            // last time that a build took it from the cache
}

var resultsBucket = []byte("results")

// cache remembers the results of steps. All of it is in memory; what is new is
// written when a build ends, in one transaction. A power failure may lose
// layers that no image has: their entries are dropped when they are asked for.
type cache struct {
	images *image.Store
	db     *bolt.DB

	mu      sync.Mutex
	entries map[cacheKey]result
	dirty   map[cacheKey]bool // changed since the last flush
	touched map[cacheKey]bool // used since the last flush; a crash may lose that
}

func openCache(dir string, images *image.Store) (*cache, error) {
	db, err := bolt.Open(filepath.Join(dir, "cache.db"), 0o600, &bolt.Options{Timeout: time.Second})
	if err != nil {
		return nil, fmt.Errorf("open the build cache: %w", err)
	}
	c := &cache{images: images, db: db, entries: map[cacheKey]result{}, dirty: map[cacheKey]bool{}, touched: map[cacheKey]bool{}}
	err = db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(resultsBucket)
		if err != nil {
			return err
		}
		return b.ForEach(func(k, v []byte) error {
			var r result
			if err := json.Unmarshal(v, &r); err != nil {
				return fmt.Errorf("build cache entry %s: %w", k, err)
			}
			c.entries[cacheKey(k)] = r
			return nil
		})
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	for k, r := range c.entries {
		if r.Layer != "" && images.Lease(CacheLease, r.Layer) != nil {
			delete(c.entries, k)
			c.dirty[k] = true
		}
	}
	return c, nil
}

func (c *cache) Close() error {
	c.mu.Lock()
	maps.Copy(c.dirty, c.touched)
	c.mu.Unlock()
	return errors.Join(c.flush(), c.db.Close())
}

// get returns the result of a step, with a lease for owner on its layer.
func (c *cache) get(k cacheKey, owner string) (result, bool) {
	// Held until the entry is marked: forget must not take the layer meanwhile.
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := c.entries[k]
	if !ok {
		return r, false
	}
	if r.Layer != "" {
		if err := c.images.Lease(owner, r.Layer); err != nil {
			delete(c.entries, k)
			c.dirty[k] = true
			return result{}, false
		}
	}
	r.Used = time.Now().UTC()
	c.entries[k] = r
	c.touched[k] = true
	return r, true
}

// keep remembers a result that was made just now.
func (c *cache) keep(k cacheKey, r result) {
	c.mu.Lock() // until both are there: forget takes both
	defer c.mu.Unlock()
	if r.Layer != "" {
		if err := c.images.Lease(CacheLease, r.Layer); err != nil {
			return // gone already: then there is nothing to remember
		}
	}
	r.Used = time.Now().UTC()
	c.entries[k] = r
	c.dirty[k] = true
}

// flush writes what changed. When entries were only used, it leaves that for
// later: a build which took everything from the cache need not wait for the disk.
func (c *cache) flush() error {
	c.mu.Lock()
	if len(c.dirty) == 0 {
		c.mu.Unlock()
		return nil
	}
	for _, k := range surplus(c.entries, maxBare) {
		delete(c.entries, k)
		c.dirty[k] = true
	}
	dirty := c.dirty
	maps.Copy(dirty, c.touched)
	c.dirty, c.touched = map[cacheKey]bool{}, map[cacheKey]bool{}
	values := map[cacheKey][]byte{}
	for k := range dirty {
		if r, ok := c.entries[k]; ok {
			b, err := json.Marshal(r)
			if err != nil {
				c.mu.Unlock()
				return err
			}
			values[k] = b
		}
	}
	c.mu.Unlock()
	err := fault.At("builder/cache/before-record")
	if err == nil {
		err = c.db.Update(func(tx *bolt.Tx) error { return writeResults(tx, dirty, values) })
	}
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		for k := range dirty {
			c.dirty[k] = true // for the next flush
		}
	}
	return err
}

// writeResults puts the entries that have a value, and deletes the others.
func writeResults(tx *bolt.Tx, dirty map[cacheKey]bool, values map[cacheKey][]byte) error {
	b := tx.Bucket(resultsBucket)
	for k := range dirty {
		var err error
		if v, ok := values[k]; ok {
			err = b.Put([]byte(k), v)
		} else {
			err = b.Delete([]byte(k))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// makeDir makes the builder's directory and empties its temporary one.
func makeDir(dir string) error {
	tmp := filepath.Join(dir, "tmp")
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := os.MkdirAll(tmp, 0o700); err != nil {
		return err
	}
	return nil
}

func unsupported(format string, args ...any) error {
	return problem.New(problem.Unsupported, format, args...)
}

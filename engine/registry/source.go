package registry

import (
	"slices"

	"github.com/opencontainers/go-digest"
)

// location is a repository where a blob has been seen.
type location struct {
	host string // as names of images have it
	name string
}

// Bounds of what is remembered of locations.
const (
	maxSources   = 10_000
	maxLocations = 4
)

// noteSource notes where a blob is.
func (c *Client) noteSource(d digest.Digest, at location) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.sources) >= maxSources {
		clear(c.sources)
	}
	list := slices.DeleteFunc(c.sources[d], func(l location) bool { return l == at })
	list = append(list, at)
	c.sources[d] = list[max(0, len(list)-maxLocations):]
}

// sourcesOf returns other repositories on the same registry that have a blob,
// the latest first.
func (c *Client) sourcesOf(d digest.Digest, at location) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var names []string
	for _, l := range slices.Backward(c.sources[d]) {
		if l.host == at.host && l.name != at.name {
			names = append(names, l.name)
		}
	}
	return names
}

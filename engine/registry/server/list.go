package server

import (
	"net/http"
	"slices"
	"strconv"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// page cuts a sorted list as the parameters n and last say, and links to the
// next page where there is one.
func (c *call) page(all []string) ([]string, error) {
	q := c.r.URL.Query()
	if last := q.Get("last"); last != "" {
		i, found := slices.BinarySearch(all, last)
		if found {
			i++
		}
		all = all[i:]
	}
	if !q.Has("n") {
		return all, nil
	}
	n, err := strconv.Atoi(q.Get("n"))
	if err != nil || n < 0 {
		return nil, &refusal{status: http.StatusBadRequest, code: "PAGINATION_NUMBER_INVALID", message: "invalid number of results requested", detail: q.Get("n")}
	}
	if n >= len(all) {
		return all, nil
	}
	if n > 0 {
		c.w.Header().Set("Link", nextPage(c.r.URL, n, all[n-1]))
	}
	return all[:n], nil
}

// listTags lists a repository's tags, those of the engine's images included
// (spec, "Listing Tags").
func (c *call) listTags() error {
	tags, known := c.store.tags(c.repo)
	_, more, err := c.engineImages()
	if err != nil {
		return err
	}
	if !known && len(more) == 0 {
		return unknownName(c.repo)
	}
	for _, t := range more {
		tags = append(tags, t.tag)
	}
	slices.Sort(tags)
	if tags, err = c.page(slices.Compact(tags)); err != nil {
		return err
	}
	if tags == nil {
		tags = []string{}
	}
	return c.json(http.StatusOK, map[string]any{"name": c.repo, "tags": tags})
}

// listRepositories lists the repositories that the user may read (an extension
// of Docker's: GET /v2/_catalog).
func (c *call) listRepositories(user string) error {
	names := c.store.repositories()
	more, err := c.engineRepositories()
	if err != nil {
		return err
	}
	names = append(names, more...)
	slices.Sort(names)
	names = slices.DeleteFunc(slices.Compact(names), func(n string) bool { return c.authorize(user, n, pull) != nil })
	if names, err = c.page(names); err != nil {
		return err
	}
	if names == nil {
		names = []string{}
	}
	return c.json(http.StatusOK, map[string]any{"repositories": names})
}

// listReferrers lists the manifests whose subject a digest is (spec, "Listing
// Referrers").
func (c *call) listReferrers() error {
	d, err := digestOf(c.what)
	if err != nil {
		return err
	}
	list := c.store.referrers(c.repo, d)
	if kind := c.r.URL.Query().Get("artifactType"); kind != "" {
		list = slices.DeleteFunc(list, func(d ocispec.Descriptor) bool { return d.ArtifactType != kind })
		c.w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: list}
	index.SchemaVersion = 2
	c.w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
	return c.json(http.StatusOK, index)
}

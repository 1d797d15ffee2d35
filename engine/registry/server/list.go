package server

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// compareTags is the order of tags: alphanumeric, without regard to case. Where
// that is the same, bytes decide, so that no page leaves one out.
func compareTags(a, b string) int {
	return cmp.Or(strings.Compare(strings.ToLower(a), strings.ToLower(b)), strings.Compare(a, b))
}

// page cuts a list that is sorted by order as the parameters n and last say, and
// links to the next page where there is one.
func (c *call) page(all []string, order func(a, b string) int) ([]string, error) {
	q := c.r.URL.Query()
	if last := q.Get("last"); last != "" {
		i, found := slices.BinarySearchFunc(all, last, order)
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
		return nil, &refusal{status: http.StatusBadRequest, code: codeUnsupported, message: "invalid number of results requested", detail: q.Get("n")}
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
	slices.SortFunc(tags, compareTags)
	if tags, err = c.page(slices.Compact(tags), compareTags); err != nil {
		return err
	}
	if tags == nil {
		tags = []string{}
	}
	return c.json(http.StatusOK, map[string]any{"name": c.repo, "tags": tags})
}

// listRepositories lists the repositories that the user may read (an extension
// of Docker's: GET /v2/_catalog).
func (c *call) listRepositories() error {
	names := c.store.repositories()
	more, err := c.engineRepositories()
	if err != nil {
		return err
	}
	names = append(names, more...)
	slices.Sort(names)
	names = slices.DeleteFunc(slices.Compact(names), func(n string) bool { return !c.cfg.Users.lists(c.who.name, n) })
	if names, err = c.page(names, strings.Compare); err != nil {
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
	list, next := pageReferrers(list, digest.Digest(c.r.URL.Query().Get("last")), maxReferrers)
	if next != "" {
		q := c.r.URL.Query()
		q.Set("last", next.String())
		c.w.Header().Set("Link", fmt.Sprintf("<%s?%s>; rel=\"next\"", c.r.URL.Path, q.Encode()))
	}
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: list}
	index.SchemaVersion = 2
	c.w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
	return c.json(http.StatusOK, index)
}

// maxReferrers bounds the descriptors of one answer, in bytes: with them it is
// no larger than any client takes.
const maxReferrers = maxManifest - 1024

// pageReferrers cuts a list, which is sorted by digest, to what follows last and
// has at most limit bytes. next is not empty where there are more.
func pageReferrers(list []ocispec.Descriptor, last digest.Digest, limit int) (page []ocispec.Descriptor, next digest.Digest) {
	list = slices.DeleteFunc(list, func(d ocispec.Descriptor) bool { return d.Digest <= last })
	size := 0
	for i, d := range list {
		text, err := json.Marshal(d)
		if size += len(text) + 1; (err != nil || size > limit) && i > 0 {
			return list[:i], list[i-1].Digest
		}
	}
	return list, ""
}

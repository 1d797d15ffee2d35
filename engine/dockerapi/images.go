package dockerapi

import (
	"cmp"
	"encoding/json"
	"errors"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	devents "github.com/moby/moby/api/types/events"
	dimage "github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/jsonstream"
	dstorage "github.com/moby/moby/api/types/storage"
	"github.com/opencontainers/go-digest"

	"gantry/engine"
	"gantry/engine/image"
)

func (c *call) listImages() error {
	filters, err := c.query.filters()
	if err != nil {
		return err
	}
	images, err := c.cfg.Images.List(c.r.Context())
	if err != nil {
		return err
	}
	keep, err := c.imageFilter(filters)
	if err != nil {
		return err
	}
	all := c.query.bool("all")
	if _, dangling := filters["dangling"]; dangling {
		all = true
	}
	parents := parentsOf(images)
	list := []dimage.Summary{}
	var shared map[digest.Digest]int64
	if c.query.bool("shared-size") {
		if shared, err = c.sharedSizes(images); err != nil {
			return err
		}
	}
	for _, img := range images {
		hidden := len(img.RepoTags) == 0 && len(img.RepoDigests) == 0 && parents[img.ID]
		if !all && hidden || !keep(img) {
			continue
		}
		img.RepoTags = matchingNames(img.RepoTags, filters["reference"])
		img.RepoDigests = matchingNames(img.RepoDigests, filters["reference"])
		summary := c.imageSummary(img)
		if shared != nil {
			summary.SharedSize = shared[img.ID]
		}
		list = append(list, summary)
	}
	slices.SortStableFunc(list, func(a, b dimage.Summary) int { return cmp.Compare(b.Created, a.Created) })
	if c.version.less(1, 44) {
		return c.answer(http.StatusOK, legacyImages(c.version, list))
	}
	return c.answer(http.StatusOK, list)
}

// parentsOf marks the images that others were built from.
func parentsOf(images []image.Image) map[digest.Digest]bool {
	parents := map[digest.Digest]bool{}
	for _, img := range images {
		if img.Parent != "" {
			parents[img.Parent] = true
		}
	}
	return parents
}

func (c *call) imageSummary(img image.Image) dimage.Summary {
	return dimage.Summary{
		ID: img.ID.String(), ParentID: img.Parent.String(), RepoTags: nonNil(img.RepoTags), RepoDigests: nonNil(img.RepoDigests),
		Created: img.Created().Unix(), Size: img.Size, SharedSize: -1, Containers: -1, Labels: img.Config.Config.Labels,
	}
}

func nonNil(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// imageFilter returns what tells whether an image passes the filters.
func (c *call) imageFilter(f engine.Filters) (func(image.Image) bool, error) {
	if err := f.Check("dangling", "label", "before", "since", "reference", "until"); err != nil {
		return nil, err
	}
	dangling, only, err := f.Bool("dangling")
	if err != nil {
		return nil, err
	}
	var after, before time.Time
	for name, at := range map[string]*time.Time{"since": &after, "before": &before} {
		for _, ref := range f[name] {
			img, err := c.cfg.Images.Resolve(c.r.Context(), ref)
			if err != nil {
				return nil, err
			}
			*at = img.Created()
		}
	}
	for _, text := range f["until"] {
		if before, err = engine.ParseTime(text, time.Now()); err != nil {
			return nil, err
		}
	}
	for _, pattern := range f["reference"] {
		if _, err := path.Match(pattern, ""); err != nil {
			return nil, invalid("invalid filter 'reference=%s'", pattern)
		}
	}
	return func(img image.Image) bool {
		created := img.Created()
		return (!only || dangling == (len(img.RepoTags) == 0 && len(img.RepoDigests) == 0)) &&
			f.Labels("label", img.Config.Config.Labels) &&
			(after.IsZero() || created.After(after)) && (before.IsZero() || created.Before(before)) &&
			(len(f["reference"]) == 0 || slices.ContainsFunc(f["reference"], func(p string) bool { return matchesReference(img, p) }))
	}, nil
}

func matchesReference(img image.Image, pattern string) bool {
	return slices.ContainsFunc(img.RepoTags, func(tag string) bool { return matchesName(tag, pattern) })
}

func matchesName(name, pattern string) bool {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return false
	}
	match, err := reference.FamiliarMatch(pattern, named)
	if err == nil && match {
		return true
	}
	match, err = reference.FamiliarMatch(pattern, reference.TrimNamed(named))
	return err == nil && match
}

// matchingNames returns those of an image's names that a list by reference shows.
func matchingNames(names, patterns []string) []string {
	if len(patterns) == 0 {
		return names
	}
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		return !slices.ContainsFunc(patterns, func(pattern string) bool { return matchesName(name, pattern) })
	})
}

func (c *call) inspectImage() error {
	if err := c.query.refuse("manifests"); err != nil {
		return err
	}
	img, err := c.resolvePlatform(c.vars[0])
	if err != nil {
		return err
	}
	config := img.Config.Config
	out := dimage.InspectResponse{
		ID: img.ID.String(), RepoTags: nonNil(img.RepoTags), RepoDigests: nonNil(img.RepoDigests),
		Author: img.Config.Author, Config: &config, Architecture: img.Config.Architecture, Variant: img.Config.Variant,
		Os: img.Config.OS, OsVersion: img.Config.OSVersion, Size: img.Size,
		RootFS: dimage.RootFS{Type: "layers"}, Metadata: dimage.Metadata{LastTagTime: img.LastTagged},
		GraphDriver: &dstorage.DriverData{Name: engine.StorageDriver, Data: map[string]string{}},
	}
	if !img.Created().IsZero() {
		out.Created = img.Created().Format(time.RFC3339Nano)
	}
	if n := len(img.Config.History); n > 0 {
		out.Comment = img.Config.History[n-1].Comment
	}
	for _, layer := range img.Layers {
		out.RootFS.Layers = append(out.RootFS.Layers, layer.String())
	}
	if dirs, err := c.cfg.Images.LowerDirs(img); err == nil && len(dirs) > 0 {
		out.GraphDriver.Data["UpperDir"] = dirs[0]
		if len(dirs) > 1 {
			out.GraphDriver.Data["LowerDir"] = strings.Join(dirs[1:], ":")
		}
	}
	asked := c.version
	if strings.HasPrefix(c.r.UserAgent(), "docker-compose/1.") {
		// It asks for the newest version, and recreates no container without
		// the ContainerConfig that was there before 1.45.
		asked = version{1, 44}
	}
	if !asked.less(1, 52) {
		return c.answer(http.StatusOK, out)
	}
	legacy, err := legacyImageInspect(asked, out, img.Parent.String())
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, legacy)
}

func (c *call) history() error {
	if _, err := c.resolvePlatform(c.vars[0]); err != nil {
		return err
	}
	entries, err := c.cfg.Images.History(c.r.Context(), c.vars[0])
	if err != nil {
		return err
	}
	list := []dimage.HistoryResponseItem{}
	for _, e := range entries {
		list = append(list, dimage.HistoryResponseItem{
			ID: e.ID, Created: e.Created.Unix(), CreatedBy: e.CreatedBy, Comment: e.Comment, Size: e.Size, Tags: e.Tags,
		})
	}
	return c.answer(http.StatusOK, list)
}

func (c *call) tag() error {
	img, err := c.cfg.Images.Resolve(c.r.Context(), c.vars[0])
	if err != nil {
		return err
	}
	name, err := nameAndTag(c.query.Get("repo"), c.query.Get("tag"))
	if err != nil {
		return err
	}
	if err := c.cfg.Images.Tag(c.r.Context(), img.ID, name); err != nil {
		return err
	}
	c.cfg.Engine.Emit(devents.ImageEventType, devents.ActionTag, img.ID.String(), map[string]string{"name": name})
	c.begun = true
	c.w.WriteHeader(http.StatusCreated)
	return nil
}

// nameAndTag joins a repository and a tag as requests give them.
func nameAndTag(repo, tag string) (string, error) {
	if repo == "" {
		return "", nil
	}
	named, err := reference.ParseNormalizedNamed(repo)
	if err != nil {
		return "", invalid("%w", err)
	}
	if _, isDigest := named.(reference.Digested); isDigest {
		return "", invalid("refusing to create a tag with a digest reference")
	}
	if tag != "" {
		if named, err = reference.WithTag(reference.TrimNamed(named), tag); err != nil {
			return "", invalid("%w", err)
		}
	}
	return reference.FamiliarString(reference.TagNameOnly(named)), nil
}

func (c *call) removeImage() error {
	if err := c.query.refuse("platforms"); err != nil {
		return err
	}
	deleted, err := c.cfg.Images.Remove(c.r.Context(), c.vars[0], image.RemoveOptions{
		Force: c.query.bool("force"), NoPrune: c.query.bool("noprune"),
	})
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, c.deletions(deleted))
}

// deletions translates what a removal did, and records it as events.
func (c *call) deletions(deleted []image.Deleted) []dimage.DeleteResponse {
	list := []dimage.DeleteResponse{}
	for _, d := range deleted {
		list = append(list, dimage.DeleteResponse{Deleted: d.Deleted, Untagged: d.Untagged})
		if d.Untagged != "" {
			c.cfg.Engine.Emit(devents.ImageEventType, devents.ActionUnTag, d.Untagged, map[string]string{"name": d.Untagged})
		} else {
			c.cfg.Engine.Emit(devents.ImageEventType, devents.ActionDelete, d.Deleted, map[string]string{"name": d.Deleted})
		}
	}
	return list
}

func (c *call) pruneImages() error {
	filters, err := c.query.filters()
	if err != nil {
		return err
	}
	dangling, set, err := filters.Bool("dangling")
	if err != nil {
		return err
	}
	delete(filters, "dangling")
	keep, err := engine.PruneFilter(filters)
	if err != nil {
		return err
	}
	report, err := c.cfg.Images.Prune(c.r.Context(), image.PruneOptions{
		All:    set && !dangling,
		Filter: func(img image.Image) bool { return keep(img.Created(), img.Config.Config.Labels) },
	})
	if err != nil {
		return err
	}
	c.pruned(devents.ImageEventType, report.Reclaimed)
	return c.answer(http.StatusOK, dimage.PruneReport{ImagesDeleted: c.deletions(report.Deleted), SpaceReclaimed: uint64(report.Reclaimed)})
}

// begins notes that the answer has begun.
type begins struct{ c *call }

func (b begins) Write(p []byte) (int, error) {
	b.c.begun = true
	return b.c.w.Write(p)
}

// progress writes JSON messages, one after the other, as they come.
type progress struct {
	c       *call
	encoder *json.Encoder

	mu     sync.Mutex // a build's steps send beside each other
	failed error
}

func (c *call) progress() *progress { return &progress{c: c, encoder: json.NewEncoder(c.w)} }

// message is a message with the fields which older clients read.
type message struct {
	jsonstream.Message
	Text string `json:"error,omitempty"`
}

func (p *progress) send(m jsonstream.Message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed != nil {
		return
	}
	if !p.c.begun {
		p.c.w.Header().Set("Content-Type", "application/json")
		p.c.begun = true
		p.c.w.WriteHeader(http.StatusOK)
	}
	out := message{Message: m}
	if m.Error != nil {
		out.Text = m.Error.Message
	}
	p.failed = errors.Join(p.encoder.Encode(out), p.c.flush())
}

// end ends the messages with an error, if there is one; when nothing has been
// sent yet the error is the answer.
func (p *progress) end(err error) error {
	if err == nil {
		if !p.c.begun {
			p.c.begun = true
			p.c.w.WriteHeader(http.StatusOK)
		}
		return p.failed
	}
	if !p.c.begun {
		return err
	}
	p.send(jsonstream.Message{Error: &jsonstream.Error{Code: exitCode(err), Message: err.Error()}})
	return p.failed
}

func shortID(id string) string { return id[:min(12, len(id))] }

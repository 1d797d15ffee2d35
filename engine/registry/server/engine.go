package server

import (
	"bytes"
	"crypto/rand"
	"errors"
	"slices"
	"strings"

	ref "github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"gantry/engine/image"
	"gantry/internal/problem"
)

// engineTag is one name of the engine that is a tag of the repository here.
type engineTag struct {
	tag string
	img image.Image
}

// engineImages returns the engine's images that are in the repository, with
// their tags there. The engine may call the repository by its name alone, or
// with this registry's own address, as images are tagged that are to be pushed
// to it; of the latter, those that have been pushed or pulled do not count: they
// are here what the registry says.
func (c *call) engineImages() (images []image.Image, tags []engineTag, err error) {
	all, err := c.cfg.Images.List(c.r.Context())
	if err != nil {
		return nil, nil, err
	}
	name, own := engineName(c.repo), engineName(c.r.Host+"/"+c.repo)
	for _, img := range all {
		digests := reposOf(img.RepoDigests)
		in := name != "" && slices.Contains(digests, name)
		for _, text := range img.RepoTags {
			n, err := ref.ParseNormalizedNamed(text)
			if err != nil {
				continue
			}
			t, ok := n.(ref.Tagged)
			if !ok || n.Name() != name && (n.Name() != own || slices.Contains(digests, own)) {
				continue
			}
			in = true
			tags = append(tags, engineTag{t.Tag(), img})
		}
		if in {
			images = append(images, img)
		}
	}
	return images, tags, nil
}

// engineName is a repository's name as the engine writes it, or empty.
func engineName(text string) string {
	n, err := ref.ParseNormalizedNamed(text)
	if err != nil || !ref.IsNameOnly(n) {
		return ""
	}
	return n.Name()
}

// reposOf returns the repositories of names.
func reposOf(names []string) []string {
	var repos []string
	for _, text := range names {
		if n, err := ref.ParseNormalizedNamed(text); err == nil {
			repos = append(repos, n.Name())
		}
	}
	return repos
}

// engineManifest finds a manifest of the engine's images. One that was built is
// packed now.
func (c *call) engineManifest(want reference) (image.Manifest, error) {
	ctx := c.r.Context()
	images, tags, err := c.engineImages()
	if err != nil {
		return image.Manifest{}, err
	}
	for _, t := range tags {
		if t.tag == want.tag {
			owner := "serve " + rand.Text()
			defer c.cfg.Images.EndLease(owner) // the image's manifest keeps the blobs
			return c.cfg.Images.Pack(ctx, owner, t.img.ID)
		}
	}
	if want.tag != "" {
		return image.Manifest{}, problem.New(problem.NotFound, "tag %s", want.tag)
	}
	for _, img := range images {
		manifests, err := c.cfg.Images.Manifests(ctx, img.ID)
		if err != nil {
			return image.Manifest{}, err
		}
		for _, m := range manifests {
			if m.Digest == want.digest {
				return m, nil
			}
		}
	}
	return image.Manifest{}, problem.New(problem.NotFound, "manifest %s", want.digest)
}

// engineBlob opens a blob of the engine's images of this repository: a packed
// layer or a configuration.
func (c *call) engineBlob(d digest.Digest) (content, error) {
	ctx := c.r.Context()
	images, _, err := c.engineImages()
	if err != nil {
		return nil, err
	}
	for _, img := range images {
		if img.ID == d {
			doc, err := c.cfg.Images.Document(ctx, d)
			return memory{bytes.NewReader(doc)}, err
		}
		manifests, err := c.cfg.Images.Manifests(ctx, img.ID)
		if err != nil {
			return nil, err
		}
		for _, m := range manifests {
			doc, err := parseDocument(m.Raw)
			if err != nil {
				continue // an index of other things
			}
			for _, b := range doc.blobs() {
				if b.Digest == d {
					return c.cfg.Images.OpenBlob(ctx, d)
				}
			}
		}
	}
	return nil, problem.New(problem.NotFound, "blob %s", d)
}

// adopt makes a blob that the engine has for the repository the repository's own.
func (c *call) adopt(d digest.Digest) error {
	body, err := c.engineBlob(d)
	if err != nil {
		return err
	}
	defer body.Close()
	if doc, ok := body.(memory); ok { // a configuration: it is no blob yet
		w, err := c.cfg.Images.NewBlob(d.Algorithm())
		if err != nil {
			return err
		}
		_, err = doc.WriteTo(w)
		if err == nil {
			err = w.Commit(c.r.Context(), lease, d, "", image.Durable)
		}
		if err = errors.Join(err, w.Close()); err != nil {
			return err
		}
	}
	return c.store.addBlobs(c.repo, d)
}

// engineRepositories lists the repositories of the engine's images.
func (c *call) engineRepositories() ([]string, error) {
	images, err := c.cfg.Images.List(c.r.Context())
	if err != nil {
		return nil, err
	}
	var names []string
	for _, img := range images {
		for _, text := range img.RepoTags {
			n, err := ref.ParseNormalizedNamed(text)
			if err != nil {
				continue
			}
			name := strings.TrimPrefix(ref.FamiliarName(n), c.r.Host+"/")
			if validName(name) {
				names = append(names, name)
			}
		}
	}
	return names, nil
}

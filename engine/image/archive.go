package image

import (
	"bytes"
	"encoding/json"
	"path"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/problem"
)

// The files of an archive of images: Docker's manifest.json, and an OCI layout.
const (
	dockerManifest   = "manifest.json"
	repositoriesFile = "repositories"
)

// manifestItem is one image of Docker's manifest.json.
type manifestItem struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// contents is what an archive turned out to hold.
type contents struct {
	documents map[string][]byte    // JSON files, by name
	layers    map[string]blobLayer // other files, by name
	links     map[string]string    // links among them
}

// blobLayer is a file that may be a layer.
type blobLayer struct {
	diffID digest.Digest
	err    error // why it is none
}

// found is one image of an archive.
type found struct {
	config []byte
	names  []reference.Named
	layers []string // names of files, bottom first
	part   bool     // of an index, beside the part for this host: it has no name
}

// resolve follows the links of an archive.
func (c *contents) resolve(name string) string {
	name = path.Clean(name)
	for range 8 {
		to, ok := c.links[name]
		if !ok {
			break
		}
		name = to
	}
	return name
}

func (c *contents) document(name string) ([]byte, error) {
	b, ok := c.documents[c.resolve(name)]
	if !ok {
		return nil, problem.New(problem.Invalid, "invalid archive: %s is missing", name)
	}
	if d, ok := blobDigest(path.Clean(name)); ok {
		if got := d.Algorithm().FromBytes(b); got != d {
			return nil, problem.New(problem.Invalid, "invalid archive: %s has digest %s", name, got)
		}
	} else if hex := strings.TrimSuffix(path.Base(name), ".json"); len(hex) == 64 && isHex(hex) {
		if got := digest.FromBytes(b); got.Encoded() != hex {
			return nil, problem.New(problem.Invalid, "invalid archive: %s has digest %s", name, got)
		}
	}
	return b, nil
}

// images lists what the archive holds. An archive that is both Docker's and an
// OCI layout is read as the first, whose names are complete.
func (c *contents) images() ([]found, error) {
	if b, ok := c.documents[dockerManifest]; ok {
		return c.dockerImages(b)
	}
	if b, ok := c.documents[ocispec.ImageIndexFile]; ok {
		return c.ociImages(b)
	}
	return nil, problem.New(problem.Invalid, "invalid archive: it has neither %s nor %s", dockerManifest, ocispec.ImageIndexFile)
}

func (c *contents) dockerImages(manifest []byte) ([]found, error) {
	var items []manifestItem
	if err := json.Unmarshal(manifest, &items); err != nil {
		return nil, problem.New(problem.Invalid, "invalid archive: %s: %w", dockerManifest, err)
	}
	var images []found
	for _, item := range items {
		config, err := c.document(item.Config)
		if err != nil {
			return nil, err
		}
		f := found{config: config, layers: item.Layers}
		for _, t := range item.RepoTags {
			n, err := ParseName(t)
			if err != nil {
				return nil, problem.New(problem.Invalid, "invalid archive: tag %q: %w", t, err)
			}
			f.names = append(f.names, n)
		}
		images = append(images, f)
	}
	return images, nil
}

func (c *contents) ociImages(index []byte) ([]found, error) {
	var i ocispec.Index
	if err := json.Unmarshal(index, &i); err != nil {
		return nil, problem.New(problem.Invalid, "invalid archive: %s: %w", ocispec.ImageIndexFile, err)
	}
	var images []found
	for _, d := range i.Manifests {
		f, err := c.ociImage(d, 0)
		if err != nil {
			return nil, err
		}
		if f == nil {
			continue
		}
		if n := annotatedName(d.Annotations); n != nil {
			f.names = append(f.names, n)
		}
		images = append(images, *f)
	}
	return images, nil
}

// maxNesting is how deep indexes may hold indexes.
const maxNesting = 3

// ociImage returns the image that d is, or the one for this host of an index;
// nil if d is something else.
func (c *contents) ociImage(d ocispec.Descriptor, depth int) (*found, error) {
	if depth > maxNesting {
		return nil, problem.New(problem.Invalid, "invalid archive: indexes are nested too deep")
	}
	b, err := c.document(blobName(d.Digest))
	if err != nil {
		return nil, err
	}
	var m struct {
		Manifests []ocispec.Descriptor `json:"manifests"`
		Config    *ocispec.Descriptor  `json:"config"`
		Layers    []ocispec.Descriptor `json:"layers"`
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, problem.New(problem.Invalid, "invalid archive: manifest %s: %w", d.Digest, err)
	}
	if m.Manifests != nil {
		part, ok := c.choose(m.Manifests)
		if !ok {
			return nil, nil
		}
		return c.ociImage(part, depth+1)
	}
	if m.Config == nil || !isImageConfig(m.Config.MediaType) {
		return nil, nil
	}
	config, err := c.document(blobName(m.Config.Digest))
	if err != nil {
		return nil, err
	}
	f := &found{config: config}
	for _, l := range m.Layers {
		f.layers = append(f.layers, blobName(l.Digest))
	}
	return f, nil
}

// choose picks from an index the part for this host, or else the first that is
// there and is an image.
func (c *contents) choose(parts []ocispec.Descriptor) (ocispec.Descriptor, bool) {
	var first *ocispec.Descriptor
	for _, d := range parts {
		if _, ok := c.documents[blobName(d.Digest)]; !ok || d.Annotations[referenceType] != "" {
			continue
		}
		if d.Platform == nil || Runs(*d.Platform, Host()) {
			return d, true
		}
		if first == nil {
			first = &d
		}
	}
	if first == nil {
		return ocispec.Descriptor{}, false
	}
	return *first, true
}

func isImageConfig(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageConfig || mediaType == "application/vnd.docker.container.image.v1+json"
}

// annotatedName returns the name of an image in an OCI layout. Some programs
// write a whole reference as its reference name, some a tag alone, which names
// no repository.
func annotatedName(a map[string]string) reference.Named {
	for _, key := range []string{"io.containerd.image.name", ocispec.AnnotationRefName} {
		if v := a[key]; strings.ContainsAny(v, ":/") {
			if n, err := ParseName(v); err == nil {
				return n
			}
		}
	}
	return nil
}

// looksJSON reports whether a file's first bytes are those of a JSON document.
func looksJSON(head []byte) bool {
	b := bytes.TrimLeft(head, " \t\r\n")
	return len(b) > 0 && (b[0] == '{' || b[0] == '[')
}

package registry

import (
	"context"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/engine/image"
	"gantry/internal/problem"
)

// Docker's media types beside OCI's.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
	dockerLayer    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

var acceptManifests = []string{ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, dockerManifest, dockerList}

// Bounds of documents: the first is what the specification recommends for
// manifests.
const (
	maxManifest = 4 << 20
	maxConfig   = 8 << 20
)

// document is what the client reads of a manifest or an index.
type document struct {
	SchemaVersion int                  `json:"schemaVersion"`
	MediaType     string               `json:"mediaType"`
	ArtifactType  string               `json:"artifactType"`
	Config        *ocispec.Descriptor  `json:"config"`
	Layers        []ocispec.Descriptor `json:"layers"`
	Manifests     []ocispec.Descriptor `json:"manifests"`
}

// parseManifest decodes a manifest or index and checks what the client relies on.
// contentType is what the registry called it.
func parseManifest(contentType string, raw []byte) (document, string, error) {
	var doc document
	if err := json.Unmarshal(raw, &doc); err != nil {
		return doc, "", problem.New(problem.Invalid, "manifest: %w", err)
	}
	kind, _, err := mime.ParseMediaType(contentType)
	if err != nil || kind == "application/json" || strings.HasPrefix(kind, "text/") {
		kind = doc.MediaType
	}
	if kind == "" && doc.Manifests != nil {
		kind = ocispec.MediaTypeImageIndex
	}
	if kind == "" && doc.Config != nil {
		kind = ocispec.MediaTypeImageManifest
	}
	switch {
	case doc.SchemaVersion == 1 || strings.HasPrefix(kind, "application/vnd.docker.distribution.manifest.v1+"):
		return doc, "", problem.New(problem.Unsupported, "Docker Image manifest version 2, schema 1 is not supported: push the image again with a newer client")
	case doc.SchemaVersion != 2:
		return doc, "", problem.New(problem.Invalid, "manifest has schema version %d", doc.SchemaVersion)
	case doc.MediaType != "" && doc.MediaType != kind:
		return doc, "", problem.New(problem.Invalid, "manifest says that it is %s, the registry that it is %s", doc.MediaType, kind)
	case kind == ocispec.MediaTypeImageIndex || kind == dockerList:
		if doc.Config != nil || doc.Layers != nil {
			return doc, "", problem.New(problem.Invalid, "index has the fields of a manifest")
		}
	case kind == ocispec.MediaTypeImageManifest || kind == dockerManifest:
		if doc.Manifests != nil {
			return doc, "", problem.New(problem.Invalid, "manifest has the fields of an index")
		}
		if doc.Config == nil {
			return doc, "", problem.New(problem.Invalid, "manifest has no config")
		}
		if err := checkDescriptors(append([]ocispec.Descriptor{*doc.Config}, doc.Layers...)); err != nil {
			return doc, "", err
		}
	default:
		return doc, "", problem.New(problem.Unsupported, "unsupported manifest media type %q", kind)
	}
	return doc, kind, checkDescriptors(doc.Manifests)
}

func checkDescriptors(list []ocispec.Descriptor) error {
	for _, d := range list {
		if err := checkDigest(d.Digest); err != nil {
			return err
		}
		if d.Size < 0 {
			return problem.New(problem.Invalid, "descriptor of %s has size %d", d.Digest, d.Size)
		}
	}
	return nil
}

// manifest fetches a manifest by tag or digest, verified.
func (r *repository) manifest(ctx context.Context, what string) (image.Manifest, document, error) {
	resp, err := r.do(ctx, request{
		method: http.MethodGet, url: r.url("manifests", what), scopes: []string{r.scope("pull")},
		header: http.Header{"Accept": {strings.Join(acceptManifests, ", ")}},
	})
	if err != nil {
		return image.Manifest{}, document{}, err
	}
	if resp.StatusCode != http.StatusOK {
		return image.Manifest{}, document{}, refusal(resp)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
	if err != nil {
		return image.Manifest{}, document{}, err
	}
	if len(raw) > maxManifest {
		return image.Manifest{}, document{}, problem.New(problem.Invalid, "manifest is larger than %d bytes", maxManifest)
	}
	want := digest.Digest(resp.Header.Get("Docker-Content-Digest"))
	if d := digest.Digest(what); d.Validate() == nil {
		want = d
	}
	m := image.Manifest{Digest: digest.FromBytes(raw)}
	if want != "" {
		if err := checkDigest(want); err != nil {
			return m, document{}, err
		}
		if m.Digest = want.Algorithm().FromBytes(raw); m.Digest != want {
			return m, document{}, problem.New(problem.Invalid, "manifest verification failed for digest %s", want)
		}
	}
	doc, kind, err := parseManifest(resp.Header.Get("Content-Type"), raw)
	m.MediaType, m.Raw = kind, raw
	return m, doc, err
}

// isIndex tells an index from an image's manifest.
func isIndex(kind string) bool { return kind == ocispec.MediaTypeImageIndex || kind == dockerList }

// choose picks the part of an index for a platform: the same variant if there
// is one, else one that the CPU runs as well.
func choose(parts []ocispec.Descriptor, want ocispec.Platform) (ocispec.Descriptor, error) {
	best, found := ocispec.Descriptor{}, 0
	for _, d := range parts {
		if d.Annotations["vnd.docker.reference.type"] != "" || d.Platform == nil && len(parts) > 1 {
			continue
		}
		if rank := rankPlatform(d.Platform, want); rank > found {
			best, found = d, rank
		}
	}
	if found == 0 {
		return best, problem.New(problem.NotFound, "no matching manifest for %s in the manifest list entries", image.FormatPlatform(want))
	}
	return best, nil
}

// rankPlatform says how well p suits: 0 not at all.
func rankPlatform(p *ocispec.Platform, want ocispec.Platform) int {
	switch {
	case p == nil:
		return 1
	case p.OS != want.OS || !image.Runs(*p, want):
		return 0
	case p.Architecture != want.Architecture:
		return 2
	case variant(*p) == variant(want):
		return 5
	case variant(*p) < variant(want):
		return 4
	case want.Variant == "" && p.Architecture != "amd64":
		return 3
	}
	return 0
}

// variant fills in what a platform without one means.
func variant(p ocispec.Platform) string {
	switch {
	case p.Variant != "":
		return p.Variant
	case p.Architecture == "arm64":
		return "v8"
	case p.Architecture == "amd64":
		return "v1"
	}
	return ""
}

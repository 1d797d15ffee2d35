package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/engine/image"
	"gantry/internal/problem"
)

// maxManifest is what the specification asks a registry to take at least.
const maxManifest = 4 << 20

// document is what the registry reads of a manifest or index.
type document struct {
	SchemaVersion int                  `json:"schemaVersion"`
	MediaType     string               `json:"mediaType"`
	ArtifactType  string               `json:"artifactType"`
	Config        *ocispec.Descriptor  `json:"config"`
	Layers        []ocispec.Descriptor `json:"layers"`
	Blobs         []ocispec.Descriptor `json:"blobs"` // of an artifact manifest
	Manifests     []ocispec.Descriptor `json:"manifests"`
	Subject       *ocispec.Descriptor  `json:"subject"`
	Annotations   map[string]string    `json:"annotations"`
}

// parseDocument decodes a manifest of any kind, and checks its digests.
func parseDocument(raw []byte) (document, error) {
	var doc document
	if err := json.Unmarshal(raw, &doc); err != nil {
		return doc, err
	}
	all := append(doc.blobs(), doc.Manifests...)
	if doc.Subject != nil {
		all = append(all, *doc.Subject)
	}
	for _, d := range all {
		if err := d.Digest.Validate(); err != nil {
			return doc, fmt.Errorf("digest %q: %w", d.Digest, err)
		}
		if d.Size < 0 {
			return doc, fmt.Errorf("%s has size %d", d.Digest, d.Size)
		}
	}
	return doc, nil
}

// blobs are what the manifest needs beside other manifests; those that may be
// elsewhere by their URLs are left out.
func (d document) blobs() []ocispec.Descriptor {
	var list []ocispec.Descriptor
	if d.Config != nil {
		list = append(list, *d.Config)
	}
	for _, l := range append(d.Layers[:len(d.Layers):len(d.Layers)], d.Blobs...) {
		if len(l.URLs) == 0 {
			list = append(list, l)
		}
	}
	return list
}

// referrer is what the manifest says about its subject, or nil (spec, "Listing
// Referrers").
func (d document) referrer(m image.Manifest) *referrer {
	if d.Subject == nil {
		return nil
	}
	kind := d.ArtifactType
	if kind == "" && d.Config != nil {
		kind = d.Config.MediaType
	}
	return &referrer{subject: d.Subject.Digest, desc: ocispec.Descriptor{
		MediaType: m.MediaType, Digest: m.Digest, Size: int64(len(m.Raw)), ArtifactType: kind, Annotations: d.Annotations,
	}}
}

// findManifest finds what a reference means: what was pushed, what another
// registry has, or the engine's.
func (c *call) findManifest() (image.Manifest, error) {
	ref, err := parseReference(c.what)
	if err != nil {
		return image.Manifest{}, err
	}
	find := c.store.manifest
	if c.upstreamName() != nil {
		find = c.store.ownManifest
	}
	m, err := find(c.repo, ref)
	if errors.Is(err, problem.NotFound) {
		m, err = c.throughManifest(ref)
	}
	if errors.Is(err, problem.NotFound) {
		m, err = c.engineManifest(ref)
	}
	if errors.Is(err, problem.NotFound) {
		return m, unknownManifest(c.what)
	}
	return m, err
}

// getManifest answers GET and HEAD of a manifest (spec, "Pulling manifests").
func (c *call) getManifest() error {
	m, err := c.findManifest()
	if err != nil {
		return err
	}
	h := c.w.Header()
	h.Set("Content-Type", m.MediaType)
	h.Set("Content-Length", strconv.Itoa(len(m.Raw)))
	h.Set("Docker-Content-Digest", m.Digest.String())
	h.Set("Etag", `"`+m.Digest.String()+`"`)
	if c.r.Header.Get("If-None-Match") == h.Get("Etag") {
		h.Del("Content-Length")
		c.w.WriteHeader(http.StatusNotModified)
		return nil
	}
	c.w.WriteHeader(http.StatusOK)
	if c.r.Method != http.MethodHead {
		_, _ = c.w.Write(m.Raw) // a client that has gone needs no answer
	}
	return nil
}

// putManifest stores a manifest (spec, "Pushing Manifests").
func (c *call) putManifest() error {
	if err := c.refuseThrough(); err != nil {
		return err
	}
	ref, err := parseReference(c.what)
	if err != nil {
		return err
	}
	raw, err := io.ReadAll(io.LimitReader(c.r.Body, maxManifest+1))
	if err != nil {
		return invalidManifest("the body ends early")
	}
	if len(raw) > maxManifest {
		return &refusal{status: http.StatusRequestEntityTooLarge, code: codeSizeInvalid, message: "manifest is larger than 4 MiB"}
	}
	m := image.Manifest{Digest: digest.FromBytes(raw), Raw: raw}
	if ref.digest != "" {
		if m.Digest = ref.digest.Algorithm().FromBytes(raw); m.Digest != ref.digest {
			return invalidDigest(ref.digest.String())
		}
	}
	doc, err := parseDocument(raw)
	if err != nil {
		return invalidManifest(err.Error())
	}
	m.MediaType, _, _ = mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	if m.MediaType == "" {
		m.MediaType = doc.MediaType
	}
	if m.MediaType == "" || doc.MediaType != "" && doc.MediaType != m.MediaType {
		return invalidManifest(fmt.Sprintf("its media type is %q, the header says %q", doc.MediaType, m.MediaType))
	}
	if err := c.checkBlobs(doc); err != nil {
		return err
	}
	if err := c.store.forgetThrough(c.repo, m.Digest); err != nil {
		return err
	}
	if err := c.store.putManifest(c.repo, ref.tag, m, doc.referrer(m)); err != nil {
		return err
	}
	h := c.w.Header()
	if doc.Subject != nil {
		h.Set("OCI-Subject", doc.Subject.Digest.String())
	}
	h.Set("Docker-Content-Digest", m.Digest.String())
	h.Set("Location", "/v2/"+c.repo+"/manifests/"+m.Digest.String())
	c.w.WriteHeader(http.StatusCreated)
	return nil
}

// checkBlobs refuses a manifest that names a blob which the repository lacks.
// Those that the engine has for it become the repository's own.
func (c *call) checkBlobs(doc document) error {
	for _, d := range doc.blobs() {
		if c.store.hasBlob(c.repo, d.Digest) {
			continue
		}
		if err := c.adopt(d.Digest); err != nil {
			if errors.Is(err, problem.NotFound) {
				return &refusal{status: http.StatusNotFound, code: codeManifestBlobUnknown, message: "manifest references a blob unknown to registry", detail: d.Digest.String()}
			}
			return err
		}
	}
	return nil
}

// deleteManifest removes a tag, or a manifest with its tags (spec, "Content
// Management").
func (c *call) deleteManifest() error {
	ref, err := parseReference(c.what)
	if err != nil {
		return err
	}
	if ref.tag != "" {
		err = c.store.removeTag(c.repo, ref.tag)
	} else {
		err = c.store.removeManifest(c.r.Context(), c.repo, ref.digest)
	}
	if errors.Is(err, problem.NotFound) {
		if _, err := c.engineManifest(ref); err == nil {
			return &refusal{status: http.StatusMethodNotAllowed, code: codeUnsupported, message: "the image is the engine's: remove it there"}
		}
		return unknownManifest(c.what)
	}
	if err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusAccepted)
	return nil
}

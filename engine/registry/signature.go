package registry

import (
	"context"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/engine/image"
	"gantry/internal/atomicfile"
	"gantry/internal/fault"
	"gantry/internal/problem"
)

// What cosign calls its signatures (cosign, specs/SIGNATURE_SPEC.md).
const (
	signaturePayload    = "application/vnd.dev.cosign.simplesigning.v1+json"
	signatureArtifact   = "application/vnd.dev.cosign.artifact.sig.v1+json"
	signatureAnnotation = "dev.cosignproject.cosign/signature"
	signatureType       = "cosign container image signature"
)

// Bounds of what is read in search of a signature.
const (
	maxPayload    = 64 << 10
	maxSignatures = 50
)

// signature is one signature of a manifest.
type signature struct {
	Payload   []byte `json:"payload"`
	Signature []byte `json:"signature"`
}

// says returns the digest that a payload is about.
func (s signature) says() (digest.Digest, error) {
	var doc struct {
		Critical struct {
			Image struct {
				Digest digest.Digest `json:"docker-manifest-digest"`
			} `json:"image"`
			Type string `json:"type"`
		} `json:"critical"`
	}
	if err := json.Unmarshal(s.Payload, &doc); err != nil {
		return "", err
	}
	if doc.Critical.Type != signatureType {
		return "", fmt.Errorf("signature is of type %q", doc.Critical.Type)
	}
	return doc.Critical.Image.Digest, doc.Critical.Image.Digest.Validate()
}

// verify returns the signatures of a manifest that one of the rule's keys made.
func (r rule) verify(d digest.Digest, list []signature) (good []signature) {
	for _, s := range list {
		about, err := s.says()
		if err == nil && about == d && slices.ContainsFunc(r.keys, func(key crypto.PublicKey) bool { return signed(key, s.Payload, s.Signature) }) {
			good = append(good, s)
		}
	}
	return good
}

// tagOf is the tag under which clients keep what belongs to a manifest (spec,
// "Referrers Tag Schema").
func tagOf(d digest.Digest) string {
	return d.Algorithm().String() + "-" + d.Encoded()[:min(64, len(d.Encoded()))]
}

// signatures fetches what a registry has as signatures of a manifest: under the
// tag that cosign gives them, or as referrers.
func (r *repository) signatures(ctx context.Context, d digest.Digest) ([]signature, error) {
	list, err := r.signaturesIn(ctx, tagOf(d)+".sig")
	if err != nil && !errors.Is(err, problem.NotFound) {
		return nil, err
	}
	refs, err := r.referrers(ctx, d)
	if err != nil {
		return nil, err
	}
	for _, ref := range refs {
		if ref.ArtifactType != signatureArtifact {
			continue
		}
		more, err := r.signaturesIn(ctx, ref.Digest.String())
		if err != nil {
			return nil, err
		}
		if list = append(list, more...); len(list) > maxSignatures {
			break
		}
	}
	return list, nil
}

// signaturesIn reads the signatures that a manifest holds as layers.
func (r *repository) signaturesIn(ctx context.Context, what string) (list []signature, err error) {
	_, doc, err := r.manifest(ctx, what)
	if err != nil {
		return nil, err
	}
	for _, l := range doc.Layers[:min(len(doc.Layers), maxSignatures)] {
		text, err := base64.StdEncoding.DecodeString(l.Annotations[signatureAnnotation])
		if l.MediaType != signaturePayload || err != nil || len(text) == 0 {
			continue
		}
		payload, err := fetch(ctx, []*repository{r}, l, maxPayload)
		if err != nil {
			return nil, err
		}
		list = append(list, signature{payload, text})
	}
	return list, nil
}

// referrers lists the signatures among what refers to a manifest. A registry
// without the API has them, maybe, in an index under a tag (spec, "Unavailable
// Referrers API").
func (r *repository) referrers(ctx context.Context, d digest.Digest) ([]ocispec.Descriptor, error) {
	at := r.url("referrers", d.String())
	q := at.Query()
	q.Set("artifactType", signatureArtifact)
	at.RawQuery = q.Encode()
	var all []ocispec.Descriptor
	for range maxPages {
		resp, err := r.do(ctx, request{method: http.MethodGet, url: at, scopes: []string{r.scope("pull")}})
		if err != nil {
			return nil, err
		}
		if resp.StatusCode == http.StatusNotFound && all == nil {
			_ = resp.Body.Close() // it says no more
			return r.taggedReferrers(ctx, d)
		}
		if resp.StatusCode != http.StatusOK {
			return nil, refusal(resp)
		}
		var index ocispec.Index
		err = json.NewDecoder(io.LimitReader(resp.Body, maxManifest)).Decode(&index)
		_ = resp.Body.Close() // it was read
		if err != nil {
			return nil, problem.New(problem.Invalid, "list of referrers: %w", err)
		}
		if err := checkDescriptors(index.Manifests); err != nil {
			return nil, err
		}
		all = append(all, index.Manifests...)
		if at = nextLink(at, resp.Header.Values("Link")); at == nil || len(all) > maxSignatures {
			break
		}
	}
	return all, nil
}

func (r *repository) taggedReferrers(ctx context.Context, d digest.Digest) ([]ocispec.Descriptor, error) {
	m, doc, err := r.manifest(ctx, tagOf(d))
	if errors.Is(err, problem.NotFound) {
		return nil, nil
	}
	if err != nil || !isIndex(m.MediaType) {
		return nil, err
	}
	return doc.Manifests, nil
}

// checkSigned refuses an image that the policy wants signed and that is not. It
// is asked before layers are fetched; the signature is kept, so that the image
// may be run without asking the registry again. The index may be signed, or the
// manifest of the platform.
func (c *Client) checkSigned(ctx context.Context, from []*repository, ref reference.Named, trail []image.Manifest) error {
	rule, asks := c.cfg.Policy.ruleFor(ref.Name())
	if !asks {
		return nil
	}
	if rule.refuse {
		return unsigned(ref.Name(), "the policy refuses it")
	}
	for _, m := range trail {
		list, err := firstOf(from, func(r *repository) ([]signature, error) {
			list, err := r.signatures(ctx, m.Digest)
			if good := rule.verify(m.Digest, list); err != nil || len(good) > 0 || !r.mirror {
				return good, err
			}
			return nil, problem.New(problem.NotFound, "the mirror has no signature of %s", m.Digest)
		})
		if err != nil {
			return fmt.Errorf("signatures of %s: %w", m.Digest, err)
		}
		if len(list) > 0 {
			return c.keepSignatures(ctx, m.Digest, list)
		}
	}
	return unsigned(reference.FamiliarString(ref), "no key of the policy has signed "+trail[0].Digest.String())
}

func unsigned(name, why string) error {
	return problem.New(problem.Denied, "signature policy: image %s may not be used: %s", name, why)
}

// signatureFile is where the signatures of a manifest are kept.
func (c *Client) signatureFile(d digest.Digest) string {
	return filepath.Join(c.cfg.Dir, "signatures", tagOf(d)+".json")
}

// keepSignatures writes down the signatures of a manifest, and drops those of
// manifests that are not in the store any more.
func (c *Client) keepSignatures(ctx context.Context, d digest.Digest, list []signature) error {
	dir := filepath.Join(c.cfg.Dir, "signatures")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if len(entries) >= manySignatures {
		for _, e := range entries {
			kind, rest, _ := strings.Cut(strings.TrimSuffix(e.Name(), ".json"), "-")
			if _, err := c.cfg.Images.Manifest(ctx, digest.NewDigestFromEncoded(digest.Algorithm(kind), rest)); errors.Is(err, problem.NotFound) {
				_ = os.Remove(filepath.Join(dir, e.Name())) // the next time, then
			}
		}
	}
	if err := fault.At("registry/signature/before-write"); err != nil {
		return err
	}
	return atomicfile.WriteJSON(c.signatureFile(d), list, 0o600)
}

// manySignatures is from when on those without an image are looked for.
const manySignatures = 200

// Allowed refuses an image that the policy wants signed and that no signature is
// kept of. ref is how it was asked for; the image's names count as well.
//
// Errors: Denied.
func (c *Client) Allowed(ctx context.Context, img image.Image, ref string) error {
	if c.cfg.Policy == nil {
		return nil
	}
	var manifests []image.Manifest
	for _, name := range namesOf(img, ref) {
		rule, asks := c.cfg.Policy.ruleFor(name)
		if !asks {
			continue
		}
		if rule.refuse {
			return unsigned(ref, "the policy refuses it")
		}
		if manifests == nil {
			all, err := c.cfg.Images.Manifests(ctx, img.ID)
			if err != nil {
				return err
			}
			manifests = leadingTo(img.ID, all)
		}
		ok, err := c.keptFor(rule, manifests)
		if err != nil {
			return err
		}
		if !ok {
			return unsigned(ref, "no signature is kept that the rule for "+name+" takes; pull it")
		}
	}
	return nil
}

// keptFor tells whether a signature of one of the manifests is kept that the
// rule takes.
func (c *Client) keptFor(r rule, manifests []image.Manifest) (bool, error) {
	for _, m := range manifests {
		list, err := readSignatures(c.signatureFile(m.Digest))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		if len(r.verify(m.Digest, list)) > 0 {
			return true, nil
		}
	}
	return false, nil
}

func readSignatures(file string) (list []signature, err error) {
	data, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(data, &list)
	}
	if err != nil {
		return nil, fmt.Errorf("signatures %s: %w", file, err)
	}
	return list, nil
}

// namesOf returns the repositories that an image is of: the one that was asked
// for, and those of its names. One without any has the empty name.
func namesOf(img image.Image, ref string) []string {
	var names []string
	for _, text := range slices.Concat([]string{ref}, img.RepoTags, img.RepoDigests) {
		if strings.HasPrefix(img.ID.Encoded(), strings.TrimPrefix(text, "sha256:")) {
			continue // an ID
		}
		if n, err := reference.ParseNormalizedNamed(text); err == nil && !slices.Contains(names, n.Name()) {
			names = append(names, n.Name())
		}
	}
	if len(names) == 0 {
		names = append(names, "")
	}
	return names
}

// leadingTo returns the manifests that lead to an image: those with its
// configuration, and the indexes that name one of them.
func leadingTo(id digest.Digest, all []image.Manifest) []image.Manifest {
	found := map[digest.Digest]bool{}
	var list []image.Manifest
	for grown := true; grown; {
		grown = false
		for _, m := range all {
			doc, _, err := parseManifest(m.MediaType, m.Raw)
			if err != nil || found[m.Digest] || m.Digest.Algorithm().FromBytes(m.Raw) != m.Digest {
				continue
			}
			leads := doc.Config != nil && doc.Config.Digest == id ||
				slices.ContainsFunc(doc.Manifests, func(d ocispec.Descriptor) bool { return found[d.Digest] })
			if leads {
				found[m.Digest], grown = true, true
				list = append(list, m)
			}
		}
	}
	return list
}

// Check explains which of the signatures that are kept cannot be read.
func (c *Client) Check() (bad []error) {
	files, err := filepath.Glob(filepath.Join(c.cfg.Dir, "signatures", "*.json"))
	if err != nil {
		return []error{err}
	}
	for _, file := range files {
		if _, err := readSignatures(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			bad = append(bad, err)
		}
	}
	return bad
}

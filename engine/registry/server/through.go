package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	ref "github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"gantry/engine/image"
	"gantry/internal/problem"
)

// Upstream is what a pull-through cache fetches from: other registries.
type Upstream interface {
	// FetchManifest fetches what a name with a tag or digest means, verified.
	// Errors: NotFound where its registry says so.
	FetchManifest(ctx context.Context, name ref.Named) (image.Manifest, error)
	// FetchBlob opens a blob of a repository; who reads it verifies it. size is
	// -1 where the registry does not say it.
	FetchBlob(ctx context.Context, name ref.Named, d digest.Digest) (body io.ReadCloser, size int64, err error)
}

// throughBucket holds what came from upstream: repository, digest of a manifest
// -> when it was last asked for, in seconds.
var throughBucket = []byte("through")

// What came from upstream is kept for throughLife after its last use, which is
// noted every throughNote.
const (
	throughLife = 7 * 24 * time.Hour
	throughNote = time.Hour
)

// upstreamName returns the name that a repository here has upstream, or nil
// where it is not fetched from there: HOST/NAME of one of the hosts, and of
// docker.io's also NAME alone.
func (c *call) upstreamName() ref.Named {
	if c.cfg.Upstream == nil {
		return nil
	}
	n, err := ref.ParseNormalizedNamed(c.repo)
	if err != nil || !ref.IsNameOnly(n) || !slices.Contains(c.cfg.PullThrough, ref.Domain(n)) {
		return nil
	}
	return n
}

// spaced returns the repository that a request is about: a client that was told
// to use this registry as a mirror of another one names that in the parameter
// ns.
func (c *call) spaced(repo string) string {
	if ns := c.r.URL.Query().Get("ns"); c.cfg.Upstream != nil && slices.Contains(c.cfg.PullThrough, ns) {
		return ns + "/" + repo
	}
	return repo
}

// refuseThrough refuses a push into a repository that is another registry's.
func (c *call) refuseThrough() error {
	n := c.upstreamName()
	if n == nil || !strings.HasPrefix(c.repo, ref.Domain(n)+"/") {
		return nil
	}
	return &refusal{status: http.StatusMethodNotAllowed, code: codeUnsupported, message: "the repository is a cache of " + ref.Domain(n)}
}

// throughManifest finds a manifest upstream, or, where upstream does not answer,
// in what came from there before. What was pushed here, and what the engine made
// under that name, is no concern of it.
func (c *call) throughManifest(want reference) (image.Manifest, error) {
	name := c.upstreamName()
	if name == nil {
		return image.Manifest{}, problem.New(problem.NotFound, "%s is not fetched from elsewhere", c.repo)
	}
	if m, ok, err := c.madeHere(name, want); ok || err != nil {
		return m, err
	}
	kept, kerr := c.store.manifest(c.repo, want)
	if kerr != nil && !errors.Is(kerr, problem.NotFound) {
		return kept, kerr
	}
	if kerr == nil && want.digest != "" {
		return kept, c.store.noteThrough(c.repo, kept.Digest, time.Now())
	}
	var err error
	if want.digest != "" {
		name, err = ref.WithDigest(name, want.digest)
	} else {
		name, err = ref.WithTag(name, want.tag)
	}
	if err != nil {
		return kept, problem.New(problem.NotFound, "%w", err)
	}
	m, err := c.cfg.Upstream.FetchManifest(c.r.Context(), name)
	if err == nil && (kerr != nil || m.Digest != kept.Digest) {
		return m, c.keepManifest(want.tag, m)
	}
	if err == nil {
		return m, c.store.noteThrough(c.repo, m.Digest, time.Now())
	}
	if kerr == nil && !errors.Is(err, problem.NotFound) && c.r.Context().Err() == nil {
		c.log.Warn("a registry does not answer; what came from it before is served", "image", name.String(), "err", err)
		warn(c.w.Header(), fmt.Sprintf("%s does not answer: this is what %s was before", ref.Domain(name), name))
		return kept, c.store.noteThrough(c.repo, kept.Digest, time.Now())
	}
	if !errors.Is(err, problem.NotFound) {
		c.log.Warn("a registry does not answer", "image", name.String(), "err", err)
		if m, err := c.engineManifest(want); !errors.Is(err, problem.NotFound) {
			return m, err
		}
		return kept, &refusal{status: http.StatusBadGateway, code: codeUnsupported, message: "the registry " + ref.Domain(name) + " does not answer"}
	}
	return kept, err
}

// madeHere finds a manifest of the engine that no registry need be asked about:
// by its digest, or by the tag of an image that never was in that repository.
func (c *call) madeHere(name ref.Named, want reference) (m image.Manifest, ok bool, err error) {
	_, tags, err := c.engineImages()
	if err != nil {
		return m, false, err
	}
	local := want.tag == ""
	for _, t := range tags {
		local = local || t.tag == want.tag && !slices.Contains(reposOf(t.img.RepoDigests), name.Name())
	}
	if !local {
		return m, false, nil
	}
	m, err = c.engineManifest(want)
	if errors.Is(err, problem.NotFound) {
		return m, false, nil
	}
	return m, err == nil, err
}

// keepManifest keeps what came from upstream, and drops what nobody has asked
// for since long.
func (c *call) keepManifest(tag string, m image.Manifest) error {
	doc, err := parseDocument(m.Raw)
	if err != nil {
		return err
	}
	now := time.Now()
	// The note is first: a manifest with it may lack its blobs.
	if err := c.store.noteThrough(c.repo, m.Digest, now); err != nil {
		return err
	}
	if err := c.store.putManifest(c.repo, tag, m, doc.referrer(m)); err != nil {
		return err
	}
	return c.store.dropThrough(c.r.Context(), now.Add(-throughLife))
}

// throughBlob answers with a blob from upstream, which is kept on its way if
// all of it was asked for. done is false where there is none.
func (c *call) throughBlob(d digest.Digest) (done bool, err error) {
	name := c.upstreamName()
	if name == nil {
		return false, nil
	}
	body, size, err := c.cfg.Upstream.FetchBlob(c.r.Context(), name, d)
	if errors.Is(err, problem.NotFound) {
		return false, nil
	}
	if err != nil {
		c.log.Warn("a registry does not answer", "image", name.String(), "digest", d, "err", err)
		return true, &refusal{status: http.StatusBadGateway, code: codeUnsupported, message: "the registry " + ref.Domain(name) + " does not answer"}
	}
	defer body.Close()
	c.blobHeader(d)
	if size >= 0 {
		c.w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	}
	c.w.WriteHeader(http.StatusOK)
	if c.r.Method == http.MethodHead {
		return true, nil
	}
	if err := c.keepBlob(d, body); err != nil {
		c.log.Warn("a blob from another registry broke off", "image", name.String(), "digest", d, "err", err)
		panic(http.ErrAbortHandler) // so that the client does not take it for all
	}
	return true, nil
}

// keepBlob sends a blob to the client and keeps it.
func (c *call) keepBlob(d digest.Digest, body io.Reader) (err error) {
	w, err := c.cfg.Images.NewBlob(d.Algorithm())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if _, err := io.Copy(io.MultiWriter(struct{ io.Writer }{w}, c.w), body); err != nil {
		return err
	}
	if got := w.Digest(); got != d {
		return problem.New(problem.Invalid, "blob %s has digest %s", d, got)
	}
	// Lazy: it can be fetched again.
	if err := w.Commit(c.r.Context(), lease, d, "", image.Lazy); err != nil {
		return err
	}
	return c.store.addBlobs(c.repo, d)
}

// isThrough tells whether a manifest came from upstream.
func isThrough(tx *bolt.Tx, repo, d string) bool {
	return tx.Bucket(throughBucket).Get(key(repo, d)) != nil
}

// ownManifest is manifest of what was pushed here.
func (s *store) ownManifest(repo string, want reference) (image.Manifest, error) {
	m, err := s.manifest(repo, want)
	if err != nil {
		return m, err
	}
	err = s.db.View(func(tx *bolt.Tx) error {
		if isThrough(tx, repo, string(m.Digest)) {
			return problem.New(problem.NotFound, "manifest %s came from another registry", m.Digest)
		}
		return nil
	})
	return m, err
}

// noteThrough notes that a manifest that came from upstream was asked for.
func (s *store) noteThrough(repo string, d digest.Digest, now time.Time) error {
	k := key(repo, string(d))
	recent := false
	_ = s.db.View(func(tx *bolt.Tx) error { // it cannot fail
		recent = noted(tx.Bucket(throughBucket).Get(k)).After(now.Add(-throughNote))
		return nil
	})
	if recent {
		return nil
	}
	return s.db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket(throughBucket).Put(k, []byte(strconv.FormatInt(now.Unix(), 10)))
	})
}

// forgetThrough makes a manifest from upstream one that was pushed here.
func (s *store) forgetThrough(repo string, d digest.Digest) error {
	through := false
	_ = s.db.View(func(tx *bolt.Tx) error { // it cannot fail
		through = isThrough(tx, repo, string(d))
		return nil
	})
	if !through {
		return nil
	}
	return s.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(throughBucket).Delete(key(repo, string(d))) })
}

func noted(v []byte) time.Time {
	n, err := strconv.ParseInt(string(v), 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.Unix(n, 0)
}

// dropThrough removes the manifests from upstream that nobody has asked for
// since before.
func (s *store) dropThrough(ctx context.Context, before time.Time) error {
	var old [][2]string
	_ = s.db.View(func(tx *bolt.Tx) error { // it cannot fail
		return tx.Bucket(throughBucket).ForEach(func(k, v []byte) error {
			if noted(v).Before(before) {
				repo, d, _ := strings.Cut(string(k), "\x00")
				old = append(old, [2]string{repo, d})
			}
			return nil
		})
	})
	for _, o := range old {
		if err := s.removeManifest(ctx, o[0], digest.Digest(o[1])); err != nil && !errors.Is(err, problem.NotFound) {
			return err
		}
		if err := s.forgetThrough(o[0], digest.Digest(o[1])); err != nil {
			return err
		}
	}
	return nil
}

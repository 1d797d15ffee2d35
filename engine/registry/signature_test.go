package registry

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/engine/image"
	"gantry/internal/problem"
)

// signer is a key and the file of its public half.
type signer struct {
	key  crypto.Signer
	file string
}

func newSigner(t testing.TB, kind string) signer {
	t.Helper()
	var key crypto.Signer
	var err error
	switch kind {
	case "ecdsa":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "rsa":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), kind+".pub")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return signer{key, file}
}

// sign returns a payload about a digest and its signature, as cosign makes them.
func (s signer) sign(t testing.TB, d digest.Digest) (payload, signature []byte) {
	t.Helper()
	payload = fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":""},"image":{"docker-manifest-digest":"%s"},"type":"cosign container image signature"},"optional":null}`, d)
	sum, opts := sha256.Sum256(payload), crypto.SHA256
	message := sum[:]
	if _, ok := s.key.(ed25519.PrivateKey); ok {
		message, opts = payload, crypto.Hash(0)
	}
	signature, err := s.key.Sign(rand.Reader, message, opts)
	if err != nil {
		t.Fatal(err)
	}
	return payload, signature
}

// signature puts a signature of a manifest into the registry, under a tag.
func (f *far) signature(name, tag string, payload, signature []byte) image.Manifest {
	f.t.Helper()
	config := []byte("{}")
	return f.put(name, tag, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: f.add(config), Size: int64(len(config))},
		Layers: []ocispec.Descriptor{{
			MediaType: signaturePayload, Digest: f.add(payload), Size: int64(len(payload)),
			Annotations: map[string]string{signatureAnnotation: base64.StdEncoding.EncodeToString(signature)},
		}},
	})
}

// signedBy returns a policy that wants the images of a host to be signed.
func signedBy(t testing.TB, host string, keys ...signer) *Policy {
	t.Helper()
	var names []string
	for _, k := range keys {
		names = append(names, k.file)
	}
	list, err := json.Marshal(names)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, "rules:\n- images: [\"%s/open/*\"]\n- images: [\"%s/*\"]\n  keys: %s\n", host, host, list), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := ReadPolicy(file)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func box(t testing.TB, f *far, name string) image.Manifest {
	t.Helper()
	return f.image(name, "1", ocispec.MediaTypeImageManifest, amd64, gzipped(t, archive(t, map[string]string{"a": name})))
}

func TestUnsignedImagesAreRefused(t *testing.T) {
	f := newFar(t)
	ours, other := newSigner(t, "ecdsa"), newSigner(t, "ecdsa")
	c := newClient(t, Config{Policy: signedBy(t, f.host(), ours), Dir: t.TempDir()})
	refused := func(name, why string) {
		t.Helper()
		_, err := c.Pull(t.Context(), PullRequest{Ref: parseRef(t, f.host()+"/"+name+":1")}, nil)
		if !errors.Is(err, problem.Denied) {
			t.Errorf("%s: got %v", why, err)
		}
		if list, err := c.cfg.Images.List(t.Context()); err != nil || len(list) > 0 {
			t.Errorf("%s: left %v, %v", why, list, err)
		}
	}
	m := box(t, f, "web")
	blobs := f.count("GET /v2/web/blobs/")
	refused("web", "without a signature")
	if f.count("GET /v2/web/blobs/") != blobs {
		t.Error("layers were fetched before the signature")
	}
	tag := tagOf(m.Digest) + ".sig"
	payload, signature := other.sign(t, m.Digest)
	f.signature("web", tag, payload, signature)
	refused("web", "signed by another key")
	payload, signature = ours.sign(t, digest.FromString("other"))
	f.signature("web", tag, payload, signature)
	refused("web", "a signature of another image")
	payload, _ = ours.sign(t, m.Digest)
	f.signature("web", tag, payload, signature)
	refused("web", "a signature of another payload")
	f.signature("web", tag, []byte("{"), signature)
	refused("web", "a payload that is none")

	payload, signature = ours.sign(t, m.Digest)
	f.signature("web", tag, payload, signature)
	img, _ := mustPull(t, c, f.host()+"/web:1")
	if err := c.Allowed(t.Context(), img, f.host()+"/web:1"); err != nil {
		t.Errorf("a signed image: %v", err)
	}
	if err := errors.Join(c.Check()...); err != nil {
		t.Error(err)
	}
	box(t, f, "open/web")
	mustPull(t, c, f.host()+"/open/web:1")
}

func TestASignedImageStaysAllowedWithoutItsRegistry(t *testing.T) {
	f := newFar(t)
	ours := newSigner(t, "ecdsa")
	dir := t.TempDir()
	c := newClient(t, Config{Policy: signedBy(t, f.host(), ours), Dir: dir})
	m := box(t, f, "web")
	payload, signature := ours.sign(t, m.Digest)
	f.signature("web", tagOf(m.Digest)+".sig", payload, signature)
	img, _ := mustPull(t, c, f.host()+"/web:1")
	f.Close()
	for _, ref := range []string{f.host() + "/web:1", img.ID.String(), img.ID.Encoded()[:12], f.host() + "/web@" + m.Digest.String()} {
		if err := c.Allowed(t.Context(), img, ref); err != nil {
			t.Errorf("%s: %v", ref, err)
		}
	}
	// Another key, or no signature any more: what is here is judged anew.
	for why, cfg := range map[string]Config{
		"another key":  {Policy: signedBy(t, f.host(), newSigner(t, "ecdsa")), Dir: dir},
		"no signature": {Policy: signedBy(t, f.host(), ours), Dir: t.TempDir()},
	} {
		cfg.Images = c.cfg.Images
		again, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		for _, ref := range []string{f.host() + "/web:1", img.ID.Encoded()[:12]} {
			if err := again.Allowed(t.Context(), img, ref); !errors.Is(err, problem.Denied) {
				t.Errorf("%s, by %s: %v", why, ref, err)
			}
		}
	}
}

func TestSignaturesOfEachKindAndPlace(t *testing.T) {
	for _, kind := range []string{"ecdsa", "rsa", "ed25519"} {
		for _, place := range []string{"tag", "referrers", "referrers tag"} {
			t.Run(kind+" by "+place, func(t *testing.T) {
				f := newFar(t)
				key := newSigner(t, kind)
				c := newClient(t, Config{Policy: signedBy(t, f.host(), newSigner(t, "ecdsa"), key), Dir: t.TempDir()})
				m := box(t, f, "web")
				payload, signature := key.sign(t, m.Digest)
				if place == "tag" {
					f.signature("web", tagOf(m.Digest)+".sig", payload, signature)
				} else {
					s := f.signature("web", "", payload, signature)
					index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{
						{MediaType: s.MediaType, Digest: s.Digest, Size: int64(len(s.Raw)), ArtifactType: signatureArtifact},
					}}
					if place == "referrers tag" {
						f.put("web", tagOf(m.Digest), ocispec.MediaTypeImageIndex, index)
					} else {
						f.before = func(w http.ResponseWriter, r *http.Request) bool {
							if r.URL.Path != "/v2/web/referrers/"+m.Digest.String() {
								return false
							}
							_ = json.NewEncoder(w).Encode(index)
							return true
						}
					}
				}
				mustPull(t, c, f.host()+"/web:1")
			})
		}
	}
}

func TestTheIndexOrItsPartMayBeSigned(t *testing.T) {
	for _, which := range []string{"index", "manifest"} {
		t.Run(which, func(t *testing.T) {
			f := newFar(t)
			key := newSigner(t, "ecdsa")
			c := newClient(t, Config{Policy: signedBy(t, f.host(), key), Dir: t.TempDir()})
			part := box(t, f, "web")
			index := f.put("web", "all", ocispec.MediaTypeImageIndex, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
				Manifests: []ocispec.Descriptor{{MediaType: part.MediaType, Digest: part.Digest, Size: int64(len(part.Raw)), Platform: &amd64}}})
			d := index.Digest
			if which == "manifest" {
				d = part.Digest
			}
			payload, signature := key.sign(t, d)
			f.signature("web", tagOf(d)+".sig", payload, signature)
			img, _ := mustPull(t, c, f.host()+"/web:all")
			if err := c.Allowed(t.Context(), img, f.host()+"/web:all"); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestPolicyRules(t *testing.T) {
	key := newSigner(t, "ed25519")
	text, err := os.ReadFile(key.file)
	if err != nil {
		t.Fatal(err)
	}
	read := func(name string) ([]byte, error) {
		if name == "bad.pub" {
			return []byte("no key"), nil
		}
		return text, nil
	}
	p, err := parsePolicy([]byte(`{rules: [{images: [docker.io/library/busybox]}, {images: ["docker.io/*", "r.example:5000/team/*"], keys: [a.pub]}, {images: ["*"], refuse: true}]}`), read)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"docker.io/library/busybox": "open", "docker.io/library/web": "key", "docker.io/a/b": "key", "r.example:5000/team/web": "key",
		"r.example:5000/teams/web": "refuse", "r.example/team/web": "refuse", "": "refuse",
	} {
		r, asks := p.ruleFor(name)
		got := "open"
		if asks && r.refuse {
			got = "refuse"
		} else if asks {
			got = "key"
		}
		if got != want {
			t.Errorf("%q: %s, want %s", name, got, want)
		}
	}
	if _, asks := (*Policy)(nil).ruleFor("docker.io/library/busybox"); asks {
		t.Error("without a policy something is asked for")
	}
	for _, bad := range []string{"{", "rules: [{keys: [a.pub]}]", "rules: [{images: [busybox], keys: [a.pub]}]", "rules: [{images: ['team/*']}]", "rules: [{images: ['a.b/*/c']}]",
		"rules: [{images: ['*'], key: a.pub}]", "rules: [{images: ['*'], keys: [bad.pub]}]", "rules: [{images: ['*'], keys: [a.pub], refuse: true}]"} {
		if _, err := parsePolicy([]byte(bad), read); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
	if _, err := New(Config{Images: new(image.Store), Policy: p}); err == nil {
		t.Error("a policy without a directory was taken")
	}
}

func FuzzPolicy(f *testing.F) {
	f.Add([]byte(`{rules: [{images: [docker.io/library/busybox]}, {images: ["*"], refuse: true}]}`))
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = parsePolicy(b, func(string) ([]byte, error) { return nil, errors.New("none") })
	})
}

func FuzzSignature(f *testing.F) {
	f.Add([]byte(`{"critical":{"image":{"docker-manifest-digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"},"type":"cosign container image signature"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if d, err := (signature{Payload: b}).says(); err == nil && !strings.Contains(d.String(), ":") {
			t.Errorf("%q says %q", b, d)
		}
	})
}

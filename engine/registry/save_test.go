package registry

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/engine/image"
	"gantry/internal/testenv"
)

// carry saves an image of one store and loads it into another.
func carry(t *testing.T, from, to *Client, name string) image.Image {
	t.Helper()
	var saved bytes.Buffer
	if err := from.cfg.Images.Save(t.Context(), &saved, []string{name}); err != nil {
		t.Fatal(err)
	}
	images, err := to.cfg.Images.Load(t.Context(), &saved, nil)
	if err != nil || len(images) != 1 {
		t.Fatalf("load: %v, %v", images, err)
	}
	return images[0]
}

func TestWhatIsSavedAndLoadedIsPushedAsItWasPulled(t *testing.T) {
	annotated := func(f *far, tag string, m image.Manifest) image.Manifest {
		var doc ocispec.Manifest
		decode(t, m.Raw, &doc)
		doc.Annotations = map[string]string{"org.example.from": "far away"}
		return f.put("web", tag, m.MediaType, doc)
	}
	for name, kind := range map[string]string{"OCI": ocispec.MediaTypeImageManifest, "Docker": dockerManifest} {
		t.Run(name, func(t *testing.T) {
			f, to := newFar(t), newOurs(t, "")
			m := f.image("web", "", kind, amd64, gzipped(t, archive(t, map[string]string{"a": noise(5000, 1)})), gzipped(t, archive(t, map[string]string{"b": "b"})))
			m = annotated(f, "1", m)
			one, two := newClient(t, Config{}), newClient(t, Config{})
			mustPull(t, one, f.host()+"/web:1")
			img := carry(t, one, two, f.host()+"/web:1")
			ref := to.tag(t, two, img, "web:1")
			mustPush(t, two, ref)
			if got := digestOf(t, two, ref); got != m.Digest {
				t.Errorf("%s was pushed, %s was pulled", got, m.Digest)
			}
			// What a removal leaves of it is found by the store's check.
			if _, err := one.cfg.Images.Remove(t.Context(), img.ID.String(), image.RemoveOptions{Force: true}); err != nil {
				t.Fatal(err)
			}
			if again := carry(t, two, one, ref); again.ID != img.ID {
				t.Errorf("carried back: %s, was %s", again.ID, img.ID)
			}
			list, err := one.cfg.Images.Manifests(t.Context(), img.ID)
			if err != nil || len(list) != 1 || list[0].Digest != m.Digest || !bytes.Equal(list[0].Raw, m.Raw) || list[0].MediaType != kind {
				t.Errorf("manifests of what was carried back: %v, %v", list, err)
			}
		})
	}
}

func TestAnIndexIsSavedWithThePartsThatAreHere(t *testing.T) {
	f, to := newFar(t), newOurs(t, "")
	index, parts := twoPlatforms(t, f)
	one, two, three := newClient(t, Config{}), newClient(t, Config{}), newClient(t, Config{})
	pull := func(cpu string) {
		t.Helper()
		p := ocispec.Platform{OS: "linux", Architecture: cpu}
		if _, err := one.Pull(t.Context(), PullRequest{Ref: parseRef(t, f.host()+"/web:1"), Platform: &p}, nil); err != nil {
			t.Fatal(err)
		}
	}
	pull("amd64")
	img := carry(t, one, two, f.host()+"/web:1")
	list, err := two.cfg.Images.Manifests(t.Context(), img.ID)
	if err != nil || len(list) != 2 || list[0].Digest != index.Digest || list[1].Digest != parts["amd64"].Digest {
		t.Errorf("manifests with one part: %v, %v", list, err)
	}
	ref := to.tag(t, two, img, "one:1")
	mustPush(t, two, ref)
	if got := digestOf(t, two, ref); got != parts["amd64"].Digest {
		t.Errorf("with one part here: %s, want that part", got)
	}
	pull("arm64")
	pull("amd64") // has the name again
	img = carry(t, one, three, f.host()+"/web:1")
	ref = to.tag(t, three, img, "all:1")
	mustPush(t, three, ref)
	if got := digestOf(t, three, ref); got != index.Digest {
		t.Errorf("with all parts here: %s, want the index %s", got, index.Digest)
	}
	all, err := three.cfg.Images.List(t.Context())
	if err != nil || len(all) != 2 {
		t.Errorf("images: %v, %v", all, err)
	}
}

// attested is an OCI layout of an index of an image and an attestation of it.
func attested(t *testing.T) (archived []byte, index image.Manifest) {
	t.Helper()
	blobs := map[string]string{}
	put := func(kind string, b []byte) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: kind, Digest: digest.FromBytes(b), Size: int64(len(b))}
		blobs["blobs/sha256/"+d.Digest.Encoded()] = string(b)
		return d
	}
	l := gzipped(t, archive(t, map[string]string{"a": noise(5000, 2)}))
	config := image.Spec{}
	config.Platform = amd64
	config.RootFS.Type, config.RootFS.DiffIDs = "layers", []digest.Digest{l.diffID}
	v2 := specs.Versioned{SchemaVersion: 2}
	part := put(ocispec.MediaTypeImageManifest, encode(t, ocispec.Manifest{Versioned: v2, MediaType: ocispec.MediaTypeImageManifest,
		Config: put(ocispec.MediaTypeImageConfig, encode(t, config)), Layers: []ocispec.Descriptor{put(l.kind, l.packed)}}))
	part.Platform = &amd64
	said := put(ocispec.MediaTypeImageManifest, encode(t, ocispec.Manifest{Versioned: v2, MediaType: ocispec.MediaTypeImageManifest,
		Config: put(ocispec.MediaTypeImageConfig, []byte(`{"architecture":"unknown","os":"unknown"}`)),
		Layers: []ocispec.Descriptor{put("application/vnd.in-toto+json", []byte(`{"predicate":{}}`)), put("application/x-note", []byte("not JSON, and no layer"))}}))
	said.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	said.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": part.Digest.String()}
	raw := encode(t, ocispec.Index{Versioned: v2, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{part, said},
		Annotations: map[string]string{"org.example.made": "by hand"}})
	top := put(ocispec.MediaTypeImageIndex, raw)
	top.Annotations = map[string]string{ocispec.AnnotationRefName: "example.org/web:1"}
	blobs["index.json"] = string(encode(t, ocispec.Index{Versioned: v2, Manifests: []ocispec.Descriptor{top}}))
	blobs["oci-layout"] = `{"imageLayoutVersion":"1.0.0"}`
	return archive(t, blobs), image.NewManifest(ocispec.MediaTypeImageIndex, raw)
}

func TestAttestationsAreCarriedAlong(t *testing.T) {
	archived, index := attested(t)
	one, two, to := newClient(t, Config{}), newClient(t, Config{}), newOurs(t, "")
	if _, err := one.cfg.Images.Load(t.Context(), bytes.NewReader(archived), nil); err != nil {
		t.Fatal(err)
	}
	img := carry(t, one, two, "example.org/web:1")
	for _, c := range []*Client{one, two} {
		ref := to.tag(t, c, img, "web:1")
		mustPush(t, c, ref)
		if got := digestOf(t, c, ref); got != index.Digest {
			t.Errorf("%s was pushed, want the index %s", got, index.Digest)
		}
	}
	if _, err := two.cfg.Images.Remove(t.Context(), img.ID.String(), image.RemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	if u, err := two.cfg.Images.Usage(t.Context()); err != nil || len(u.Blobs) != 0 {
		t.Errorf("blobs left without the image: %v, %v", u.Blobs, err)
	}
}

// TestSkopeoReadsAndWritesWhatIsSaved copies a saved image to a registry and back
// with another program: its manifest stays the same.
func TestSkopeoReadsAndWritesWhatIsSaved(t *testing.T) {
	program := testenv.NeedCommand(t, "skopeo")
	f, to := newFar(t), newOurs(t, "")
	m := f.image("web", "1", ocispec.MediaTypeImageManifest, amd64, gzipped(t, archive(t, map[string]string{"a": noise(5000, 3)})))
	one, two := newClient(t, Config{}), newClient(t, Config{})
	mustPull(t, one, f.host()+"/web:1")
	dir := t.TempDir()
	first, second := filepath.Join(dir, "first.tar"), filepath.Join(dir, "second.tar")
	var saved bytes.Buffer
	if err := one.cfg.Images.Save(t.Context(), &saved, []string{f.host() + "/web:1"}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(first, saved.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	copyTo := func(args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program, append([]string{"--insecure-policy", "--tmpdir", dir, "copy"}, args...)...)
		cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_RUNTIME_DIR="+dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("skopeo copy %v: %v\n%s", args, err, out)
		}
	}
	copyTo("--dest-tls-verify=false", "oci-archive:"+first, "docker://"+to.host()+"/web:1")
	if got := digestOf(t, one, to.host()+"/web:1"); got != m.Digest {
		t.Errorf("skopeo pushed %s, %s was pulled", got, m.Digest)
	}
	copyTo("docker-archive:"+first, "oci:"+filepath.Join(dir, "layout")+":1") // as Docker's own archive, too
	copyTo("--src-tls-verify=false", "docker://"+to.host()+"/web:1", "oci-archive:"+second+":example.org/web:1")
	b, err := os.ReadFile(second)
	if err != nil {
		t.Fatal(err)
	}
	images, err := two.cfg.Images.Load(t.Context(), bytes.NewReader(b), nil)
	if err != nil || len(images) != 1 {
		t.Fatalf("load: %v, %v", images, err)
	}
	ref := to.tag(t, two, images[0], "again:1")
	mustPush(t, two, ref)
	if got := digestOf(t, two, ref); got != m.Digest {
		t.Errorf("%s was pushed of what skopeo wrote, %s was pulled", got, m.Digest)
	}
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func decode(t *testing.T, b []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}

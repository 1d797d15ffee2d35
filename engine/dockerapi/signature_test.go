package dockerapi_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// send sends a request to a registry, which must answer with a status, and
// returns the Location.
func send(t testing.TB, status int, method, url, kind string, body []byte) string {
	t.Helper()
	req, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode != status {
		t.Fatalf("%s %s: %d, want %d: %s", method, url, resp.StatusCode, status, text)
	}
	return resp.Header.Get("Location")
}

// pushSignature signs a manifest on a registry as cosign does.
func pushSignature(t testing.TB, key *ecdsa.PrivateKey, far, repo, manifest string) {
	t.Helper()
	payload := fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":"%s/%s"},"image":{"docker-manifest-digest":"%s"},"type":"cosign container image signature"},"optional":null}`, far, repo, manifest)
	sum := sha256.Sum256(payload)
	signature, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	config := []byte("{}")
	base := "http://" + far + "/v2/" + repo
	for _, blob := range [][]byte{payload, config} {
		at := send(t, 202, "POST", base+"/blobs/uploads/", "", nil)
		sign := "?"
		if strings.Contains(at, "?") {
			sign = "&"
		}
		send(t, 201, "PUT", at+sign+"digest="+digest.FromBytes(blob).String(), "application/octet-stream", blob)
	}
	const kind = "application/vnd.oci.image.manifest.v1+json"
	m := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"%s","size":2},"layers":[`+
		`{"mediaType":"application/vnd.dev.cosign.simplesigning.v1+json","digest":"%s","size":%d,"annotations":{"dev.cosignproject.cosign/signature":"%s"}}]}`,
		kind, digest.FromBytes(config), digest.FromBytes(payload), len(payload), base64.StdEncoding.EncodeToString(signature))
	send(t, 201, "PUT", base+"/manifests/"+strings.Replace(manifest, ":", "-", 1)+".sig", kind, m)
}

func TestUnsignedImagesAreRefusedForPullRunAndFrom(t *testing.T) {
	d := newDaemon(t)
	far := farRegistry(t, "")
	digests := map[string]string{}
	for _, name := range []string{"/signed", "/plain", "/loaded"} {
		d.do("tag", "busybox", far+name+":1")
		digests[name] = regexp.MustCompile(`sha256:[0-9a-f]{64}`).FindString(d.do("push", far+name+":1"))
	}
	d.do("rmi", far+"/signed:1", far+"/plain:1")

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("key.pub", string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
	write("policy.yaml", fmt.Sprintf("rules:\n- images: [\"%s/*\"]\n  keys: [key.pub]\n", far))
	d.Instance.SignaturePolicy = filepath.Join(dir, "policy.yaml")
	d.server.Close()
	d.Restart(t)
	d.serve()

	const words = "signature policy: image "
	write("Dockerfile", "FROM "+far+"/plain:1\n")
	for _, args := range [][]string{
		{"pull", far + "/plain:1"},
		{"run", "--rm", far + "/plain:1", "true"},
		{"build", "-t", "made", dir},
		{"run", "--rm", far + "/loaded:1", "true"}, // it is here already
	} {
		if got := d.try(args...); got.code == 0 || !strings.Contains(got.err+got.out, words) {
			t.Errorf("docker %v: %+v", args, got)
		}
	}
	d.do("rmi", far+"/loaded:1") // busybox itself is no image of that registry
	d.do("rmi", "busybox")

	pushSignature(t, key, far, "signed", digests["/signed"])
	write("Dockerfile", "FROM "+far+"/signed:1\nRUN echo built > /made\n")
	d.do("build", "-t", "made", dir)
	if got := d.do("run", "--rm", far+"/signed:1", "echo", "ran"); !strings.HasSuffix(got, "ran") {
		t.Errorf("got %q", got)
	}
	if got := d.do("run", "--rm", "made", "cat", "/made"); got != "built" {
		t.Errorf("got %q", got)
	}
}

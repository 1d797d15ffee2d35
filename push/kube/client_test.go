package kube

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"math/big"

	"gantry/internal/problem"
)

// open serves h over TLS and returns a client that a kubeconfig points there.
func open(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewTLSServer(h)
	t.Cleanup(server.Close)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{SerialNumber: big.NewInt(1)}, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	inline := func(kind string, data []byte) string {
		return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}))
	}
	config := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: here
contexts:
- {name: there, context: {cluster: b, user: u}}
- {name: here, context: {cluster: a, user: u}}
clusters:
- {name: b, cluster: {server: "https://nowhere"}}
- {name: a, cluster: {server: "%s", certificate-authority-data: %s}}
users:
- {name: u, user: {client-certificate-data: %s, client-key-data: %s}}
`, server.URL, inline("CERTIFICATE", server.Certificate().Raw), inline("CERTIFICATE", der), inline("EC PRIVATE KEY", keyDER))
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestApplyIsServerSide(t *testing.T) {
	c := open(t, func(w http.ResponseWriter, r *http.Request) {
		var d Deployment
		err := json.NewDecoder(r.Body).Decode(&d)
		if err != nil || r.Method != http.MethodPatch || r.Header.Get("Content-Type") != "application/apply-patch+yaml" ||
			r.FormValue("fieldManager") != "me" || r.FormValue("force") != "true" || d.Metadata.Name != "web" {
			t.Errorf("%s %s: %+v, %v", r.Method, r.URL, d, err)
		}
		d.Metadata.ResourceVersion = "5"
		_ = json.NewEncoder(w).Encode(d)
	})
	var after Deployment
	err := c.Apply(t.Context(), Deployments.Object("default", "web"), "me", Deployment{Metadata: Meta{Name: "web"}}, &after)
	if err != nil || after.Metadata.ResourceVersion != "5" {
		t.Errorf("%+v, %v", after, err)
	}
}

func TestWatchEndsByItsReason(t *testing.T) {
	c := open(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, `{"type":"ADDED","object":{"metadata":{"name":"a"}}}`, "\n", `{"type":"BOOKMARK","object":{}}`, "\n")
		if r.FormValue("fail") == "yes" {
			fmt.Fprint(w, `{"type":"ERROR","object":{"code":410,"message":"too old"}}`, "\n")
		}
	})
	seen := 0
	if err := c.Watch(t.Context(), "/x?y=z", func(Event) error { seen++; return nil }); err != nil || seen != 1 {
		t.Errorf("the server's end: %v after %d events", err, seen)
	}
	if err := c.Watch(t.Context(), "/x?fail=yes", func(Event) error { return nil }); err == nil || err.Error() != "too old" {
		t.Errorf("an error event: %v", err)
	}
	stop := errors.New("enough")
	if err := c.Watch(t.Context(), "/x", func(Event) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the callback's end: %v", err)
	}
}

func TestRefusalsCarryTheServersWords(t *testing.T) {
	c := open(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"kind":"Status","reason":"NotFound","message":"pods \"a\" not found","code":404}`)
	})
	err := c.Get(t.Context(), "/x", nil)
	if !errors.Is(err, problem.NotFound) || err.Error() != `pods "a" not found` {
		t.Errorf("got %v", err)
	}
}

func TestOpenTellsWhatIsMissing(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(filepath.Join(dir, "none")); !errors.Is(err, problem.Unavailable) {
		t.Errorf("no file: %v", err)
	}
	path := filepath.Join(dir, "empty")
	if err := os.WriteFile(path, []byte("current-context: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); !errors.Is(err, problem.Invalid) {
		t.Errorf("no cluster: %v", err)
	}
}

func TestPathsOfCollections(t *testing.T) {
	if got, want := Pods.Selected("default", map[string]string{"b": "2", "a": "1"}), "/api/v1/namespaces/default/pods?labelSelector=a%3D1%2Cb%3D2"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

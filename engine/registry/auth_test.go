package registry

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// tokens is a token server: ann with the password secret, or the refresh token
// refresh, may pull and push; anybody may pull from public.
type tokens struct {
	*httptest.Server
	mu    sync.Mutex
	asked []url.Values
	valid map[string]string // token to scopes
}

func newTokens(t testing.TB) *tokens {
	s := &tokens{valid: map[string]string{}}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

func (s *tokens) serve(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm() // what cannot be read is not there
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, r.Form)
	name, password, basic := r.BasicAuth()
	known := basic && name == "ann" && password == "secret" || r.Form.Get("refresh_token") == "refresh"
	if basic && !known {
		w.WriteHeader(http.StatusUnauthorized)
		_ = json.NewEncoder(w).Encode(map[string]string{"details": "incorrect username or password"})
		return
	}
	scopes := strings.Join(r.Form["scope"], " ")
	if !known && !strings.Contains(scopes, ":public:pull") {
		scopes = ""
	}
	token := fmt.Sprintf("token%d", len(s.valid))
	s.valid[token] = scopes
	_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "expires_in": 300})
}

// guard makes a registry ask for the server's tokens.
func (s *tokens) guard(f *far) {
	f.before = func(w http.ResponseWriter, r *http.Request) bool {
		name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/")
		s.mu.Lock()
		scopes, ok := s.valid[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
		s.mu.Unlock()
		if ok && (name == "" || strings.Contains(scopes, "repository:"+name+":pull")) {
			return false
		}
		challenge := fmt.Sprintf(`Bearer realm="%s/token",service="far"`, s.URL)
		if ok {
			challenge += `,error="insufficient_scope"`
		}
		w.Header().Set("WWW-Authenticate", challenge)
		refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
		return true
	}
}

func TestBearerTokens(t *testing.T) {
	f, s := newFar(t), newTokens(t)
	s.guard(f)
	for _, name := range []string{"public", "private"} {
		f.image(name, "1", ocispec.MediaTypeImageManifest, amd64, gzipped(t, archive(t, map[string]string{"a": name})), gzipped(t, archive(t, map[string]string{"b": name})))
	}
	for name, c := range map[string]struct {
		repo  string
		creds Credentials
		fails string
	}{
		"anonymous":             {"public", Credentials{}, ""},
		"anonymous, forbidden":  {"private", Credentials{}, "pull access denied for " + f.host() + "/private, repository does not exist or may require 'docker login': denied: requested access to the resource is denied"},
		"password":              {"private", Credentials{Username: "ann", Password: "secret"}, ""},
		"wrong password":        {"private", Credentials{Username: "ann", Password: "x"}, "unauthorized: incorrect username or password"},
		"identity token":        {"private", Credentials{IdentityToken: "refresh"}, ""},
		"wrong registry token":  {"private", Credentials{RegistryToken: "x"}, "unauthorized: authentication required"},
		"a password is no need": {"public", Credentials{Username: "ann", Password: "secret"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			cl := newClient(t, Config{})
			_, err := cl.Pull(t.Context(), PullRequest{Ref: parseRef(t, f.host()+"/"+c.repo+":1"), Credentials: c.creds}, nil)
			if c.fails == "" && err != nil || c.fails != "" && (err == nil || err.Error() != c.fails) {
				t.Errorf("got %v, want %q", err, c.fails)
			}
		})
	}
}

func TestATokenIsFetchedOncePerPull(t *testing.T) {
	f, s := newFar(t), newTokens(t)
	s.guard(f)
	f.image("public", "1", ocispec.MediaTypeImageManifest, amd64,
		gzipped(t, archive(t, map[string]string{"a": "1"})), gzipped(t, archive(t, map[string]string{"b": "2"})), gzipped(t, archive(t, map[string]string{"c": "3"})))
	mustPull(t, newClient(t, Config{}), f.host()+"/public:1")
	if len(s.asked) != 1 {
		t.Errorf("asked %d times", len(s.asked))
	}
	want := url.Values{"service": {"far"}, "scope": {"repository:public:pull"}}
	if diff := cmp.Diff(want, s.asked[0]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestLoginAsksTheRegistry(t *testing.T) {
	f, s := newFar(t), newTokens(t)
	s.guard(f)
	c := newClient(t, Config{})
	if err := c.Login(t.Context(), f.host(), Credentials{Username: "ann", Password: "secret"}); err != nil {
		t.Error(err)
	}
	err := c.Login(t.Context(), f.host(), Credentials{Username: "ann", Password: "x"})
	if !errors.Is(err, ErrUnauthorized) || !strings.HasSuffix(err.Error(), "unauthorized: incorrect username or password") {
		t.Errorf("got %v", err)
	}
}

func TestCredentialsAreNotSentInPlainText(t *testing.T) {
	c := newClient(t, Config{})
	a := &authorizer{client: c, creds: Credentials{Username: "ann", Password: "secret"}}
	_, err := a.fetch(t.Context(), must(url.Parse("https://registry.example/v2/")), challenge{scheme: "bearer", params: map[string]string{"realm": "http://registry.example/token"}}, nil)
	if err == nil || !strings.Contains(err.Error(), "plain text") {
		t.Errorf("got %v", err)
	}
	for _, realm := range []string{"", "file:///etc/passwd", "::", "//host/x"} {
		if _, err := a.fetch(t.Context(), must(url.Parse("http://127.0.0.1/v2/")), challenge{params: map[string]string{"realm": realm}}, nil); err == nil {
			t.Errorf("realm %q was asked", realm)
		}
	}
}

func TestMirrorsGetNoCredentials(t *testing.T) {
	upstream, mirror := newFar(t), newFar(t)
	mirror.before = func(_ http.ResponseWriter, r *http.Request) bool {
		if h := r.Header.Get("Authorization"); h != "" {
			t.Errorf("the mirror got %q", h)
		}
		return false
	}
	mirror.image("web", "1", ocispec.MediaTypeImageManifest, amd64, gzipped(t, archive(t, map[string]string{"a": "x"})))
	c := newClient(t, Config{Mirrors: map[string][]string{upstream.host(): {mirror.URL}}})
	_, err := c.Pull(t.Context(), PullRequest{Ref: parseRef(t, upstream.host()+"/web:1"), Credentials: Credentials{Username: "ann", Password: "secret", RegistryToken: "x"}}, nil)
	_ = err // upstream's token is not the mirror's; what matters is above
}

func TestTrustDirectories(t *testing.T) {
	f := newFar(t)
	f.image("web", "1", ocispec.MediaTypeImageManifest, amd64, gzipped(t, archive(t, map[string]string{"a": "x"})))
	secure := httptest.NewTLSServer(f)
	defer secure.Close()
	host := strings.TrimPrefix(secure.URL, "https://")
	dir := t.TempDir()
	c := newClient(t, Config{CertDirs: []string{dir}})
	pem := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})

	// Loopback is not verified; the trust of any other host is what tlsConfig says.
	mustPull(t, c, host+"/web:1")
	if err := os.MkdirAll(filepath.Join(dir, "example.com:5000"), 0o700); err != nil {
		t.Fatal(err)
	}
	before, err := c.transport("example.com:5000")
	if err != nil || before.TLSClientConfig.InsecureSkipVerify || before.TLSClientConfig.RootCAs != nil {
		t.Fatalf("without certificates: %v %+v", err, before.TLSClientConfig)
	}
	file := filepath.Join(dir, "example.com:5000", "ca.crt")
	if err := os.WriteFile(file, pem, 0o600); err != nil {
		t.Fatal(err)
	}
	after, err := c.transport("example.com:5000")
	if err != nil || after == before {
		t.Fatalf("a new certificate is not seen: %v", err)
	}
	if again, err := c.transport("example.com:5000"); err != nil || again != after {
		t.Errorf("the transport is made anew each time: %v", err)
	}
	leaf, err := x509.ParseCertificate(secure.Certificate().Raw)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: after.TLSClientConfig.RootCAs, CurrentTime: leaf.NotBefore.Add(time.Hour)}); err != nil {
		t.Errorf("the authority is not trusted: %v", err)
	}
	if _, err := tlsConfig([]string{filepath.Join(dir, "client.cert")}); err == nil || !strings.Contains(err.Error(), "missing key client.key for client certificate client.cert") {
		t.Errorf("got %v", err)
	}
	if _, err := tlsConfig([]string{filepath.Join(dir, "client.key")}); err == nil || !strings.Contains(err.Error(), "missing client certificate client.cert for key client.key") {
		t.Errorf("got %v", err)
	}
}

func TestAnUnknownCertificateIsRefused(t *testing.T) {
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	defer secure.Close()
	c := newClient(t, Config{})
	tr, err := c.transport("registry.example")
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest(http.MethodGet, secure.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = tr.RoundTrip(req)
	var unknown *tls.CertificateVerificationError
	if !errors.As(err, &unknown) || temporary(err) {
		t.Errorf("got %v", err)
	}
}

func TestInsecureRegistries(t *testing.T) {
	c := newClient(t, Config{Insecure: []string{"10.1.0.0/16", "plain.example", "other.example:5000"}})
	for host, want := range map[string]bool{
		"localhost": true, "localhost:5000": true, "127.0.0.1:5000": true, "127.3.4.5": true, "[::1]:5000": true,
		"10.1.2.3:5000": true, "10.2.2.3:5000": false, "plain.example:1234": true, "other.example:5000": true, "other.example": false,
		"docker.io": false, "registry-1.docker.io": false, "localhost.example": false,
	} {
		if got := c.insecure(host); got != want {
			t.Errorf("insecure(%s) = %v", host, got)
		}
	}
	for _, bad := range []string{"", "http://host", "10.0.0.0/99"} {
		if _, err := New(Config{Images: c.cfg.Images, Insecure: []string{bad}}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	for _, bad := range []string{"host", "ftp://host", "http://", "http://host?x", "http://u:p@host"} {
		if _, err := New(Config{Images: c.cfg.Images, Mirrors: map[string][]string{"docker.io": {bad}}}); err == nil {
			t.Errorf("mirror %q was taken", bad)
		}
	}
}

func TestServerHost(t *testing.T) {
	for in, want := range map[string]string{
		"": "docker.io", "https://index.docker.io/v1/": "docker.io", "index.docker.io": "docker.io", "registry-1.docker.io": "docker.io", "docker.io": "docker.io",
		"http://localhost:5000": "localhost:5000", "ghcr.io": "ghcr.io", "https://ghcr.io/v2/": "ghcr.io",
	} {
		if got := ServerHost(in); got != want {
			t.Errorf("ServerHost(%q) = %q, want %q", in, got, want)
		}
	}
}

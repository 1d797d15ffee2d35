package apiserver_test

import (
	"crypto/tls"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"gantry/cluster/apiserver/apitest"
)

func TestNobodySeesLittle(t *testing.T) {
	s := apitest.Start(t)
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer c.CloseIdleConnections()
	for path, want := range map[string]int{
		"/healthz": 200, "/livez": 200, "/readyz": 200, "/version": 200,
		"/api": 403, "/apis": 403, "/openapi/v3": 403, "/api/v1/pods": 403, "/nope": 403,
	} {
		resp, err := c.Get("https://" + s.Addr() + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err := resp.Body.Close(); err != nil {
			t.Fatal(err)
		}
		if err != nil || resp.StatusCode != want {
			t.Errorf("%s: %d %s, %v; want %d", path, resp.StatusCode, body, err, want)
		}
		if path == "/api/v1/pods" && !strings.Contains(string(body), `User \"system:anonymous\" cannot list resource \"pods\" in API group \"\" at the cluster scope`) {
			t.Errorf("refusal: %s", body)
		}
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+s.Addr()+"/version", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer nonsense")
	resp, err := c.Do(r)
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		t.Fatalf("a bad token: %v, %v", resp.Status, err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestSecretsAreFilesForTheirOwnerAlone(t *testing.T) {
	s := apitest.Start(t)
	for _, pattern := range []string{"tls/*", "kubeconfig"} {
		paths, err := filepath.Glob(filepath.Join(s.Dir, pattern))
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s: %v", pattern, err)
		}
		for _, path := range paths {
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v, %v; want 0600", path, info.Mode(), err)
			}
		}
	}
	before, err := os.ReadFile(filepath.Join(s.Dir, "tls/serving.crt"))
	if err != nil {
		t.Fatal(err)
	}
	s.Stop()
	s = apitest.StartWith(t, apitest.Options{Dir: s.Dir})
	after, err := os.ReadFile(filepath.Join(s.Dir, "tls/serving.crt"))
	if err != nil || string(before) != string(after) {
		t.Errorf("the certificate was made anew at the restart: %v", err)
	}
}

func TestTokensLiveAsLongAsTheirPod(t *testing.T) {
	s := apitest.Start(t)
	ctx := t.Context()
	p := create(t, s, pod("p"))
	tr, err := s.Client.CoreV1().ServiceAccounts("default").CreateToken(ctx, "default", &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: "p", UID: p.UID}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	review := func() *authenticationv1.TokenReview {
		t.Helper()
		r, err := s.Client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: tr.Status.Token}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := review(); !r.Status.Authenticated || r.Status.User.Username != "system:serviceaccount:default:default" {
		t.Errorf("review: %+v", r.Status)
	}
	if err := s.Client.CoreV1().Pods("default").Delete(ctx, "p", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if r := review(); r.Status.Authenticated {
		t.Error("the token outlived its pod")
	}
}

func TestNodesKeepToThemselves(t *testing.T) {
	s := apitest.Start(t)
	ctx := t.Context()
	for _, name := range []string{"mine", "other"} {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if _, err := s.Client.CoreV1().Secrets("default").Create(ctx, secret, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	p := pod("p")
	p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "mine"}}}}
	create(t, s, p)
	if err := bind(t, s, "p", "n1"); err != nil {
		t.Fatal(err)
	}
	n1 := kubernetes.NewForConfigOrDie(s.LoopbackAs("system:node:n1", "system:nodes"))
	n2 := kubernetes.NewForConfigOrDie(s.LoopbackAs("system:node:n2", "system:nodes"))
	get := func(c kubernetes.Interface, name string) error {
		_, err := c.CoreV1().Secrets("default").Get(ctx, name, metav1.GetOptions{})
		return err
	}
	list := func(c kubernetes.Interface, selector string) error {
		_, err := c.CoreV1().Secrets("default").List(ctx, metav1.ListOptions{FieldSelector: selector})
		return err
	}
	status := func(c kubernetes.Interface) error {
		got, err := s.Client.CoreV1().Pods("default").Get(ctx, "p", metav1.GetOptions{})
		if err != nil {
			return err
		}
		_, err = c.CoreV1().Pods("default").UpdateStatus(ctx, got, metav1.UpdateOptions{})
		return err
	}
	node := func(c kubernetes.Interface, name string) error {
		_, err := c.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		return err
	}
	for rule, c := range map[string]struct {
		err     error
		allowed bool
	}{
		"reads a secret of its pod":              {get(n1, "mine"), true},
		"reads no other secret":                  {get(n1, "other"), false},
		"reads no secret of another node's pod":  {get(n2, "mine"), false},
		"lists its pod's secret by name":         {list(n1, "metadata.name=mine"), true},
		"lists no secrets":                       {list(n1, ""), false},
		"writes the status of its pod":           {status(n1), true},
		"writes no status of another node's pod": {status(n2), false},
		"registers itself":                       {node(n1, "n1"), true},
		"registers no other node":                {node(n1, "n3"), false},
		"creates only mirror pods": {func() error {
			_, err := n1.CoreV1().Pods("default").Create(ctx, pod("x"), metav1.CreateOptions{})
			return err
		}(), false},
		"deletes no pod of another node": {n2.CoreV1().Pods("default").Delete(ctx, "p", metav1.DeleteOptions{}), false},
		"deletes its pod":                {n1.CoreV1().Pods("default").Delete(ctx, "p", metav1.DeleteOptions{}), true},
	} {
		if c.allowed && c.err != nil || !c.allowed && !apierrors.IsForbidden(c.err) {
			t.Errorf("a node %s: %v", rule, c.err)
		}
	}
}

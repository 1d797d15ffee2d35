package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gantry/internal/problem"
)

func serve(t *testing.T, h http.Handler) *Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: h}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return New(socket)
}

func TestBuildSendsTheContextAndReturnsTheImage(t *testing.T) {
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent, err := io.ReadAll(r.Body)
		if err != nil || string(sent) != "archive" || r.FormValue("dockerfile") != "D" {
			t.Errorf("sent %q, %v, dockerfile %q", sent, err, r.FormValue("dockerfile"))
		}
		fmt.Fprint(w, `{"stream":"Step 1/1 : FROM scratch\n"}`, "\r\n", `{"aux":{"ID":"sha256:abc"}}`, "\n", `{"stream":"Successfully built abc\n"}`)
	}))
	var output []string
	id, err := c.Build(t.Context(), BuildRequest{Context: strings.NewReader("archive"), Dockerfile: "D"}, func(s string) { output = append(output, s) })
	if err != nil || id != "sha256:abc" {
		t.Fatalf("%q, %v", id, err)
	}
	if diff := cmp.Diff([]string{"Step 1/1 : FROM scratch\n", "Successfully built abc\n"}, output); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestABuildErrorIsPassedOn(t *testing.T) {
	for rule, answer := range map[string]string{
		"in the stream":      `{"errorDetail":{"message":"no such step"},"error":"no such step"}`,
		"without any result": `{"stream":"Step 1/1"}`,
	} {
		c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, answer) }))
		_, err := c.Build(t.Context(), BuildRequest{Context: strings.NewReader("")}, func(string) {})
		if err == nil || rule == "in the stream" && err.Error() != "no such step" {
			t.Errorf("%s: %v", rule, err)
		}
	}
}

func TestAnswersMapToKinds(t *testing.T) {
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"message":"No such image: x:latest"}`)
	}))
	if _, err := c.Image(t.Context(), "x"); !errors.Is(err, problem.NotFound) || err.Error() != "No such image: x:latest" {
		t.Errorf("got %v", err)
	}
	gone := New(filepath.Join(t.TempDir(), "none"))
	if _, err := gone.Info(context.Background()); !errors.Is(err, problem.Unavailable) {
		t.Errorf("no engine: %v, want Unavailable", err)
	}
}

func TestExposedPorts(t *testing.T) {
	var i Image
	i.Config.ExposedPorts = map[string]struct{}{"9090/tcp": {}, "53/udp": {}, "8080": {}, "x/tcp": {}}
	if diff := cmp.Diff([]int{8080, 9090}, i.Ports()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

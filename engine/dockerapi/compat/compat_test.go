// Package compat sends the same calls to Gantry and to the reference, Debian's
// dockerd, and compares the answers field by field.
//
// The calls are testdata/*.scene (script_test.go has their form). What differs
// must be in testdata/differences.txt, with its reason; a new difference fails
// the test, and so does a listed one that is no more. Values that no two runs
// share (identifiers, times, addresses) are replaced by their kind first.
package compat

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gantry/engine/dockerapi"
	"gantry/engine/internal/enginetest"
	"gantry/internal/testenv"
)

func TestMain(m *testing.M) {
	code := testenv.Isolate(m)
	enginetest.Clean()
	os.Exit(code)
}

// side is one of the two daemons.
type side struct {
	name   string
	socket string
	client *http.Client
	vars   map[string]string // what the script has saved
	config string            // the stock client's directory
}

func newSide(t *testing.T, name, socket string) *side {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	transport := &http.Transport{DialContext: dial}
	t.Cleanup(transport.CloseIdleConnections)
	return &side{
		name: name, socket: socket, vars: map[string]string{}, config: t.TempDir(),
		client: &http.Client{Transport: transport, Timeout: 2 * time.Minute},
	}
}

// newGantry starts an engine behind its API.
func newGantry(t *testing.T) *side {
	h := enginetest.New(t)
	socket := filepath.Join(h.Instance.RunDir, "docker.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: dockerapi.New(dockerapi.Config{
		Engine: h.Engine, Images: h.Images, Builder: h.Builder, Networks: h.Networks, Volumes: h.Volumes,
		Version: "test", DataDir: h.Instance.DataDir,
	})}
	go server.Serve(listener) // ends with Close
	t.Cleanup(func() { server.Close() })
	return newSide(t, "gantry", socket)
}

func TestSameAsReference(t *testing.T) {
	testenv.NeedCommand(t, "docker")
	reference, gantry := newReference(t), newGantry(t)
	archive := enginetest.BusyboxArchive(t)
	rules := readRules(t)
	paths, err := filepath.Glob("testdata/*.scene")
	if err != nil || len(paths) == 0 {
		t.Fatal("no scenes", err)
	}
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".scene")
		t.Run(name, func(t *testing.T) {
			steps, err := readScene(path)
			if err != nil {
				t.Fatal(err)
			}
			s := scene{name: name, archive: archive, rules: rules}
			for _, side := range []*side{reference, gantry} {
				side.removeAll(t)
			}
			for _, step := range steps {
				s.play(t, step, reference, gantry)
			}
		})
	}
	if t.Failed() {
		return
	}
	for _, r := range rules {
		if r.used == 0 {
			t.Logf("differences.txt:%d: nothing differs like this any more: %s", r.line, r.text)
		}
	}
}

// scene is one script being played.
type scene struct {
	name    string
	archive []byte // of busybox, for imports
	rules   []*rule
}

// play does one step on both sides, and fails the test for each difference that
// no rule explains.
func (s *scene) play(t *testing.T, st step, sides ...*side) {
	t.Helper()
	answers, errs := make([]answer, len(sides)), make([]error, len(sides))
	began := time.Now()
	var group sync.WaitGroup
	for i, side := range sides {
		group.Go(func() { answers[i], errs[i] = side.do(st, s.archive) })
	}
	group.Wait()
	if spent := time.Since(began); spent > 3*time.Second {
		t.Logf("%s took %s", st.label, spent.Round(time.Second))
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatalf("%s: %v", st.label, err)
	}
	if os.Getenv("GANTRY_COMPAT_SHOW") != "" {
		for i, side := range sides {
			t.Logf("%s: %s\n%d %s", side.name, st.label, answers[i].status, answers[i].body)
		}
	}
	for _, d := range compare(nil, "", answers[0].fields(), answers[1].fields(), st.shape) {
		if !explained(s.rules, s.name+" "+st.label, d) {
			t.Errorf("%s %s | %s | %s | %s", s.name, st.label, d.path, d.want, d.got)
		}
	}
}

// answer is what a daemon said, or what the client printed.
type answer struct {
	status int
	header http.Header
	kind   string // of the body
	body   []byte
}

// comparedHeaders are those which clients look at.
var comparedHeaders = []string{
	"Content-Type", "Api-Version", "Docker-Experimental", "Ostype", "Cache-Control", "Pragma", "Builder-Version",
	"Swarm", "Location", "X-Docker-Container-Path-Stat", "Upgrade",
}

// fields is an answer as one tree.
func (a answer) fields() map[string]any {
	out := map[string]any{"Status": fmt.Sprint(a.status)}
	for _, name := range comparedHeaders {
		if v := a.header.Get(name); v != "" {
			out["Header "+name] = v
		}
	}
	values, err := jsonValues(a.body)
	switch {
	case err != nil || a.kind == "text":
		out["Text"] = string(a.body)
	case len(values) == 1:
		out["Body"] = values[0]
	default:
		out["Body"] = values
	}
	return out
}

func jsonValues(body []byte) ([]any, error) {
	var values []any
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	for decoder.More() {
		var v any
		if err := decoder.Decode(&v); err != nil {
			return nil, err
		}
		values = append(values, v)
	}
	return values, nil
}

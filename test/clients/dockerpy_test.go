package clients

import (
	"strings"
	"testing"
)

// TestDockerPy runs testdata/docker_py.py with Debian's python3-docker, which
// docker-compose brings along.
func TestDockerPy(t *testing.T) {
	needVersion1(t)
	s := start(t)
	r := s.Try("", "/usr/bin/python3", "testdata/docker_py.py")
	if r.Code != 0 || strings.Count(r.Stdout, `"ok"`) != strings.Count(r.Stdout, "\n") {
		t.Errorf("exit status %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
}

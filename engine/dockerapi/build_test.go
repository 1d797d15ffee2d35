package dockerapi_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// dir writes files into a new directory.
func dir(t *testing.T, files map[string]string) string {
	t.Helper()
	at := t.TempDir()
	for name, body := range files {
		path := filepath.Join(at, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return at
}

// TestBuildMounts runs in real containers what package builder's scenes run in
// a mount namespace alone.
func TestBuildMounts(t *testing.T) {
	d := newDaemon(t)
	context := dir(t, map[string]string{"src/a": "from the context\n", "Dockerfile": `FROM busybox AS base
RUN mkdir -p /stuff/sub && echo below > /stuff/one && echo gone > /stuff/two
FROM base AS made
RUN rm /stuff/two && echo above > /stuff/sub/three
FROM busybox
RUN --mount=target=/ctx cat /ctx/src/a && ! touch /ctx/x 2>/dev/null
RUN --mount=from=made,source=/stuff,target=/stuff cat /stuff/one /stuff/sub/three && ls /stuff && ! touch /stuff/x 2>/dev/null
RUN --mount=from=made,source=/stuff,target=/stuff,rw touch /stuff/x && ls /stuff
RUN --mount=from=made,source=/stuff/one,target=/deep/file cat /deep/file
RUN --mount=type=cache,target=/cache,sharing=locked touch /cache/kept
RUN --mount=type=cache,target=/cache,sharing=locked ls /cache
RUN [ ! -e /stuff ] && [ ! -e /deep ] && [ ! -e /cache ] && echo nothing left
`})
	out := d.do("build", "-t", "mounts", context)
	for _, want := range []string{"from the context\n", "below\nabove\none\nsub\n", "one\nsub\nx\n", "kept\n", "nothing left\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %q:\n%s", want, out)
		}
	}
}

func TestBuildOptions(t *testing.T) {
	d := newDaemon(t)
	context := dir(t, map[string]string{"Dockerfile": "FROM busybox\nRUN cat /etc/hosts\n"})
	if out := d.do("build", "--add-host", "example:192.0.2.7", "--cgroup-parent", "test-builds", "--no-cache", context); !strings.Contains(out, "192.0.2.7\texample") {
		t.Errorf("--add-host:\n%s", out)
	}
	for name, c := range map[string]struct{ option, value, want string }{
		"isolation":     {"--isolation", "hyperv", "invalid isolation (hyperv)"},
		"cgroup parent": {"--cgroup-parent", "a/../b", "must be without"},
	} {
		if got := d.try("build", "--no-cache", c.option, c.value, context); got.code != 1 || !strings.Contains(got.err, c.want) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

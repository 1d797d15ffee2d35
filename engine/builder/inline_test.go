package builder

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/problem"
)

// TestCacheFromAnImageBuiltElsewhere builds in one store, and again in another
// that has only the image.
func TestCacheFromAnImageBuiltElsewhere(t *testing.T) {
	const dockerfile = "FROM busybox AS made\nRUN echo made > /made\nFROM busybox\nCOPY a /a\nRUN cat /a > /b\nWORKDIR /w\nCOPY --from=made /made /c\nENV X=1\n"
	file := file{name: "a", body: "1"}
	on := "1"
	here := newBench(t)
	here.busybox()
	here.mustBuild(Request{Tags: []string{"plain"}}, dockerfile, file)
	out := here.mustBuild(Request{Tags: []string{"x"}, BuildArgs: map[string]*string{inlineArgument: &on}}, dockerfile, file)
	if ran(out) != 0 || strings.Contains(out, "not consumed") {
		t.Errorf("building with an inline cache:\n%s", out)
	}
	var saved bytes.Buffer
	if err := here.images.Save(ctx, &saved, []string{"busybox", "x", "plain"}); err != nil {
		t.Fatal(err)
	}

	there := newBench(t)
	if _, err := there.images.Load(ctx, &saved, nil); err != nil {
		t.Fatal(err)
	}
	asked := 0
	fetch := func(context.Context, reference.Named, ocispec.Platform) error {
		asked++
		return problem.New(problem.NotFound, "manifest unknown")
	}
	for _, c := range []struct {
		rule, text string
		req        Request
		runs       int
		says       string
	}{
		{"an image without a cache", dockerfile, Request{CacheFrom: []string{"plain"}}, 2, "[Warning] importing cache from plain: it holds no build cache; build it with --build-arg BUILDKIT_INLINE_CACHE=1\n"},
		{"the image, whose stage before the last is not in it", dockerfile, Request{CacheFrom: []string{"x"}}, 1, "Using cache"},
		{"what is asked of the registry and not there", dockerfile, Request{CacheFrom: []string{"none", "x"}, Fetch: fetch}, 1, "[Warning] importing cache from none: manifest unknown\n"},
		{"what is no name", dockerfile, Request{CacheFrom: []string{"type=registry,ref=x"}}, 2, "[Warning] importing cache from type=registry,ref=x: invalid reference format"},
		{"no cache at all", dockerfile, Request{CacheFrom: []string{"x"}, NoCache: true}, 2, ""},
		{"another command", strings.ReplaceAll(dockerfile, "cat /a", "cat /a /a"), Request{CacheFrom: []string{"x"}}, 2, ""},
	} {
		if _, err := there.Prune(ctx, PruneOptions{Before: time.Now().Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
		c.req.Tags = []string{"y"}
		out := there.mustBuild(c.req, c.text, file)
		if ran(out) != c.runs || !strings.Contains(out, c.says) {
			t.Errorf("%s: %d steps ran, want %d, and %q\n%s", c.rule, ran(out), c.runs, c.says, out)
		}
	}
	if asked != 1 {
		t.Errorf("the registry was asked %d times", asked)
	}

	// What an image claims is believed in a build that asks for it, and in no other.
	if _, err := there.Prune(ctx, PruneOptions{Before: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	there.mustBuild(Request{CacheFrom: []string{"x"}}, dockerfile, file)
	if out := there.mustBuild(Request{}, dockerfile, file); ran(out) != 1 {
		t.Errorf("%d steps ran without --cache-from:\n%s", ran(out), out)
	}
}

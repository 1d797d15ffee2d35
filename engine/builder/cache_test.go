package builder

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gantry/engine/image"
	"gantry/internal/problem"
)

const runOnce = "FROM busybox\nCOPY a /a\nRUN cat /a > /b\n"

// ran reports how many steps of a build were carried out in a container.
func ran(out string) int { return strings.Count(out, "Running in") }

func (b *bench) mustBuild(req Request, dockerfile string, files ...file) string {
	b.t.Helper()
	out, err := b.build(req, dockerfile, files...)
	if err != nil {
		b.t.Fatalf("%v\n%s", err, out)
	}
	return out
}

func (b *bench) id(ref string) string {
	b.t.Helper()
	img, err := b.images.Resolve(ctx, ref)
	if err != nil {
		b.t.Fatal(err)
	}
	return img.ID.String()
}

func TestCacheGoesByContent(t *testing.T) {
	b := newBench(t)
	b.busybox()
	b.mustBuild(Request{Tags: []string{"x"}}, runOnce, file{name: "a", body: "1"})
	first := b.id("x")
	for _, c := range []struct {
		rule string
		req  Request
		file file
		text string
		runs int
		same bool
	}{
		{"another time of a file is no change", Request{}, file{name: "a", body: "1", time: time.Unix(1800000000, 5)}, runOnce, 0, true},
		{"another owner of a file is no change", Request{}, file{name: "a", body: "1", uid: 1000}, runOnce, 0, true},
		{"other content is", Request{}, file{name: "a", body: "2"}, runOnce, 1, false},
		{"the old content is still known", Request{}, file{name: "a", body: "1"}, runOnce, 0, true},
		{"another mode is a change", Request{}, file{name: "a", body: "1", mode: 0o600}, runOnce, 1, false},
		{"a label does not matter to what comes after it", Request{}, file{name: "a", body: "1"}, "FROM busybox\nLABEL x=y\nCOPY a /a\nRUN cat /a > /b\n", 0, false},
		{"an environment variable does matter to RUN", Request{}, file{name: "a", body: "1"}, "FROM busybox\nENV X=y\nCOPY a /a\nRUN cat /a > /b\n", 1, false},
		{"no cache", Request{NoCache: true}, file{name: "a", body: "1"}, runOnce, 1, false},
	} {
		c.req.Tags = []string{"x"}
		out := b.mustBuild(c.req, c.text, c.file)
		if ran(out) != c.runs || (b.id("x") == first) != c.same {
			t.Errorf("%s: %d steps ran, want %d; same image %v, want %v\n%s", c.rule, ran(out), c.runs, b.id("x") == first, c.same, out)
		}
	}
}

func TestCacheSurvivesARestartAndLosesWhatIsGone(t *testing.T) {
	b := newBench(t)
	b.busybox()
	files := file{name: "a", body: "1"}
	b.mustBuild(Request{Tags: []string{"x"}}, runOnce, files)
	first := b.id("x")
	b.close()
	b.open()
	if out := b.mustBuild(Request{Tags: []string{"x"}}, runOnce, files); ran(out) != 0 || b.id("x") != first {
		t.Errorf("after a restart the cache is not used:\n%s", out)
	}
	// The image goes, the cache keeps its layers; then the cache goes too.
	if _, err := b.images.Remove(ctx, "x", image.RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if out := b.mustBuild(Request{Tags: []string{"x"}}, runOnce, files); ran(out) != 0 || b.id("x") != first {
		t.Errorf("after rmi the cache is not used:\n%s", out)
	}
	if _, err := b.images.Remove(ctx, "x", image.RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	report, err := b.Prune(ctx, PruneOptions{Before: time.Now().Add(time.Hour), Mounts: true})
	if err != nil || report.Entries < 2 || report.Reclaimed == 0 {
		t.Errorf("Prune = %+v, %v", report, err)
	}
	if out := b.mustBuild(Request{Tags: []string{"x"}}, runOnce, files); ran(out) != 1 {
		t.Errorf("after prune the cache is used:\n%s", out)
	}
	// A builder that says nothing of its layers loses them, and notices.
	if err := b.Builder.Close(); err != nil {
		t.Fatal(err)
	}
	b.images.EndLease(CacheLease)
	if _, err := b.images.Remove(ctx, "x", image.RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if b.Builder, err = New(Config{Dir: filepath.Join(b.dir, "build"), Images: b.images, Runner: b.runner}); err != nil {
		t.Fatal(err)
	}
	if out := b.mustBuild(Request{Tags: []string{"x"}}, runOnce, files); ran(out) != 1 {
		t.Errorf("a missing layer was taken from the cache:\n%s", out)
	}
}

const reproducible = `FROM busybox AS base
WORKDIR /work
COPY . .
COPY --chown=1:2 --chmod=600 a /deep/er/a
ADD dir /lib/dir
FROM scratch
COPY --from=base / /
COPY a /work/
ENTRYPOINT ["/x"]
`

func TestTheSameSourceGivesTheSameImage(t *testing.T) {
	files := []file{{name: "a", body: "1", time: time.Unix(1600000000, 0)}, {name: "dir/"}, {name: "dir/b", body: "2", mode: 0o755}}
	// Not Import: it puts the time into the image.
	var saved bytes.Buffer
	var ids []string
	for i := range 2 {
		b := newBench(t)
		if i == 0 {
			b.busybox()
			if err := b.images.Save(ctx, &saved, []string{"busybox"}); err != nil {
				t.Fatal(err)
			}
		} else if _, err := b.images.Load(ctx, bytes.NewReader(saved.Bytes()), nil); err != nil {
			t.Fatal(err)
		}
		b.mustBuild(Request{Tags: []string{"x"}}, reproducible, files...)
		ids = append(ids, b.id("x"))
		b.mustBuild(Request{Tags: []string{"x"}, NoCache: true}, reproducible, files...)
		ids = append(ids, b.id("x"))
	}
	for _, id := range ids {
		if id != ids[0] {
			t.Errorf("images %v, want one", ids)
			break
		}
	}
}

func TestSourceDateEpochBoundsAllTimes(t *testing.T) {
	b := newBench(t)
	b.busybox()
	epoch := "1500000000"
	b.mustBuild(Request{Tags: []string{"x"}, BuildArgs: map[string]*string{"SOURCE_DATE_EPOCH": &epoch}},
		"FROM busybox\nCOPY a /a\nRUN echo x > /b\n", file{name: "a"})
	img, err := b.images.Resolve(ctx, "x")
	if err != nil || img.Created().Unix() != 1500000000 {
		t.Errorf("created %v, %v", img.Created(), err)
	}
	for line := range strings.Lines(b.listing("x")) {
		if (strings.Contains(line, " a ") || strings.Contains(line, " b ")) && !strings.Contains(line, "2017-07-14") {
			t.Errorf("not of the epoch: %s", line)
		}
	}
}

func TestStagesRunAtTheSameTime(t *testing.T) {
	b := newBench(t)
	b.busybox()
	// Each stage waits for the other's sign in a cache mount, which both see.
	const dockerfile = `FROM busybox AS a
RUN --mount=type=cache,target=/m touch /m/a; until test -e /m/b; do sleep 0.01; done; echo a saw b
FROM busybox AS b
RUN --mount=type=cache,target=/m touch /m/b; until test -e /m/a; do sleep 0.01; done; echo b saw a
FROM scratch
COPY --from=a /etc/group /1
COPY --from=b /etc/group /2
`
	limit, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var out strings.Builder
	c := NewClassic(&out)
	_, err := b.Builder.Build(limit, Request{Context: bytes.NewReader(archive(t, []file{{name: "Dockerfile", body: dockerfile}}))}, c.Event)
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if a, b := strings.Index(out.String(), "a saw b"), strings.Index(out.String(), "Step 3/7"); a < 0 || b < a {
		t.Errorf("output is not in the order of the Dockerfile:\n%s", out.String())
	}
}

func TestStagesWaitWhereTheyTakeFromAnother(t *testing.T) {
	b := newBench(t)
	b.busybox()
	// The first RUN of the last stage runs beside the stage that COPY needs.
	const dockerfile = `FROM busybox AS a
RUN --mount=type=cache,target=/m touch /m/a; until test -e /m/b; do sleep 0.01; done; echo made > /made
FROM busybox
RUN --mount=type=cache,target=/m touch /m/b; until test -e /m/a; do sleep 0.01; done
COPY --from=a /made /made
RUN --mount=from=a,source=/made,target=/mnt cat /mnt /made
`
	limit, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var out strings.Builder
	c := NewClassic(&out)
	_, err := b.Builder.Build(limit, Request{Context: bytes.NewReader(archive(t, []file{{name: "Dockerfile", body: dockerfile}}))}, c.Event)
	if err != nil || !strings.Contains(out.String(), "\nmade\nmade\n") {
		t.Fatalf("%v\n%s", err, out.String())
	}
}

func TestAFailureStopsTheOtherStages(t *testing.T) {
	b := newBench(t)
	b.busybox()
	out, err := b.build(Request{}, `FROM busybox AS a
RUN --mount=type=cache,target=/m echo waits; touch /m/a; sleep 1000
FROM busybox AS b
RUN --mount=type=cache,target=/m until test -e /m/a; do sleep 0.01; done; echo fails; exit 3
FROM busybox
RUN echo is cut short; sleep 1000
COPY --from=a / /
COPY --from=b / /
`)
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Code != 3 || !strings.Contains(out, "fails\n") || strings.Contains(out, "\nis cut short") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestCancelStopsTheBuildAndLeavesNothing(t *testing.T) {
	b := newBench(t) // its clean-up looks for what is left
	b.busybox()
	limit, cancel := context.WithCancelCause(ctx)
	gone := errors.New("the client is gone")
	_, err := b.Builder.Build(limit, Request{Tags: []string{"x"}, Context: bytes.NewReader(archive(t, []file{
		{name: "Dockerfile", body: "FROM busybox\nRUN echo up; sleep 1000\n"}}))}, func(e Event) {
		if e.Kind == Output {
			cancel(gone)
		}
	})
	if !errors.Is(err, gone) {
		t.Errorf("error %v, want %v", err, gone)
	}
	if _, err := b.images.Resolve(ctx, "x"); !errors.Is(err, problem.NotFound) {
		t.Errorf("a cancelled build gave an image: %v", err)
	}
}

func TestBuildsAtTheSameTime(t *testing.T) {
	b := newBench(t)
	b.busybox()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			body := string(rune('a' + i%2))
			_, err := b.Builder.Build(ctx, Request{Tags: []string{"x" + body}, Context: bytes.NewReader(archive(t, []file{
				{name: "Dockerfile", body: "FROM scratch\nCOPY a /a\nCOPY a /b\n"}, {name: "a", body: body}}))}, nil)
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if b.id("xa") == b.id("xb") {
		t.Error("different source, same image")
	}
}

func TestAddUnpacksArchives(t *testing.T) {
	b := newBench(t)
	b.busybox()
	inner := archive(t, []file{{name: "./"}, {name: "lib/x", body: "in a linked directory", uid: 5}, {name: "../../up", body: "contained"}, {name: "f", body: "f", mode: 0o4755}})
	b.mustBuild(Request{Tags: []string{"x"}}, "FROM busybox\nADD in.tar /\nADD in.tar /new/dir\nADD --unpack=false in.tar /packed/\nADD note.tar /note\nCOPY in.tar /copied\n",
		file{name: "in.tar", body: string(inner)}, file{name: "note.tar", body: "not an archive"})
	got := b.listing("x")
	for _, want := range []string{
		`0644 5:5 2023-11-14 usr/lib/x "in a linked directory"`, `0644 0:0 2023-11-14 up "contained"`, `4755 0:0 2023-11-14 f "f"`,
		`0644 5:5 2023-11-14 new/dir/lib/x "in a linked directory"`, `new/dir/up "contained"`,
		`packed/in.tar`, `note "not an archive"`, `copied "`, `2 0777 0:0 2023-11-14 lib -> usr/lib`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

func TestContextLargerThanMemory(t *testing.T) {
	b := newBench(t)
	big := bytes.Repeat([]byte("0123456789abcdef"), spoolMemory/16+10)
	b.mustBuild(Request{Tags: []string{"x"}}, "FROM scratch\nCOPY . /\n", file{name: "big", body: string(big)}, file{name: "small", body: "s"})
	if !strings.Contains(b.listing("x"), "small \"s\"") {
		t.Error(b.listing("x"))
	}
	if left, err := os.ReadDir(filepath.Join(b.dir, "build", "tmp")); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestRunThatWritesNothingMakesAnEmptyLayer(t *testing.T) {
	b := newBench(t)
	b.busybox()
	b.mustBuild(Request{Tags: []string{"x"}}, "FROM busybox\nRUN --mount=type=tmpfs,target=/etc/deep/er true\n")
	img, err := b.images.Resolve(ctx, "x")
	if err != nil {
		t.Fatal(err)
	}
	layer, err := b.images.Layer(ctx, img.Layers[1])
	if err != nil || layer.Tar != 1024 {
		t.Errorf("layer %+v, %v; want an archive without entries\n%s", layer, err, b.listing("x"))
	}
}

// TestTheSameStepInTwoBuildsRunsOnce has several builds wait for one that runs,
// and another take over from one that is cancelled.
func TestTheSameStepInTwoBuildsRunsOnce(t *testing.T) {
	b := newBench(t)
	b.busybox()
	started, finish := make(chan struct{}, 10), make(chan struct{})
	b.runner.before = func(ctx context.Context) error {
		started <- struct{}{}
		select {
		case <-finish:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	const dockerfile = "FROM busybox\nRUN echo once > /file\n"
	build := func(ctx context.Context) error {
		_, err := b.Build(ctx, Request{Context: bytes.NewReader(archive(t, []file{{name: "Dockerfile", body: dockerfile}}))}, nil)
		return err
	}
	first, cancel := context.WithCancel(ctx)
	ended := make(chan error, 5)
	go func() { ended <- build(first) }()
	<-started
	for range 3 {
		go func() { ended <- build(ctx) }()
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatalf("the cancelled build: %v", err)
	}
	<-started // one of the others
	close(finish)
	for range 3 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if n := len(started); n != 0 {
		t.Errorf("the step ran %d times too often", n)
	}
}

// countingRunner notes how many commands run at a time.
type countingRunner struct {
	Runner
	mu        sync.Mutex
	now, most int
}

func (r *countingRunner) Run(ctx context.Context, spec RunSpec) (int, error) {
	r.mu.Lock()
	r.now++
	r.most = max(r.most, r.now)
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.now--
	}()
	return r.Runner.Run(ctx, spec)
}

func TestStepsAreBounded(t *testing.T) {
	b := newBench(t)
	b.busybox()
	runner := &countingRunner{Runner: b.runner}
	b.Builder.cfg.Runner, b.slots = runner, make(chan struct{}, 2)
	var dockerfile strings.Builder
	last := "FROM scratch\n"
	for _, name := range strings.Fields("a b c d e f g") {
		dockerfile.WriteString("FROM busybox AS " + name + "\nRUN echo " + name + " > /" + name + "\n")
		last += "COPY --from=" + name + " /" + name + " /\n"
	}
	out := b.mustBuild(Request{}, dockerfile.String()+last)
	if ran(out) != 7 || runner.most > 2 || runner.now != 0 {
		t.Errorf("%d ran, %d at a time, %d are left\n%s", ran(out), runner.most, runner.now, out)
	}
}

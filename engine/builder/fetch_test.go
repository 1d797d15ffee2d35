package builder

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gantry/internal/problem"
	"gantry/internal/testenv"
)

// remotes serves files, and a git repository at /repo.git whose first commit is
// tagged v1.
func remotes(t *testing.T, archived []byte) (address, commit string) {
	t.Helper()
	git := testenv.NeedCommand(t, "git")
	dir := t.TempDir()
	run := func(args ...string) string {
		cmd := exec.Command(git, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a",
			"GIT_COMMITTER_EMAIL=a@b", "GIT_AUTHOR_DATE=2020-02-02T00:00:00Z", "GIT_COMMITTER_DATE=2020-02-02T00:00:00Z")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	write := func(name, body string, mode os.FileMode) {
		name = filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(body), mode)); err != nil {
			t.Fatal(err)
		}
	}
	run("init", "-q", "-b", "main")
	write("file", "first", 0o600)
	write("sub/run", "#!/bin/sh\n", 0o700)
	write("sub/Dockerfile", "FROM busybox\nCOPY run /from-git\n", 0o600)
	run("add", "-A")
	run("commit", "-q", "-m", "1")
	run("tag", "v1")
	commit = run("rev-parse", "HEAD")
	write("file", "second", 0o600)
	run("commit", "-q", "-a", "-m", "2")
	run("update-server-info")
	mux := http.NewServeMux()
	mux.Handle("/repo.git/", http.StripPrefix("/repo.git", http.FileServer(http.Dir(filepath.Join(dir, ".git")))))
	mux.HandleFunc("/dir/data.txt", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Last-Modified", "Sun, 02 Feb 2020 00:00:00 GMT")
		w.Write([]byte("content"))
	})
	mux.HandleFunc("/named", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Disposition", `attachment; filename="../../by-server"`)
		w.Write([]byte("named"))
	})
	mux.HandleFunc("/Dockerfile.txt", func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte("FROM busybox\nRUN echo lone > /lone\n"))
	})
	mux.HandleFunc("/context.tar", func(w http.ResponseWriter, _ *http.Request) { w.Write(archived) })
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL, commit
}

func TestAddFetches(t *testing.T) {
	b := newBench(t)
	b.busybox()
	packed := archive(t, []file{{name: "inside", body: "unpacked"}})
	at, commit := remotes(t, packed)
	out, err := b.build(Request{Tags: []string{"scene"}}, `FROM scratch
ADD `+at+`/dir/data.txt /url/
ADD --checksum=sha256:ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73 --chmod=644 --chown=3:4 `+at+`/dir/data.txt /url/renamed
ADD `+at+`/named /url/
ADD `+at+`/context.tar /packed/
ADD --unpack=true `+at+`/context.tar /unpacked/
ADD `+at+`/repo.git /git/head
ADD `+at+`/repo.git#v1:sub /git/sub
ADD --checksum=`+commit+` `+at+`/repo.git?ref=v1 /git/v1
ADD --keep-git-dir=true --exclude=.git/* `+at+`/repo.git#`+commit[:12]+` /git/kept
`)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	const want = `0 0644 0:0 2020-02-02 git/head/file "second"
0 0644 0:0 2020-02-02 git/v1/file "first"
0 0755 0:0 2020-02-02 git/sub/run "#!/bin/sh\n"
0 0600 0:0 1970-01-01 packed/context.tar
0 0644 0:0 2023-11-14 unpacked/inside "unpacked"
0 0600 0:0 1970-01-01 url/by-server "named"
0 0600 0:0 2020-02-02 url/data.txt "content"
0 0644 3:4 2020-02-02 url/renamed "content"
5 0755 0:0 2020-02-02 git/kept/.git`
	got := b.listing("scene")
	for line := range strings.Lines(want) {
		if !strings.Contains(got, strings.TrimSpace(line)) {
			t.Errorf("the image lacks %s", line)
		}
	}
	if strings.Contains(got, "git/head/.git") || t.Failed() {
		t.Errorf("the image has\n%s", got)
	}
	// The same commits and files are the same step.
	if again, err := b.build(Request{}, "FROM scratch\nADD "+at+"/dir/data.txt /url/\n"); err != nil || !strings.Contains(again, "Using cache") {
		t.Errorf("a second build: %v\n%s", err, again)
	}
}

func TestAddRefuses(t *testing.T) {
	b := newBench(t)
	at, _ := remotes(t, nil)
	for name, c := range map[string]struct {
		add, want string
		kind      problem.Kind
	}{
		"missing":          {at + "/nothing /", "failed to GET " + at + "/nothing with status 404", problem.NotFound},
		"nobody there":     {"http://127.0.0.1:1/x /", "connection refused", problem.Unavailable},
		"another content":  {"--checksum=sha256:" + strings.Repeat("0", 64) + " " + at + "/named /", "digest mismatch sha256:", problem.Invalid},
		"another commit":   {"--checksum=" + strings.Repeat("0", 40) + " " + at + "/repo.git#v1 /", "expected checksum to match 0000", problem.Invalid},
		"no such ref":      {at + "/repo.git#nothing /", "does not contain ref nothing", problem.NotFound},
		"an option as ref": {at + "/repo.git?ref=--upload-pack=touch /", "invalid git ref", problem.Invalid},
		"no such subdir":   {at + "/repo.git#v1:nothing /", "file does not exist", problem.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := b.build(Request{}, "FROM scratch\nADD "+c.add+"\n")
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %s: %s", err, c.kind, c.want)
			}
		})
	}
}

func TestRemoteContexts(t *testing.T) {
	b := newBench(t)
	b.busybox()
	at, _ := remotes(t, archive(t, []file{{name: "x/Dockerfile", body: "FROM busybox\nCOPY a /from-tar\n"}, {name: "a"}}))
	for remote, c := range map[string]struct{ dockerfile, want string }{
		at + "/repo.git#v1:sub": {"", "from-git"},
		at + "/context.tar":     {"x/Dockerfile", "from-tar"},
		at + "/Dockerfile.txt":  {"", "lone"},
	} {
		req := Request{Remote: remote, Dockerfile: c.dockerfile, Tags: []string{"scene"}, Context: bytes.NewReader(nil)}
		if _, err := b.Build(ctx, req, nil); err != nil {
			t.Errorf("%s: %v", remote, err)
		} else if got := b.listing("scene"); !strings.Contains(got, " "+c.want+" ") {
			t.Errorf("%s: the image lacks %s:\n%s", remote, c.want, got)
		}
	}
	if _, err := b.Build(ctx, Request{Remote: "ftp://example.org/x"}, nil); !errors.Is(err, problem.Invalid) {
		t.Errorf("ftp: %v", err)
	}
}

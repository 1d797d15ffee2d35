package builder

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"
	"golang.org/x/sys/unix"

	"gantry/internal/problem"
	"gantry/internal/tree"
)

// checkout is the work tree of a git repository, in a temporary directory.
type checkout struct {
	dir  string
	root *tree.Root
}

// Close removes it.
func (c *checkout) Close() error { return errors.Join(c.root.Close(), os.RemoveAll(c.dir)) }

// commitID is a full commit hash, SHA-1 or SHA-256.
var commitID = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// checkOut fetches one commit of a repository into a new directory below tmp,
// by the host's git. All times are the commit's, and modes are those that git
// keeps, whatever the umask: equal commits give equal trees.
func checkOut(ctx context.Context, ref *dfgitutil.GitRef, tmp string) (_ *checkout, err error) {
	program, err := exec.LookPath("git")
	if err != nil {
		return nil, problem.New(problem.Unsupported, "%s: repositories are fetched by the host's git, which is not installed: %w", ref.Remote, err)
	}
	dir, err := os.MkdirTemp(tmp, "git-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	g := git{program: program, dir: dir, remote: ref.Remote}
	if _, err := g.run(ctx, "init", "-q"); err != nil {
		return nil, err
	}
	if err := g.fetch(ctx, ref); err != nil {
		return nil, err
	}
	head, err := g.run(ctx, "rev-parse", "HEAD")
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(head, ref.Checksum) {
		return nil, problem.New(problem.Invalid, "expected checksum to match %s, got %s", ref.Checksum, head)
	}
	if ref.Submodules == nil || *ref.Submodules {
		if _, err := g.run(ctx, "submodule", "update", "-q", "--init", "--recursive"); err != nil {
			return nil, err
		}
	}
	seconds, err := g.run(ctx, "log", "-1", "--format=%ct")
	if err != nil {
		return nil, err
	}
	when, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return nil, err
	}
	if err := settle(dir, time.Unix(when, 0), ref.KeepGitDir != nil && *ref.KeepGitDir); err != nil {
		return nil, err
	}
	root, err := tree.OpenRoot(dir)
	return &checkout{dir: dir, root: root}, err
}

// git runs the host's git in one directory.
type git struct{ program, dir, remote string }

func (g git) run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, g.program, args...)
	cmd.Dir = g.dir
	// No question to a person, nothing of the host's or a user's configuration,
	// and no protocol that runs a program or reads the host's files.
	cmd.Env = append(os.Environ(), "GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_ALLOW_PROTOCOL=http:https:git:ssh", "GIT_SSH_COMMAND=ssh -o BatchMode=yes", "HOME="+g.dir, "LC_ALL=C")
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return "", cause
		}
		return "", problem.New(problem.Unavailable, "git %s of %s: %w: %s", args[0], g.remote, err, strings.TrimSpace(problems.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

// fetch gets the commit that ref names and checks it out: alone where the server
// can, else with all there is.
func (g git) fetch(ctx context.Context, ref *dfgitutil.GitRef) error {
	want := ref.Ref
	if want == "" {
		want = "HEAD"
	}
	if strings.HasPrefix(want, "-") {
		return problem.New(problem.Invalid, "invalid git ref %q", want)
	}
	if _, err := g.run(ctx, "fetch", "-q", "--depth=1", "--no-tags", "--", g.remote, want); err == nil {
		_, err = g.run(ctx, "checkout", "-q", "FETCH_HEAD")
		return err
	} else if ctx.Err() != nil {
		return err
	}
	// A commit's abbreviation, or a server that gives whole histories only.
	if _, err := g.run(ctx, "fetch", "-q", "--tags", "--", g.remote, "+refs/heads/*:refs/remotes/origin/*", "+HEAD:refs/remotes/origin/HEAD"); err != nil {
		return err
	}
	for _, name := range []string{"refs/remotes/origin/" + want, "refs/tags/" + want, want} {
		if !commitID.MatchString(want) && name == want && len(want) < 4 {
			break
		}
		if _, err := g.run(ctx, "checkout", "-q", "--detach", name); err == nil {
			return nil
		}
	}
	return problem.New(problem.NotFound, "repository %s does not contain ref %s", g.remote, want)
}

// settle gives every file the mode that git keeps of it, and one time.
func settle(dir string, when time.Time, keepGit bool) error {
	if !keepGit {
		if err := os.RemoveAll(filepath.Join(dir, ".git")); err != nil {
			return err
		}
	}
	ts := unix.NsecToTimespec(when.UnixNano())
	return filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if info.IsDir() || info.Mode()&0o100 != 0 {
			mode = 0o755
		}
		if info.IsDir() || info.Mode().IsRegular() {
			if err := os.Chmod(p, mode); err != nil {
				return err
			}
		}
		return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	})
}

// context makes a build context of a directory of the work tree.
func (c *checkout) context(ctx context.Context, subDir, tmp string, arrived func(int64)) (*buildContext, error) {
	dir, err := c.root.Handle(subDir)
	if err != nil {
		return nil, problem.New(problem.Invalid, "context directory %s: %w", subDir, err)
	}
	root := tree.NewRoot(dir)
	r, w := io.Pipe()
	packed := make(chan error, 1) // one result
	go func() {
		_, err := tree.Pack(ctx, w, root)
		packed <- errors.Join(err, w.CloseWithError(err))
	}()
	got, err := receive(ctx, r, tmp, arrived)
	err = errors.Join(err, r.Close(), <-packed, root.Close())
	if err != nil && got != nil {
		err = errors.Join(err, got.Close())
		got = nil
	}
	return got, err
}

package clients

import (
	"archive/tar"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gantry/internal/testenv"
	"gantry/test/harness"
)

// TestGoClients runs testdata/golang, a module of its own: moby's Go client, and
// testcontainers with a reaper in the place of ryuk, under the name of its image.
func TestGoClients(t *testing.T) {
	s := start(t)
	dir := t.TempDir()
	buildGo(t, "test", "-c", "-o", filepath.Join(dir, "clients.test"), ".")
	buildGo(t, "build", "-o", filepath.Join(dir, "reaper"), "./reaper")
	s.Docker("import", "--change", `ENTRYPOINT ["/reaper"]`, "--change", "EXPOSE 8080",
		programArchive(t, filepath.Join(dir, "reaper")), reaperImage(t))

	t.Setenv("HOME", dir) // it has no settings of testcontainers
	t.Setenv("TESTCONTAINERS_HOST_OVERRIDE", "127.0.0.1")
	t.Setenv("RYUK_RECONNECTION_TIMEOUT", "1s")
	r := s.Try("", filepath.Join(dir, "clients.test"), "-test.v", "-test.timeout", "4m")
	for _, line := range regexp.MustCompile(`(?m)^--- .*$`).FindAllString(r.Stdout, -1) {
		t.Log(line)
	}
	if r.Code != 0 || !strings.HasSuffix(r.Stdout, "PASS\n") {
		t.Fatalf("exit status %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	if strings.Contains(r.Stdout, "no tests to run") {
		t.Error("nothing ran")
	}
	harness.Eventually(t, "what the reaper leaves", func() error {
		left := s.Docker("ps", "-aq") + s.Docker("volume", "ls", "-q") + s.Docker("network", "ls", "-q", "--filter", "type=custom") + s.Docker("images", "-q", "left")
		if left != "" {
			return fmt.Errorf("%s", left)
		}
		return nil
	})
}

// buildGo runs the go command in the module of the Go clients. That is done
// outside of the server's namespace: modules may have to be fetched.
func buildGo(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.Command(testenv.NeedCommand(t, "go"), args...)
	cmd.Dir = "testdata/golang"
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// reaperImage is the image that this version of testcontainers runs.
func reaperImage(t *testing.T) string {
	t.Helper()
	cmd := exec.Command("go", "list", "-f", "{{.Dir}}", "github.com/testcontainers/testcontainers-go/internal/config")
	cmd.Dir = "testdata/golang"
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "config.go"))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`ReaperDefaultImage = "(.+)"`).FindSubmatch(source)
	if found == nil {
		t.Fatal("testcontainers names no image of a reaper")
	}
	return string(found[1])
}

// programArchive makes an archive with a program in its root.
func programArchive(t *testing.T, program string) string {
	t.Helper()
	content, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Create(program + ".tar")
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(file)
	err = w.WriteHeader(&tar.Header{Name: filepath.Base(program), Mode: 0o755, Size: int64(len(content))})
	if err == nil {
		_, err = w.Write(content)
	}
	if err := errors.Join(err, w.Close(), file.Close()); err != nil {
		t.Fatal(err)
	}
	return file.Name()
}

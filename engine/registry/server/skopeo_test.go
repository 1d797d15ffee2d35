package server

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gantry/internal/testenv"
)

// TestSkopeo copies images to the registry and from it with another client,
// which asks for tokens on the way.
func TestSkopeo(t *testing.T) {
	program := testenv.NeedCommand(t, "skopeo")
	users, err := parseUsers([]byte(testUsers + "anonymous:\n  pull: [open, box]\n"))
	if err != nil {
		t.Fatal(err)
	}
	h := newHost(t, users)
	h.built("box:1", "content")
	dir := t.TempDir()
	at := "docker://" + strings.TrimPrefix(h.http.URL, "http://")
	try := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), program, append([]string{"--insecure-policy", "--tmpdir", dir}, args...)...)
		cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_RUNTIME_DIR="+dir)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	do := func(args ...string) string {
		t.Helper()
		out, err := try(args...)
		if err != nil {
			t.Fatalf("skopeo %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return out
	}
	layout := "oci:" + filepath.Join(dir, "layout") + ":1"
	do("copy", "--src-tls-verify=false", at+"/box:1", layout) // the engine's own, by nobody known
	do("copy", "--dest-tls-verify=false", "--dest-creds", "root:secret", layout, at+"/open:1")
	do("copy", "--dest-tls-verify=false", "--dest-creds", "ann:secret", layout, at+"/team/web:1")
	do("copy", "--dest-tls-verify=false", "--dest-creds", "ann:secret", "--format", "v2s2", layout, at+"/team/web:2")
	if out, err := try("copy", "--dest-tls-verify=false", "--dest-creds", "ann:secret", layout, at+"/open:2"); err == nil || !strings.Contains(out, "denied") {
		t.Errorf("beyond the user's rights: %v\n%s", err, out)
	}
	if out, err := try("inspect", "--tls-verify=false", at+"/team/web:1"); err == nil || !strings.Contains(out, "denied") {
		t.Errorf("without a name: %v\n%s", err, out)
	}
	if out := do("inspect", "--tls-verify=false", at+"/open:1"); !strings.Contains(out, `"Digest": "sha256:`) {
		t.Errorf("inspect:\n%s", out)
	}
	if out := do("list-tags", "--tls-verify=false", "--creds", "ann:secret", at+"/team/web"); !strings.Contains(out, `"1"`) || !strings.Contains(out, `"2"`) {
		t.Errorf("tags:\n%s", out)
	}
	do("copy", "--src-tls-verify=false", "--src-creds", "ann:secret", "--dest-tls-verify=false", "--dest-creds", "ann:secret", at+"/team/web:2", at+"/team/other:1")
	do("delete", "--tls-verify=false", "--creds", "ann:secret", at+"/team/web:2")
	if out := do("list-tags", "--tls-verify=false", "--creds", "ann:secret", at+"/team/web"); strings.Contains(out, `"2"`) {
		t.Errorf("tags after the removal:\n%s", out)
	}
}

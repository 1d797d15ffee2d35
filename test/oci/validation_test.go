// Package oci runs what other projects test OCI runtimes with against gantry-oci.
package oci

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"gantry/internal/testenv"
)

const tools = "github.com/opencontainers/runtime-tools"

// passing are the programs of runtime-tools' validation directory that are run.
// Of the others,
//
//   - delete wants an error for a container that was created: as runc does,
//     delete removes it, and podman counts on that;
//   - hooks_stdin compares fields that it has mixed up; start, misc_props and
//     pidfile fail by themselves, before the runtime could: with runc too;
//   - linux_ns_itype wants containers without a mount namespace, which are refused;
//   - process_capabilities_fail wants an error for an unknown capability, where
//     runtime-spec 1.1 and later want a warning;
//   - process_capabilities, process_rlimits, linux_rootfs_propagation and
//     linux_seccomp want CAP_SYS_RESOURCE, which build machines have not got, or
//     a host with a controller or a security module that they lack: all
//     linux_cgroups_*, linux_mount_label, linux_process_apparmor_profile;
//   - delete_only_create_resources leaves a cgroup behind;
//   - kill, kill_no_effect, killsig and linux_ns_path pass, and wait for less than a
//     loaded machine may need.
var passing = []string{
	"config_updates_without_affect", "create", "default", "delete_resources", "hooks", "hostname", "linux_devices", "linux_masked_paths",
	"linux_ns_nopath", "linux_ns_path_type", "linux_readonly_paths", "linux_sysctl", "linux_uid_mappings", "mounts", "poststart",
	"poststart_fail", "poststop", "poststop_fail", "prestart", "prestart_fail", "process", "process_oom_score_adj",
	"process_rlimits_fail", "process_user", "root_readonly_true", "state",
}

var failed = regexp.MustCompile(`(?m)^not ok .*$`)

func TestRuntimeToolsValidation(t *testing.T) {
	testenv.NeedRoot(t)
	program := filepath.Join(os.Getenv("GANTRY_BIN"), "gantry-oci")
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("GANTRY_BIN is to name the directory of the programs: %v", err)
	}
	dir := t.TempDir()
	if err := passThrough(dir); err != nil {
		t.Fatal(err)
	}
	source := strings.TrimSpace(output(t, "go", "list", "-m", "-f", "{{.Dir}}", tools))
	args := []string{"build", "-o", dir + "/", tools + "/cmd/runtimetest"}
	for _, name := range passing {
		args = append(args, tools+"/validation/"+name)
	}
	output(t, "go", args...)
	// The programs know no flags for the runtime.
	wrapper := filepath.Join(dir, "runtime")
	script := "#!/bin/sh\nexec " + program + " --root " + filepath.Join(dir, "containers") + ` "$@"` + "\n"
	if err := os.WriteFile(wrapper, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, id := range strings.Fields(output(t, wrapper, "list", "--quiet")) {
			output(t, wrapper, "delete", "--force", id)
		}
	})
	for _, name := range passing {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			work := t.TempDir()
			archive := "rootfs-" + runtime.GOARCH + ".tar.gz"
			err := errors.Join(passThrough(work),
				os.Symlink(filepath.Join(source, archive), filepath.Join(work, archive)),
				os.Link(filepath.Join(dir, "runtimetest"), filepath.Join(work, "runtimetest")))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, filepath.Join(dir, name))
			cmd.Dir, cmd.Env = work, append(os.Environ(), "RUNTIME="+wrapper, "TMPDIR="+work)
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &stdout, &stderr, time.Minute
			err = cmd.Run()
			if bad := failed.FindAllString(stdout.String(), 20); err != nil || len(bad) > 0 {
				t.Errorf("%v\n%s\n%s", err, strings.Join(bad, "\n"), stderr.String())
			}
		})
	}
}

// passThrough lets the users of a user namespace through to a test's directory.
func passThrough(dir string) error {
	return errors.Join(os.Chmod(filepath.Dir(dir), 0o711), os.Chmod(dir, 0o711))
}

// output runs a command beside the module that pins runtime-tools.
func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = "validation", append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, stderrOf(err))
	}
	return string(out)
}

func stderrOf(err error) string {
	if e, ok := err.(*exec.ExitError); ok {
		return string(e.Stderr)
	}
	return ""
}

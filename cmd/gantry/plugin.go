package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"gantry/internal/instance"
)

var pluginName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`)

// runPlugin becomes gantry-NAME if args begin, after --instance, with a NAME
// that is no command of ours. It returns only when there is nothing to run.
func runPlugin(root *cobra.Command, args []string) (code int, ran bool) {
	name := os.Getenv("GANTRY_INSTANCE")
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		value, isInstance := strings.CutPrefix(args[0], "--instance")
		switch {
		case !isInstance:
			return 0, false
		case strings.HasPrefix(value, "="):
			name, args = value[1:], args[1:]
		case value == "" && len(args) > 1:
			name, args = args[1], args[2:]
		default:
			return 0, false
		}
	}
	if len(args) == 0 || !pluginName.MatchString(args[0]) || isOurs(root, args[0]) {
		return 0, false
	}
	path, err := companion("gantry-" + args[0])
	if err != nil {
		return 0, false // cobra tells which commands there are
	}
	cfg, _, err := instance.Find(name)
	if err != nil {
		return explain(err, false), true
	}
	if needs, known := map[string]string{"kubectl": cfg.Kubeconfig(), "docker": cfg.DockerSocket()}[args[0]]; known {
		if _, err := os.Stat(needs); errors.Is(err, fs.ErrNotExist) {
			return explain(notRunning(cfg), false), true
		}
	}
	environment := append(os.Environ(),
		"GANTRY_INSTANCE="+cfg.Name,
		"KUBECONFIG="+cfg.Kubeconfig(),
		"DOCKER_HOST=unix://"+cfg.DockerSocket())
	err = syscall.Exec(path, append([]string{path}, args[1:]...), environment)
	return explain(fmt.Errorf("run %s: %w", path, err), false), true
}

func isOurs(root *cobra.Command, name string) bool {
	if name == "help" || name == "completion" || strings.HasPrefix(name, "__") {
		return true
	}
	for _, c := range root.Commands() {
		if c.Name() == name || c.HasAlias(name) {
			return true
		}
	}
	return false
}

// companion finds a program beside this one, or on PATH.
func companion(name string) (string, error) {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), name)
		if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() {
			return beside, nil
		}
	}
	path, err := exec.LookPath(name)
	if errors.Is(err, exec.ErrDot) {
		return "", err // never what lies in the working directory
	}
	return path, err
}

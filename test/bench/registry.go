package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"time"
)

// registryRows are what registries gives, in order.
var registryRows = []aim{
	{pushEmpty, "1.5 s"}, {pushPresent, "0.03 s"}, {pullLarge, "1.8 s"},
}

const (
	pushEmpty   = "push of 300 MiB in 5 layers to an empty registry (Debian's docker-registry)"
	pushPresent = "the same, all present"
	pullLarge   = "pull of it"
)

// registries measures pushes and pulls of a large image, to and from a registry
// on loopback, with the stock client.
func registries(ctx context.Context, b *bench) ([]row, error) {
	if _, err := exec.LookPath("docker-registry"); err != nil {
		return nil, nil
	}
	archive := filepath.Join(b.work, "registry-image.tar")
	if err := writeImage(archive); err != nil {
		return nil, err
	}
	return b.beside(ctx, registryRows, func(ctx context.Context, t *target, log *bytes.Buffer) (map[string]string, error) {
		return measureRegistry(ctx, b, t, log, archive)
	})
}

// measureRegistry takes the figures of one engine, which starts empty. Each try
// has a registry of its own.
func measureRegistry(ctx context.Context, b *bench, t *target, log *bytes.Buffer, archive string) (map[string]string, error) {
	if err := t.start(ctx, log); err != nil {
		return nil, err
	}
	took := map[string][]time.Duration{}
	for range 3 {
		one, err := pushAndPull(ctx, b, t, archive)
		if err != nil {
			return nil, err
		}
		for name, d := range one {
			took[name] = append(took[name], d)
		}
	}
	out := map[string]string{}
	for name, list := range took {
		next := 0
		d, err := median(len(list), func() (time.Duration, error) { next++; return list[next-1], nil })
		if err != nil {
			return nil, err
		}
		out[name] = ms(d)
	}
	return out, nil
}

func pushAndPull(ctx context.Context, b *bench, t *target, archive string) (took map[string]time.Duration, err error) {
	at, stop, err := startRegistry(ctx, b)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	name := at + "/large:1"
	took = map[string]time.Duration{}
	for _, step := range []struct {
		name string
		args []string
	}{
		{"", []string{"load", "-q", "-i", archive}},
		{"", []string{"tag", "large", name}},
		{pushEmpty, []string{"push", "-q", name}},
		{pushPresent, []string{"push", "-q", name}},
		{"", []string{"rmi", name, "large"}},
		{pullLarge, []string{"pull", "-q", name}},
		{"", []string{"rmi", name}},
	} {
		d, err := t.docker(ctx, step.args...)
		if err != nil {
			return nil, err
		}
		if step.name != "" {
			took[step.name] = d
		}
	}
	return took, nil
}

var registryListens = regexp.MustCompile(`listening on (127\.0\.0\.1:[0-9]+)`)

// startRegistry runs Debian's docker-registry on an empty directory.
func startRegistry(ctx context.Context, b *bench) (address string, stop func() error, err error) {
	dir, err := os.MkdirTemp(b.work, "registry")
	if err != nil {
		return "", nil, err
	}
	config := fmt.Sprintf("version: 0.1\nlog: {level: info}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: '127.0.0.1:0'}\n", dir)
	file := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return "", nil, err
	}
	cmd := exec.CommandContext(ctx, "docker-registry", "serve", file)
	log, err := cmd.StderrPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	drained := make(chan struct{})
	stop = func() error {
		_ = cmd.Process.Kill() // it may have ended
		<-drained
		_ = cmd.Wait() // it was killed
		return os.RemoveAll(dir)
	}
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		if at := registryListens.FindStringSubmatch(lines.Text()); at != nil {
			go func() {
				defer close(drained)
				_, _ = io.Copy(io.Discard, log) // until it is killed
			}()
			return at[1], stop, nil
		}
	}
	close(drained)
	return "", nil, errors.Join(errors.New("docker-registry did not start"), stop())
}

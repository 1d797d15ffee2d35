package main

import (
	"log/slog"
	"strings"

	"gantry/engine/image"
	"gantry/engine/registry"
	"gantry/internal/problem"
	"gantry/internal/version"
)

// openRegistryClient returns what reaches registries for docker pull, FROM and
// pods.
func (s *server) openRegistryClient(images *image.Store, log *slog.Logger) (*registry.Client, error) {
	mirrors := map[string][]string{}
	for _, m := range s.cfg.RegistryMirrors {
		host, url, ok := strings.Cut(m, "=")
		if !ok || strings.Contains(host, "/") {
			host, url = "docker.io", m
		}
		mirrors[host] = append(mirrors[host], url)
	}
	client, err := registry.New(registry.Config{
		Images: images, CertDirs: s.cfg.RegistryCerts, Mirrors: mirrors, Insecure: s.cfg.InsecureRegistries,
		UserAgent: "gantry/" + version.Version, Logger: log,
	})
	if err != nil {
		return nil, &problem.UserError{Op: "read settings", Err: err, Try: "mend --registry-mirror or --insecure-registry"}
	}
	return client, nil
}

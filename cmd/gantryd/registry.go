package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"

	"gantry/engine/image"
	"gantry/engine/registry"
	registryserver "gantry/engine/registry/server"
	"gantry/internal/instance"
	"gantry/internal/preflight"
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
	var policy *registry.Policy
	if s.cfg.SignaturePolicy != "" {
		var err error
		if policy, err = registry.ReadPolicy(s.cfg.SignaturePolicy); err != nil {
			return nil, &problem.UserError{Op: "read", Object: s.cfg.SignaturePolicy, Err: err, Try: "write it as docs/registry.md shows"}
		}
	}
	client, err := registry.New(registry.Config{
		Images: images, CertDirs: s.cfg.RegistryCerts, Mirrors: mirrors, Insecure: s.cfg.InsecureRegistries,
		Policy: policy, Dir: filepath.Join(s.cfg.DataDir, "registry"),
		UserAgent: "gantry/" + version.Version, Logger: log,
	})
	if err != nil {
		return nil, &problem.UserError{Op: "read settings", Err: err, Try: "mend --registry-mirror or --insecure-registry"}
	}
	return client, nil
}

// openRegistry opens the registry that is served. It is opened even where it
// does not listen: the image store has to know what it keeps.
func (s *server) openRegistry(images *image.Store, client *registry.Client, log *slog.Logger) (*registryserver.Server, error) {
	cfg := registryserver.Config{Dir: filepath.Join(s.cfg.DataDir, "registry"), Images: images, Logger: log}
	if len(s.cfg.RegistryPullThrough) > 0 {
		cfg.Upstream, cfg.PullThrough = client, s.cfg.RegistryPullThrough
	}
	if s.cfg.RegistryUsers != "" {
		users, err := registryserver.ReadUsers(s.cfg.RegistryUsers)
		if err != nil {
			return nil, &problem.UserError{Op: "read", Object: s.cfg.RegistryUsers, Err: err, Try: "write it as docs/registry.md shows"}
		}
		cfg.Users = users
	}
	return registryserver.Open(cfg)
}

// serveRegistry listens for the registry.
func (s *server) serveRegistry(ctx context.Context, g *errgroup.Group, h *registryserver.Server) error {
	if s.cfg.Disabled("registry") {
		return nil
	}
	return s.progress.Step("registry", func() error {
		conf, err := registryTLS(s.cfg)
		if err != nil {
			return err
		}
		l, note, err := listenRegistry(s.cfg.RegistryListen)
		if note != "" {
			s.note(note)
		}
		if err != nil || l == nil {
			return err
		}
		if conf != nil {
			l = tls.NewListener(l, conf)
		}
		serveHTTP(ctx, g, "registry", l, h)
		return nil
	})
}

// registryTLS returns the registry's certificate, or nil on loopback without
// one. Beyond loopback the registry wants users and a certificate.
func registryTLS(cfg instance.Config) (*tls.Config, error) {
	if cfg.RegistryTLSCert != "" || cfg.RegistryTLSKey != "" {
		pair, err := tls.LoadX509KeyPair(cfg.RegistryTLSCert, cfg.RegistryTLSKey)
		if err != nil {
			return nil, &problem.UserError{Op: "read", Object: "the registry's certificate", Err: err, Try: "name both files with --registry-tls-cert and --registry-tls-key"}
		}
		if !loopbackOnly(cfg.RegistryListen) && cfg.RegistryUsers == "" {
			return nil, unprotected(cfg.RegistryListen)
		}
		return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
	}
	if !loopbackOnly(cfg.RegistryListen) {
		return nil, unprotected(cfg.RegistryListen)
	}
	return nil, nil
}

func unprotected(address string) error {
	return &problem.UserError{
		Op: "listen", Object: address,
		Err: problem.New(problem.Denied, "beyond loopback the registry needs users and a certificate"),
		Try: "give --registry-users, --registry-tls-cert and --registry-tls-key, or listen on 127.0.0.1",
	}
}

// loopbackOnly tells whether an address is reachable from this host alone.
func loopbackOnly(address string) bool {
	if address == "" {
		return true
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// listenRegistry listens at address. Where none was named and the default's port
// is taken, there is no registry, and note says why.
func listenRegistry(address string) (l net.Listener, note string, err error) {
	at := address
	if at == "" {
		at = instance.DefaultRegistry
	}
	l, err = listenTCP(at)
	if err == nil {
		return l, "", nil
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		return nil, "", &problem.UserError{Op: "listen", Object: at, Err: err, Try: "name another address with --registry-listen"}
	}
	_, port, _ := net.SplitHostPort(at) // it was listened at
	taken := fmt.Sprintf("port %s is taken by %s", port, preflight.PortOwner(port))
	if address == "" {
		return nil, taken + ": there is no registry; name another address with --registry-listen", nil
	}
	return nil, "", &problem.UserError{Op: "listen", Object: at, Err: problem.New(problem.Conflict, "%s", taken), Try: "name another address with --registry-listen"}
}

package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"gantry/engine/network"
	"gantry/internal/atomicfile"
	"gantry/internal/fault"
	"gantry/internal/problem"
)

// sandboxConfig is the content of a sandbox's config.json.
type sandboxConfig struct {
	Version      int
	ID           string
	Created      time.Time
	Spec         SandboxSpec
	Boot         string // the host's boot: namespaces of another are gone
	Stopped      bool   `json:",omitempty"`
	Namespace    string `json:",omitempty"`
	Endpoints    []network.Endpoint
	Publications []network.Publication
}

// sandboxRecord is one sandbox in memory.
type sandboxRecord struct {
	op sync.Mutex // serialises stop and remove; held across I/O; before Engine.mu

	mu  sync.Mutex
	cfg sandboxConfig
}

func (s *sandboxRecord) config() sandboxConfig {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cfg
}

func (e *Engine) sandboxDir(id string) string { return filepath.Join(e.cfg.Dir, "sandboxes", id) }

// sandboxRun holds a sandbox's pinned namespaces, which no reboot survives.
func (e *Engine) sandboxRun(id string) string { return filepath.Join(e.cfg.RunDir, "sandboxes", id) }

func (c *sandboxConfig) cgroup() string {
	if c.Spec.CgroupParent != "" {
		return c.Spec.CgroupParent
	}
	return "pods/" + c.ID
}

// CreateSandbox makes a pod's network, IPC and UTS namespaces, its cgroup and
// its files. It returns when the sandbox is ready and durable.
//
// Errors: Invalid, Conflict (a host port).
func (e *Engine) CreateSandbox(ctx context.Context, spec SandboxSpec) (Sandbox, error) {
	if err := e.checkReady(); err != nil {
		return Sandbox{}, err
	}
	if err := validateSandbox(spec); err != nil {
		return Sandbox{}, err
	}
	boot, err := bootID()
	if err != nil {
		return Sandbox{}, err
	}
	s := &sandboxRecord{cfg: sandboxConfig{Version: recordVersion, ID: newID(), Created: time.Now().UTC(), Spec: spec, Boot: boot}}
	if err := e.makeSandbox(ctx, &s.cfg); err != nil {
		cleanup := context.WithoutCancel(ctx)
		return Sandbox{}, errors.Join(err, e.unmakeSandbox(cleanup, &s.cfg), os.RemoveAll(e.sandboxDir(s.cfg.ID)))
	}
	e.mu.Lock()
	e.sandboxes[s.cfg.ID] = s
	e.mu.Unlock()
	return s.snapshot(), nil
}

func validateSandbox(spec SandboxSpec) error {
	if strings.Contains(spec.CgroupParent, "..") || strings.HasPrefix(spec.CgroupParent, "/") {
		return invalid("cgroup parent %q must be relative, without \"..\"", spec.CgroupParent)
	}
	if spec.Hostname != "" && !validHostname.MatchString(spec.Hostname) {
		return invalid("invalid hostname format: %s", spec.Hostname)
	}
	for _, server := range spec.DNS.Servers {
		if _, err := netip.ParseAddr(server); err != nil {
			return invalid("name server: %w", err)
		}
	}
	if spec.HostNetwork && slices.ContainsFunc(spec.Ports, func(p PortMapping) bool { return p.HostPort != 0 && p.HostPort != p.ContainerPort }) {
		return invalid("a pod on the host's network cannot map a port to another")
	}
	for name := range spec.Sysctls {
		if key := strings.ReplaceAll(name, "/", "."); strings.HasPrefix(key, "net.") && spec.HostNetwork || strings.Contains(name, "..") {
			return invalid("sysctl %q not allowed in host network namespace", name)
		}
	}
	return nil
}

// makeSandbox makes everything, the record last.
func (e *Engine) makeSandbox(ctx context.Context, cfg *sandboxConfig) error {
	dir := e.sandboxDir(cfg.ID)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	net, err := e.connectSandbox(ctx, cfg)
	cfg.Namespace, cfg.Endpoints, cfg.Publications = net.namespace, net.endpoints, net.publications
	if err != nil {
		return err
	}
	if err := e.pin(cfg); err != nil {
		return err
	}
	if err := e.limitSandbox(ctx, cfg); err != nil {
		return err
	}
	if err := e.writeSandboxFiles(cfg); err != nil {
		return err
	}
	if err := fault.At("engine/sandbox/before-record"); err != nil {
		return err
	}
	if err := atomicfile.WriteJSON(filepath.Join(dir, configFile), cfg, 0o600); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(dir))
}

func (e *Engine) connectSandbox(ctx context.Context, cfg *sandboxConfig) (net connection, err error) {
	if cfg.Spec.HostNetwork {
		return net, nil
	}
	if net.namespace, err = e.cfg.Networks.NewNamespace(ctx, cfg.ID); err != nil {
		return net, err
	}
	ep, err := e.cfg.Networks.Attach(ctx, network.AttachRequest{Namespace: net.namespace, Container: cfg.ID, Network: network.Pods})
	if err != nil {
		return net, err
	}
	net.endpoints = []network.Endpoint{ep}
	p := network.Publication{
		Container: cfg.ID, Name: cfg.Spec.Namespace + "/" + cfg.Spec.Name,
		Network: ep.Network, Address: ep.Address.Addr(),
	}
	for _, m := range cfg.Spec.Ports {
		if m.HostPort != 0 {
			p.Ports = append(p.Ports, network.PortBinding{
				ContainerPort: m.ContainerPort, Protocol: string(m.Protocol), HostIP: m.HostIP, HostPort: m.HostPort,
			})
		}
	}
	if len(p.Ports) == 0 {
		return net, nil
	}
	if p.Ports, err = e.cfg.Networks.Publish(ctx, p); err != nil {
		return net, err
	}
	net.publications = []network.Publication{p}
	return net, nil
}

func (e *Engine) writeSandboxFiles(cfg *sandboxConfig) error {
	r, err := network.HostResolver()
	if err != nil {
		return err
	}
	if dns := cfg.Spec.DNS; len(dns.Servers)+len(dns.Searches)+len(dns.Options) > 0 {
		r = network.Resolver{Search: dns.Searches, Options: dns.Options}
		for _, text := range dns.Servers {
			server, err := netip.ParseAddr(text)
			if err != nil {
				return invalid("name server: %w", err)
			}
			r.Servers = append(r.Servers, server)
		}
	}
	var hosts []network.HostEntry
	for _, ep := range cfg.Endpoints {
		hosts = append(hosts, network.HostEntry{Address: ep.Address.Addr(), Names: []string{cfg.hostname()}})
	}
	content := network.HostsFile(hosts)
	if cfg.Spec.HostNetwork {
		if content, err = os.ReadFile("/etc/hosts"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return writeIdentity(e.sandboxDir(cfg.ID), content, network.ResolvConf(r), cfg.hostname())
}

func (c *sandboxConfig) hostname() string {
	switch {
	case c.Spec.HostNetwork:
		return hostHostname()
	case c.Spec.Hostname != "":
		return c.Spec.Hostname
	case c.Spec.Name != "":
		return c.Spec.Name[:min(len(c.Spec.Name), 63)]
	}
	return c.ID[:12]
}

// unmakeSandbox gives back all that makeSandbox took from the kernel. It may be
// repeated.
func (e *Engine) unmakeSandbox(ctx context.Context, cfg *sandboxConfig) error {
	net := connection{cfg.Namespace, cfg.Endpoints, cfg.Publications}
	return errors.Join(e.disconnect(ctx, cfg.ID, net), e.unpin(cfg.ID), e.cfg.Runtime.RemoveGroup(ctx, cfg.cgroup()))
}

// StopSandbox kills the containers of a sandbox and gives its namespaces,
// address and ports back. Stopping a stopped one does nothing.
func (e *Engine) StopSandbox(ctx context.Context, id string) error {
	s, err := e.findSandbox(id)
	if err != nil {
		return err
	}
	s.op.Lock()
	defer s.op.Unlock()
	return e.stopSandboxLocked(ctx, s)
}

func (e *Engine) stopSandboxLocked(ctx context.Context, s *sandboxRecord) error {
	cfg := s.config()
	if cfg.Stopped {
		return nil
	}
	now := time.Duration(0)
	for _, r := range e.containersOf(cfg.ID) {
		if err := e.stop(ctx, r, StopOptions{Signal: "KILL", Timeout: &now}); err != nil && !errors.Is(err, ErrNotModified) {
			return err
		}
	}
	if err := e.unmakeSandbox(ctx, &cfg); err != nil {
		return err
	}
	cfg.Stopped = true
	cfg.Namespace, cfg.Endpoints, cfg.Publications = "", nil, nil
	if err := atomicfile.WriteJSON(filepath.Join(e.sandboxDir(cfg.ID), configFile), cfg, 0o600); err != nil {
		return err
	}
	s.mu.Lock()
	s.cfg = cfg
	s.mu.Unlock()
	return nil
}

// RemoveSandbox stops a sandbox and removes it and its containers. Removing one
// which does not exist does nothing.
func (e *Engine) RemoveSandbox(ctx context.Context, id string) error {
	s, err := e.findSandbox(id)
	if errors.Is(err, problem.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	s.op.Lock()
	defer s.op.Unlock()
	cfg := s.config()
	if err := e.stopSandboxLocked(ctx, s); err != nil {
		return err
	}
	for _, r := range e.containersOf(cfg.ID) {
		err := e.Remove(ctx, r.id, RemoveOptions{Force: true, Volumes: true})
		if err != nil && !errors.Is(err, problem.NotFound) {
			return err
		}
	}
	dir := e.sandboxDir(cfg.ID)
	if err := os.Remove(filepath.Join(dir, configFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	e.mu.Lock()
	delete(e.sandboxes, cfg.ID)
	e.mu.Unlock()
	return errors.Join(atomicfile.SyncDir(dir), os.RemoveAll(dir))
}

func (e *Engine) containersOf(sandbox string) []*record {
	return slices.DeleteFunc(e.all(), func(r *record) bool { return r.config().Sandbox != sandbox })
}

// Sandbox returns what is known about a sandbox. id may be abbreviated.
func (e *Engine) Sandbox(ctx context.Context, id string) (Sandbox, error) {
	s, err := e.findSandbox(id)
	if err != nil {
		return Sandbox{}, err
	}
	return s.snapshot(), nil
}

// Sandboxes returns every sandbox, newest first.
func (e *Engine) Sandboxes(ctx context.Context) []Sandbox {
	e.mu.Lock()
	list := make([]Sandbox, 0, len(e.sandboxes))
	for _, s := range e.sandboxes {
		list = append(list, s.snapshot())
	}
	e.mu.Unlock()
	slices.SortFunc(list, func(a, b Sandbox) int { return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID)) })
	return list
}

func (e *Engine) findSandbox(id string) (*sandboxRecord, error) {
	if err := e.checkReady(); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if s, ok := e.sandboxes[id]; ok {
		return s, nil
	}
	var found *sandboxRecord
	for full, s := range e.sandboxes {
		if id == "" || !strings.HasPrefix(full, id) {
			continue
		}
		if found != nil {
			return nil, invalid("multiple sandboxes found with provided prefix: %s", id)
		}
		found = s
	}
	if found == nil {
		return nil, problem.New(problem.NotFound, "No such sandbox: %s", id)
	}
	return found, nil
}

func (s *sandboxRecord) snapshot() Sandbox {
	cfg := s.config()
	out := Sandbox{SandboxSpec: cfg.Spec, ID: cfg.ID, Created: cfg.Created, State: SandboxReady, NetworkNamespace: cfg.Namespace}
	if cfg.Stopped {
		out.State = SandboxNotReady
	}
	for _, ep := range cfg.Endpoints {
		out.IPs = append(out.IPs, ep.Address.Addr())
	}
	return out
}

// surround gives a container what it joins of its sandbox.
func (s *sandboxRecord) surround(e *Engine, in *surroundings) error {
	cfg := s.config()
	if cfg.Stopped {
		return problem.New(problem.Conflict, "sandbox %s is not ready", cfg.ID)
	}
	run := e.sandboxRun(cfg.ID)
	in.network, in.cgroup, in.files, in.hostname = cfg.Namespace, cfg.cgroup(), e.sandboxDir(cfg.ID), cfg.hostname()
	if !cfg.Spec.HostIPC {
		in.ipc, in.shm = filepath.Join(run, "ipc"), filepath.Join(run, "shm")
	}
	if !cfg.Spec.HostNetwork {
		in.uts = filepath.Join(run, "uts")
	}
	return nil
}

func readSandbox(dir string) (cfg sandboxConfig, err error) {
	data, err := os.ReadFile(filepath.Join(dir, configFile))
	if err != nil {
		return cfg, err
	}
	if err := json.Unmarshal(data, &cfg); err != nil {
		return cfg, fmt.Errorf("%s: %w", configFile, err)
	}
	if cfg.Version != recordVersion || cfg.ID != filepath.Base(dir) {
		return cfg, fmt.Errorf("%s has version %d and id %q", configFile, cfg.Version, cfg.ID)
	}
	return cfg, nil
}

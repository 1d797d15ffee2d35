package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	dcontainer "github.com/moby/moby/api/types/container"
	dnetwork "github.com/moby/moby/api/types/network"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gantry/engine/builder"
	"gantry/engine/container"
	"gantry/engine/network"
	"gantry/internal/fault"
)

// StepRunner runs the RUN steps of builds as containers of an engine. They are
// not listed, and do not outlive the build.
type StepRunner struct{ Engine *Engine }

var _ builder.Runner = StepRunner{}

// stepDir holds the files of a build step while it runs.
func (e *Engine) stepDir(id string) string { return filepath.Join(e.cfg.Dir, "steps", id) }

// sweepSteps removes what a crash left of build steps. Their processes and
// namespaces have gone with the sweeps before.
func (e *Engine) sweepSteps() error {
	entries, err := os.ReadDir(e.stepDir(""))
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := os.RemoveAll(e.stepDir(entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

// Run implements builder.Runner.
func (s StepRunner) Run(ctx context.Context, spec builder.RunSpec) (code int, err error) {
	e := s.Engine
	if err := e.checkReady(); err != nil {
		return 0, err
	}
	cfg := stepConfig(spec)
	if err := validateHost(cfg.HostConfig); err != nil {
		return 0, err
	}
	dir := e.stepDir(spec.ID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, err
	}
	cleanup := context.WithoutCancel(ctx)
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	net, err := e.connect(ctx, cfg)
	defer func() { err = errors.Join(err, e.disconnect(cleanup, spec.ID, net)) }()
	if err != nil {
		return 0, err
	}
	oci, err := e.stepSpec(cfg, spec, net, dir)
	if err != nil {
		return 0, err
	}
	if oci.Process.ApparmorProfile, err = e.confine(ctx, cfg.HostConfig); err != nil {
		return 0, err
	}
	proc, err := e.cfg.Runtime.Create(ctx, container.Spec{
		ID: spec.ID, Dir: dir, OCI: oci, Log: container.Log{Format: container.LogNone},
		Overlay: &container.Overlay{Lower: spec.Lower, Upper: spec.Upper, Work: spec.Work},
	})
	if err != nil {
		return 0, newStartFailure(err)
	}
	defer func() { err = errors.Join(err, proc.Delete(cleanup)) }()
	if err := fault.At("engine/step/before-start"); err != nil {
		return 0, err
	}
	return follow(ctx, proc, spec)
}

// follow runs a step's process to its end, with its output.
func follow(ctx context.Context, proc *container.Container, spec builder.RunSpec) (int, error) {
	var startErr error
	actx, cancel := context.WithCancel(ctx)
	defer cancel()
	attachErr := proc.Attach(actx, container.Streams{Stdout: spec.Stdout, Stderr: spec.Stderr}, func() {
		if startErr = proc.Start(ctx); startErr != nil {
			cancel()
		}
	})
	switch {
	case startErr != nil && ctx.Err() == nil:
		return 0, newStartFailure(startErr)
	case ctx.Err() != nil:
		return 0, ctx.Err() // Delete, in the caller, kills it
	case attachErr != nil:
		return 0, fmt.Errorf("output of step: %w", attachErr)
	}
	exit, err := proc.Wait(ctx)
	return exit.Code, err
}

// stepConfig is a step as a container's configuration.
func stepConfig(spec builder.RunSpec) *config {
	mode := dcontainer.NetworkMode(spec.Network)
	if mode == "" || mode.IsDefault() {
		mode = network.Bridge
	}
	l := spec.Limits
	host := &dcontainer.HostConfig{
		NetworkMode: mode, ExtraHosts: spec.Hosts, ShmSize: l.ShmSize, IpcMode: dcontainer.IPCModePrivate, CgroupnsMode: dcontainer.CgroupnsModePrivate,
		Resources: dcontainer.Resources{
			CgroupParent: l.Cgroup, Memory: l.Memory, MemorySwap: l.MemorySwap, CPUShares: l.CPUShares, CPUPeriod: l.CPUPeriod,
			CPUQuota: l.CPUQuota, CpusetCpus: l.CPUSet, CpusetMems: l.CPUSetMems,
		},
	}
	for _, u := range l.Ulimits {
		host.Ulimits = append(host.Ulimits, &dcontainer.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	applyDefaults(host)
	cfg := &config{ID: spec.ID, HostConfig: host}
	cfg.Config = &dcontainer.Config{Hostname: spec.ID[:min(12, len(spec.ID))], User: spec.User, WorkingDir: spec.Dir, Env: spec.Env}
	cfg.Path, cfg.Args = spec.Args[0], spec.Args[1:]
	cfg.Networks = map[string]*dnetwork.EndpointSettings{string(mode): nil}
	return cfg
}

func (e *Engine) stepSpec(cfg *config, spec builder.RunSpec, net connection, dir string) (*specs.Spec, error) {
	root := append(layers{spec.Upper}, spec.Lower...)
	account, err := root.lookUp(spec.User, nil)
	if err != nil {
		return nil, err
	}
	namespace, files, err := e.stepNetwork(cfg, net, dir)
	if err != nil {
		return nil, err
	}
	parent := "builds"
	if l := spec.Limits.Cgroup; l != "" {
		parent = l
	}
	oci, err := buildSpec(cfg, surroundings{
		account: account, network: namespace, files: files, cgroup: parent,
		hostname: cfg.Config.Hostname, possible: e.capabilities,
	})
	if err != nil {
		return nil, err
	}
	for _, m := range spec.Mounts {
		oci.Mounts = append(oci.Mounts, stepMount(m))
	}
	return oci, nil
}

// stepNetwork returns a step's network namespace, and the directory of its hosts,
// hostname and resolv.conf.
func (e *Engine) stepNetwork(cfg *config, net connection, dir string) (namespace, files string, err error) {
	if mode := cfg.HostConfig.NetworkMode; mode.IsContainer() {
		namespace, err := e.namespaceOf(mode.ConnectedContainer())
		return namespace, e.filesOf(cfg), err
	}
	hosts, err := hostsFile(cfg, net, nil)
	if err != nil {
		return "", "", err
	}
	resolv, err := resolvConf(cfg, usesNames(net.endpoints))
	if err != nil {
		return "", "", err
	}
	return net.namespace, dir, writeIdentity(dir, hosts, resolv, cfg.Config.Hostname)
}

func stepMount(m builder.Mount) specs.Mount {
	out := specs.Mount{Destination: m.Target, Type: "bind", Source: m.Source, Options: []string{"rbind", "rprivate"}}
	switch {
	case len(m.Lower) > 0:
		out = specs.Mount{Destination: m.Target, Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + strings.Join(m.Lower, ":")}}
		if m.Upper != "" {
			out.Options = append(out.Options, "upperdir="+m.Upper, "workdir="+m.Work)
		}
	case m.Source == "":
		out = specs.Mount{Destination: m.Target, Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev"}}
		if m.Bytes > 0 {
			out.Options = append(out.Options, "size="+strconv.FormatInt(m.Bytes, 10))
		}
	}
	if m.ReadOnly {
		out.Options = append(out.Options, "ro")
	}
	return out
}

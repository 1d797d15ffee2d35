// Package cri is the Kubernetes Container Runtime Interface over package engine:
// a thin translation of sandboxes, containers and images, in process (Service
// implements the interfaces of k8s.io/cri-api) and, by Serve, on a socket with
// gRPC, for crictl or a foreign kubelet.
//
// It keeps no state and runs no goroutines but those of its callers. What CRI
// knows of a container and the engine does not (its attempt, its annotations,
// the name of its sandbox) is kept in the engine's labels and annotations; keys
// that begin with "io.gantry.cri/" are this package's own and never shown.
//
// Containers are named k8s_CONTAINER_POD_NAMESPACE_UID_ATTEMPT, so that they
// can be recognised in `docker ps`.
//
// A field that is not supported is refused by its name. Refused now: user
// namespaces, process namespaces shared by a pod, SELinux labels, seccomp
// profiles from files, huge pages, CDI devices, image volumes, checkpoints,
// reopening of logs (the engine rotates them itself).
package cri

import (
	"context"
	"errors"

	dimage "github.com/opencontainers/go-digest"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"gantry/engine"
	"gantry/engine/image"
	"gantry/engine/registry"
	"gantry/internal/problem"
)

// Config is what a Service needs.
type Config struct {
	Engine *engine.Engine
	Images *image.Store
	// Registry pulls images; nil: only those that are here can be run.
	Registry *registry.Client
	Version  string // of Gantry
	Dir      string // whose file system ImageFsInfo reports; the image store's
}

// Service implements RuntimeService and ImageManagerService.
type Service struct {
	cfg Config
}

var (
	_ internalapi.RuntimeService      = (*Service)(nil)
	_ internalapi.ImageManagerService = (*Service)(nil)
)

// New returns a Service.
func New(cfg Config) (*Service, error) {
	if cfg.Engine == nil || cfg.Images == nil {
		return nil, errors.New("cri: engine and images are required")
	}
	if cfg.Version == "" {
		cfg.Version = "0.1.0" // the interface wants a semantic version
	}
	return &Service{cfg: cfg}, nil
}

func unsupported(what string) error {
	return problem.New(problem.Unsupported, "%s is not supported by this version of Gantry", what)
}

// Version names the runtime.
func (s *Service) Version(context.Context, string) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{Version: "0.1.0", RuntimeName: "gantry", RuntimeVersion: s.cfg.Version, RuntimeApiVersion: "v1"}, nil
}

// Status tells whether pods can be run: once the engine has restored what was
// there before.
func (s *Service) Status(context.Context, bool) (*runtimeapi.StatusResponse, error) {
	ready := &runtimeapi.RuntimeCondition{Type: runtimeapi.RuntimeReady, Status: true}
	network := &runtimeapi.RuntimeCondition{Type: runtimeapi.NetworkReady, Status: true}
	select {
	case <-s.cfg.Engine.Ready():
	default:
		ready.Status, ready.Reason, ready.Message = false, "Restoring", "the engine is restoring its containers"
	}
	return &runtimeapi.StatusResponse{Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{ready, network}}}, nil
}

// RuntimeConfig tells that cgroups are made directly, without systemd.
func (s *Service) RuntimeConfig(context.Context) (*runtimeapi.RuntimeConfigResponse, error) {
	return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: runtimeapi.CgroupDriver_CGROUPFS}}, nil
}

// UpdateRuntimeConfig takes a node's pod range and, as the engine's network
// chooses addresses itself, has no use for it.
func (s *Service) UpdateRuntimeConfig(context.Context, *runtimeapi.RuntimeConfig) error { return nil }

// Close does nothing: the engine outlives its translation.
func (s *Service) Close(context.Context) error { return nil }

// checkReady refuses to list while the engine restores: an empty answer would
// make a kubelet start everything again.
func (s *Service) checkReady() error {
	select {
	case <-s.cfg.Engine.Ready():
		return nil
	default:
		return problem.New(problem.Unavailable, "the engine is restoring its containers")
	}
}

// matches tells whether labels hold all that selector asks for.
func matches(labels, selector map[string]string) bool {
	for k, v := range selector {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// imageID is an image's ID as CRI carries it.
func imageID(d dimage.Digest) string { return d.String() }

package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	dcontainer "github.com/moby/moby/api/types/container"
	devents "github.com/moby/moby/api/types/events"
	dnetwork "github.com/moby/moby/api/types/network"

	"gantry/engine/network"
	"gantry/internal/problem"
)

// ConnectNetwork attaches a container to one more network, at once if it runs.
//
// Errors: NotFound, Conflict if it is attached already, Denied if its network
// is the host's or another container's.
func (e *Engine) ConnectNetwork(ctx context.Context, name, ref string, wish *dnetwork.EndpointSettings) error {
	r, err := e.find(ref)
	if err != nil {
		return err
	}
	if wish == nil {
		wish = &dnetwork.EndpointSettings{}
	}
	if err := r.lock(ctx); err != nil {
		return err
	}
	defer r.unlock()
	old := r.config()
	switch mode := old.HostConfig.NetworkMode; {
	case old.Sandbox != "" || mode.IsContainer():
		return problem.New(problem.Denied, "container sharing network namespace with another container or host cannot be connected to any other network")
	case mode.IsHost() || name == network.HostMode:
		return problem.New(problem.Denied, "cannot connect container to host network - container must be created in host network mode")
	case mode.IsNone() || name == network.None:
		return problem.New(problem.Denied, "container cannot be connected to multiple networks with one of the networks in private (none) mode")
	case old.Networks[name] != nil:
		return problem.New(problem.Denied, "endpoint with name %s already exists in network %s", old.Name, name)
	}
	if err := e.checkEndpoint(name, wish); err != nil {
		return err
	}
	cfg := *old
	cfg.Networks = maps.Clone(old.Networks)
	cfg.Networks[name] = wish
	if r.running() == nil {
		return r.reconfigure(&cfg)
	}
	_, st := r.view()
	ep, err := e.cfg.Networks.Attach(ctx, attachRequest(&cfg, name, connection{st.Namespace, st.Endpoints, nil}))
	if err != nil {
		return err
	}
	err = r.reconfigure(&cfg)
	if err == nil {
		err = r.change(soon, func(st *state) { st.Endpoints = append(slices.Clone(st.Endpoints), ep) })
	}
	if err != nil {
		return errors.Join(err, e.cfg.Networks.Detach(context.WithoutCancel(ctx), ep, network.RemoveLink))
	}
	e.Emit(devents.NetworkEventType, devents.ActionConnect, ep.Network, map[string]string{"container": r.id, "name": name, "type": "bridge"})
	return nil
}

// DisconnectNetwork detaches a container from a network, at once if it runs.
//
// Errors: NotFound, Conflict if it is not attached.
func (e *Engine) DisconnectNetwork(ctx context.Context, name, ref string) error {
	r, err := e.find(ref)
	if err != nil {
		return err
	}
	if err := r.lock(ctx); err != nil {
		return err
	}
	defer r.unlock()
	old, st := r.view()
	if old.HostConfig.NetworkMode.IsHost() {
		return problem.New(problem.Denied, "container cannot be disconnected from host network or connected to host network")
	}
	if _, ok := old.Networks[name]; !ok {
		return problem.New(problem.Denied, "container %s is not connected to network %s", r.id, name)
	}
	if len(old.Networks) == 1 {
		return problem.New(problem.Unsupported, "disconnecting a container from its last network is not supported by this version of Gantry")
	}
	if len(st.Publications) > 0 && st.Endpoints[0].Name == name {
		return problem.New(problem.Unsupported, "disconnecting a container from the network that its ports are published on is not supported by this version of Gantry")
	}
	cfg := *old
	cfg.Networks = maps.Clone(old.Networks)
	delete(cfg.Networks, name)
	if string(cfg.HostConfig.NetworkMode) == name {
		host := *cfg.HostConfig
		host.NetworkMode = dcontainer.NetworkMode(slices.Sorted(maps.Keys(cfg.Networks))[0])
		cfg.HostConfig = &host
	}
	at := slices.IndexFunc(st.Endpoints, func(ep network.Endpoint) bool { return ep.Name == name })
	if at >= 0 {
		ep := st.Endpoints[at]
		if err := e.cfg.Networks.Detach(ctx, ep, network.RemoveLink); err != nil {
			return fmt.Errorf("disconnect container %s: %w", r.id, err)
		}
		err := r.change(soon, func(st *state) { st.Endpoints = slices.Delete(slices.Clone(st.Endpoints), at, at+1) })
		if err != nil {
			return err
		}
		e.Emit(devents.NetworkEventType, devents.ActionDisconnect, ep.Network, map[string]string{"container": r.id, "name": name, "type": "bridge"})
	}
	return r.reconfigure(&cfg)
}

// PruneNetworks removes the user-defined networks that no container is made for.
func (e *Engine) PruneNetworks(ctx context.Context, f Filters) (dnetwork.PruneReport, error) {
	report := dnetwork.PruneReport{NetworksDeleted: []string{}}
	keep, err := PruneFilter(f)
	if err != nil {
		return report, err
	}
	for _, n := range e.cfg.Networks.List() {
		used := slices.ContainsFunc(e.all(), func(r *record) bool { _, on := r.config().Networks[n.Name]; return on })
		if n.Predefined() || used || !keep(n.Created, n.Labels) {
			continue
		}
		err := e.cfg.Networks.Remove(ctx, n.ID)
		if errors.Is(err, problem.Conflict) || errors.Is(err, problem.NotFound) || errors.Is(err, problem.Denied) {
			continue
		}
		if err != nil {
			return report, err
		}
		report.NetworksDeleted = append(report.NetworksDeleted, n.Name)
	}
	return report, nil
}

package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

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
	net := connection{st.Namespace, slices.Clone(st.Endpoints), st.Publications}
	ep, err := e.cfg.Networks.Attach(ctx, attachRequest(&cfg, name, net))
	if err != nil {
		return err
	}
	net.endpoints = append(net.endpoints, ep)
	if err := errors.Join(r.reconfigure(&cfg), e.rewire(ctx, r, &cfg, net)); err != nil {
		return errors.Join(err, e.unplug(context.WithoutCancel(ctx), r, old, ep))
	}
	e.emitEndpoint(devents.ActionConnect, ep)
	return nil
}

func (e *Engine) emitEndpoint(action devents.Action, ep network.Endpoint) {
	e.Emit(devents.NetworkEventType, action, ep.Network, map[string]string{"container": ep.Container, "name": ep.Name, "type": ep.Driver})
}

// unplug takes an interface off a running container, which goes on by cfg.
func (e *Engine) unplug(ctx context.Context, r *record, cfg *config, ep network.Endpoint) error {
	_, st := r.view()
	is := func(other network.Endpoint) bool { return other.ID == ep.ID }
	net := connection{st.Namespace, slices.DeleteFunc(slices.Clone(st.Endpoints), is), st.Publications}
	// The routes and ports first, so that as little as possible is lost.
	err := errors.Join(r.reconfigure(cfg), e.rewire(ctx, r, cfg, net))
	return errors.Join(err, e.cfg.Networks.Detach(ctx, ep, network.RemoveLink))
}

// DisconnectNetwork detaches a container from a network, at once if it runs.
//
// Errors: NotFound, Denied if it is not attached.
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
	cfg := *old
	cfg.Networks = maps.Clone(old.Networks)
	delete(cfg.Networks, name)
	at := slices.IndexFunc(st.Endpoints, func(ep network.Endpoint) bool { return ep.Name == name })
	if at < 0 {
		return r.reconfigure(&cfg)
	}
	ep := st.Endpoints[at]
	if err := e.unplug(ctx, r, &cfg, ep); err != nil {
		return fmt.Errorf("disconnect container %s: %w", r.id, err)
	}
	e.emitEndpoint(devents.ActionDisconnect, ep)
	return nil
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
		e.Emit(devents.NetworkEventType, devents.ActionDestroy, n.ID, map[string]string{"name": n.Name, "type": n.Driver})
	}
	e.Emit(devents.NetworkEventType, devents.ActionPrune, "", map[string]string{"reclaimed": "0"})
	return report, nil
}

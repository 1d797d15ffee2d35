package engine

import (
	"cmp"
	"errors"
	"maps"

	dcontainer "github.com/moby/moby/api/types/container"
	dnetwork "github.com/moby/moby/api/types/network"

	"gantry/engine/network"
	"gantry/internal/problem"
)

// resolveNetworks decides which networks the container is attached to.
func (e *Engine) resolveNetworks(cfg *config, wish *dnetwork.NetworkingConfig) error {
	mode := cfg.HostConfig.NetworkMode
	if cfg.Config.NetworkDisabled {
		mode, cfg.HostConfig.NetworkMode = network.None, network.None
	}
	var endpoints map[string]*dnetwork.EndpointSettings
	if wish != nil {
		endpoints = maps.Clone(wish.EndpointsConfig)
	}
	if cfg.Sandbox != "" {
		if len(endpoints) > 0 || len(cfg.HostConfig.PortBindings) > 0 {
			return invalid("a sandbox's container has the sandbox's network and ports")
		}
		_, err := e.findSandbox(cfg.Sandbox)
		return err
	}
	if mode.IsContainer() {
		if len(endpoints) > 0 || len(cfg.HostConfig.PortBindings) > 0 || cfg.HostConfig.PublishAllPorts {
			return invalid("conflicting options: port publishing and the container type network mode")
		}
		joined, err := e.joinable(mode.ConnectedContainer())
		cfg.HostConfig.NetworkMode = dcontainer.NetworkMode(joined)
		return err
	}
	if mode.IsHost() || mode.IsNone() {
		delete(endpoints, string(mode))
		if len(endpoints) > 0 {
			return invalid("conflicting options: cannot attach both user-defined networks and %s network mode", mode)
		}
		cfg.Networks = map[string]*dnetwork.EndpointSettings{string(mode): {}}
		return nil
	}
	var err error
	if cfg.Networks, err = e.byNetworkName(endpoints); err != nil {
		return err
	}
	if name := e.networkName(string(mode)); cfg.Networks[name] == nil {
		cfg.Networks[name] = &dnetwork.EndpointSettings{}
	}
	if err := exclusiveNetworks(cfg.Networks); err != nil {
		return err
	}
	for name, settings := range cfg.Networks {
		if err := e.checkEndpoint(name, settings); err != nil {
			return err
		}
	}
	return nil
}

// byNetworkName keys endpoints by their networks' names, whatever they were
// asked for by.
func (e *Engine) byNetworkName(endpoints map[string]*dnetwork.EndpointSettings) (map[string]*dnetwork.EndpointSettings, error) {
	byName := map[string]*dnetwork.EndpointSettings{}
	for ref, settings := range endpoints {
		if ref == dnetwork.NetworkDefault {
			ref = network.Bridge
		}
		name := e.networkName(ref)
		if _, twice := byName[name]; twice {
			return nil, invalid("conflicting options: network %s is given twice", name)
		}
		byName[name] = cmp.Or(settings, &dnetwork.EndpointSettings{})
	}
	return byName, nil
}

// exclusiveNetworks refuses what the networks host and none do not go with.
func exclusiveNetworks(networks map[string]*dnetwork.EndpointSettings) error {
	for name := range networks {
		if mode := dcontainer.NetworkMode(name); (mode.IsHost() || mode.IsNone()) && len(networks) > 1 {
			return invalid("conflicting options: cannot attach both user-defined and non-user-defined network-modes")
		}
	}
	return nil
}

// networkName is the name of a network that is given by name or ID.
func (e *Engine) networkName(ref string) string {
	if n, err := e.cfg.Networks.Inspect(ref); err == nil {
		return n.Name
	}
	return ref
}

// checkEndpoint refuses what an attachment asks for and does not get.
func (e *Engine) checkEndpoint(name string, s *dnetwork.EndpointSettings) error {
	n, err := e.cfg.Networks.Inspect(name)
	if errors.Is(err, problem.NotFound) {
		return nil // the start finds out: at a NotFound from here, clients pull the image
	}
	if err != nil {
		return err
	}
	if n.Name == network.Pods {
		return problem.New(problem.NotFound, "network %s not found", name)
	}
	if s == nil {
		return nil
	}
	if _, _, err := endpointOptions(s.DriverOpts); err != nil {
		return err
	}
	switch ipam := s.IPAMConfig; {
	case len(s.Aliases) > 0 && !dcontainer.NetworkMode(n.Name).IsUserDefined():
		return invalid("network-scoped alias is supported only for containers in user defined networks")
	case ipam == nil:
		return nil
	case (ipam.IPv4Address.IsValid() || ipam.IPv6Address.IsValid()) && n.Name == network.Bridge:
		return invalid("user specified IP address is supported on user defined networks only")
	case (ipam.IPv4Address.IsValid() || ipam.IPv6Address.IsValid()) && n.Chosen && !n.IPv6.Given:
		return invalid("user specified IP address is supported only when connecting to networks with user configured subnets")
	}
	return nil
}

package engine

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	dnetwork "github.com/moby/moby/api/types/network"

	"gantry/engine/network"
)

// rewire makes what follows from a running container's endpoints so: the
// default route, the published ports, the name service, its files and its state.
func (e *Engine) rewire(ctx context.Context, r *record, cfg *config, net connection) error {
	gateway := gatewayOf(cfg, net.endpoints)
	if err := e.cfg.Networks.SetGateway(net.namespace, gateway); err != nil {
		return err
	}
	err := e.republish(ctx, cfg, &net, gateway)
	_, st := r.view()
	if err == nil && usesNames(net.endpoints) {
		err = e.cfg.Networks.ServeNames(nameClient(cfg, net.namespace))
	}
	if err == nil {
		err = e.rewriteFiles(cfg, st.Endpoints, net)
	}
	return errors.Join(err, r.change(soon, func(st *state) { st.Endpoints, st.Publications = net.endpoints, net.publications }))
}

// gatewayOf chooses the endpoint with the default route, as the reference does:
// by priority, then by the network's name. Nil: none leads outside.
func gatewayOf(cfg *config, endpoints []network.Endpoint) *network.Endpoint {
	var best *network.Endpoint
	for i := range endpoints {
		ep := &endpoints[i]
		if ep.Gateway.IsValid() && (best == nil || compareGateways(cfg, ep.Name, best.Name) < 0) {
			best = ep
		}
	}
	return best
}

func compareGateways(cfg *config, a, b string) int {
	priority := func(name string) int {
		if s := cfg.Networks[name]; s != nil {
			return s.GwPriority
		}
		return 0
	}
	return cmp.Or(priority(b)-priority(a), strings.Compare(a, b))
}

// republish leads the published ports to the gateway's network.
func (e *Engine) republish(ctx context.Context, cfg *config, net *connection, gateway *network.Endpoint) error {
	switch {
	case gateway == nil:
		net.publications = nil
		return e.cfg.Networks.Unpublish(ctx, cfg.ID)
	case len(net.publications) == 0:
		pub, err := e.publish(ctx, cfg, gateway)
		net.publications = pub
		return err
	case net.publications[0].Network == gateway.Network:
		return nil
	}
	pub, err := e.cfg.Networks.Republish(ctx, cfg.ID, *gateway)
	net.publications = []network.Publication{pub}
	return err
}

// rewriteFiles changes the hosts file by the endpoints that came and went, and
// resolv.conf if the name service came or went. Both are bind mounts, so they
// are written in place.
func (e *Engine) rewriteFiles(cfg *config, before []network.Endpoint, net connection) error {
	dir := e.filesOf(cfg)
	path := filepath.Join(dir, "hosts")
	hosts, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	edited := editHosts(hosts, addressesOf(before), addressesOf(net.endpoints), hostnames(cfg))
	if err := os.WriteFile(path, edited, 0o644); err != nil {
		return err
	}
	if usesNames(before) == usesNames(net.endpoints) {
		return nil
	}
	resolv, err := resolvConf(cfg, usesNames(net.endpoints))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "resolv.conf"), resolv, 0o644)
}

func addressesOf(endpoints []network.Endpoint) []netip.Addr {
	var list []netip.Addr
	for _, ep := range endpoints {
		list = append(list, ep.Addresses()...)
	}
	return list
}

// editHosts removes the lines of addresses that went and adds those that came;
// what else a program wrote there stays.
func editHosts(hosts []byte, before, after []netip.Addr, names []string) []byte {
	var out bytes.Buffer
	for line := range bytes.Lines(hosts) {
		fields := bytes.Fields(line)
		if len(fields) > 0 {
			a, err := netip.ParseAddr(string(fields[0]))
			if err == nil && slices.Contains(before, a) && !slices.Contains(after, a) {
				continue
			}
		}
		out.Write(line)
	}
	for _, a := range after {
		if !slices.Contains(before, a) {
			out.WriteString(a.String() + "\t" + strings.Join(names, " ") + "\n")
		}
	}
	return out.Bytes()
}

// hostnames are the names of a container's own lines in its hosts file.
func hostnames(cfg *config) []string {
	if cfg.Config.Domainname != "" {
		return []string{cfg.Config.Hostname + "." + cfg.Config.Domainname, cfg.Config.Hostname}
	}
	return []string{cfg.Config.Hostname}
}

// publish opens the ports that a container asks for on the network of gateway.
func (e *Engine) publish(ctx context.Context, cfg *config, gateway *network.Endpoint) ([]network.Publication, error) {
	wanted, err := bindings(cfg)
	if err != nil || len(wanted) == 0 || gateway == nil {
		return nil, err
	}
	p := network.Publication{
		Container: cfg.ID, Name: cfg.Name, Network: gateway.Network,
		Address: gateway.Address.Addr(), Address6: gateway.Address6.Addr(), Ports: wanted,
	}
	if p.Ports, err = e.cfg.Networks.Publish(ctx, p); err != nil {
		return nil, err
	}
	return []network.Publication{p}, nil
}

// attachOrder lists a container's networks: the one of its mode first, as it
// gives eth0, and the others by name.
func attachOrder(networks map[string]*dnetwork.EndpointSettings, mode string) []string {
	names := make([]string, 0, len(networks))
	for name := range networks {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		switch {
		case a == mode:
			return -1
		case b == mode:
			return 1
		}
		return strings.Compare(a, b)
	})
	return names
}

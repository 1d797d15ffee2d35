package engine

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	devents "github.com/moby/moby/api/types/events"
	dnetwork "github.com/moby/moby/api/types/network"

	"gantry/engine/network"
)

// connection is what a running container has of the network.
type connection struct {
	namespace    string // path; empty: the host's, or another container's
	endpoints    []network.Endpoint
	publications []network.Publication
}

// connect gives a container its network namespace, addresses and ports. What
// it made is returned with an error too, for disconnect.
func (e *Engine) connect(ctx context.Context, cfg *config) (net connection, err error) {
	mode := cfg.HostConfig.NetworkMode
	if cfg.Sandbox != "" || mode.IsHost() || mode.IsContainer() {
		return net, nil
	}
	net.namespace, err = e.cfg.Networks.NewNamespace(ctx, cfg.ID)
	if err != nil || mode.IsNone() {
		return net, err
	}
	names := attachOrder(cfg.Networks, e.networkName(string(mode)))
	for _, name := range names {
		ep, err := e.cfg.Networks.Attach(ctx, attachRequest(cfg, name, net))
		if err != nil {
			return net, err
		}
		net.endpoints = append(net.endpoints, ep)
		e.emitEndpoint(devents.ActionConnect, ep)
	}
	gateway := gatewayOf(cfg, net.endpoints)
	if gateway != nil && gateway.ID != net.endpoints[0].ID { // the first has the route so far
		if err := e.cfg.Networks.SetGateway(net.namespace, gateway); err != nil {
			return net, err
		}
	}
	if usesNames(net.endpoints) {
		if err := e.cfg.Networks.ServeNames(nameClient(cfg, net.namespace)); err != nil {
			return net, err
		}
	}
	net.publications, err = e.publish(ctx, cfg, gateway)
	return net, err
}

// usesNames tells whether a container has the name service of user-defined
// networks.
func usesNames(endpoints []network.Endpoint) bool {
	return slices.ContainsFunc(endpoints, func(ep network.Endpoint) bool { return ep.Name != network.Bridge && ep.Name != network.Pods })
}

// nameClient is how the container asks for names.
func nameClient(cfg *config, namespace string) network.NameClient {
	return network.NameClient{
		Container: cfg.ID, Namespace: namespace, Servers: cfg.HostConfig.DNS,
		Ndots: slices.ContainsFunc(cfg.HostConfig.DNSOptions, isNdots),
	}
}

func isNdots(option string) bool { return strings.HasPrefix(option, "ndots:") }

// namesOf lists what the container is called on a user-defined network.
func namesOf(cfg *config, s *dnetwork.EndpointSettings) []string {
	names := []string{cfg.Name}
	if s != nil {
		names = append(names, s.Aliases...)
	}
	var unique []string
	for _, name := range append(names, cfg.ID[:12], cfg.Config.Hostname) {
		if name != "" && !slices.Contains(unique, name) {
			unique = append(unique, name)
		}
	}
	return unique
}

// renamed tells the name service of a running container's new name.
func (e *Engine) renamed(r *record) error {
	cfg, st := r.view()
	endpoints := slices.Clone(st.Endpoints)
	for i := range endpoints {
		endpoints[i].Aliases = namesOf(cfg, cfg.Networks[endpoints[i].Name])
		e.cfg.Networks.UpdateEndpoint(endpoints[i])
	}
	if len(endpoints) == 0 {
		return nil
	}
	return r.change(soon, func(st *state) { st.Endpoints = endpoints })
}

func attachRequest(cfg *config, name string, net connection) network.AttachRequest {
	req := network.AttachRequest{
		Namespace: net.namespace, Container: cfg.ID, Network: name,
		Aliases: namesOf(cfg, cfg.Networks[name]), Secondary: len(net.endpoints) > 0,
	}
	if s := cfg.Networks[name]; s != nil {
		req.MAC = s.MacAddress.String()
		req.Links = linksOf(s.Links)
		req.Interface, req.Sysctls, _ = endpointOptions(s.DriverOpts) // checked when it was asked for
		if s.IPAMConfig != nil {
			req.Address, req.Address6, req.LinkLocal = s.IPAMConfig.IPv4Address, s.IPAMConfig.IPv6Address, s.IPAMConfig.LinkLocalIPs
		}
	}
	return req
}

// linksOf reads NAME:ALIAS.
func linksOf(list []string) map[string]string {
	links := make(map[string]string, len(list))
	for _, link := range list {
		name, alias, ok := strings.Cut(link, ":")
		if !ok {
			alias = name
		}
		links[strings.ToLower(strings.TrimPrefix(alias, "/"))] = strings.TrimPrefix(name, "/")
	}
	return links
}

// bindings lists the ports to publish, in a fixed order.
func bindings(cfg *config) ([]network.PortBinding, error) {
	ports := maps.Clone(cfg.HostConfig.PortBindings)
	if ports == nil {
		ports = dnetwork.PortMap{}
	}
	if cfg.HostConfig.PublishAllPorts {
		for port := range cfg.Config.ExposedPorts {
			if len(ports[port]) == 0 {
				ports[port] = []dnetwork.PortBinding{{}}
			}
		}
	}
	var list []network.PortBinding
	for _, port := range sortedPorts(ports) {
		for _, b := range ports[port] {
			first, last, err := hostPorts(b.HostPort)
			if err != nil {
				return nil, err
			}
			list = append(list, network.PortBinding{
				ContainerPort: port.Num(), Protocol: string(port.Proto()),
				HostIP: b.HostIP, HostPort: first, HostPortEnd: last,
			})
		}
	}
	return list, nil
}

func sortedPorts[V any](ports map[dnetwork.Port]V) []dnetwork.Port {
	return slices.SortedFunc(maps.Keys(ports), func(a, b dnetwork.Port) int {
		if a.Num() != b.Num() {
			return int(a.Num()) - int(b.Num())
		}
		return strings.Compare(string(a.Proto()), string(b.Proto()))
	})
}

// disconnect gives back what connect took. It may be repeated.
func (e *Engine) disconnect(ctx context.Context, id string, net connection) error {
	var errs []error
	if len(net.publications) > 0 {
		errs = append(errs, e.cfg.Networks.Unpublish(ctx, id))
	}
	for _, ep := range net.endpoints {
		errs = append(errs, e.cfg.Networks.Detach(ctx, ep, network.LeaveLink))
		e.emitEndpoint(devents.ActionDisconnect, ep)
	}
	if net.namespace != "" {
		errs = append(errs, e.cfg.Networks.RemoveNamespace(ctx, id))
	}
	return errors.Join(errs...)
}

// writeFiles writes hosts, hostname and resolv.conf. They are remade by each
// start, so nothing waits for the disk.
func (e *Engine) writeFiles(cfg *config, net connection, linked []network.HostEntry) error {
	if cfg.Sandbox != "" {
		return nil
	}
	dir := e.containerDir(cfg.ID)
	if cfg.HostConfig.NetworkMode.IsContainer() {
		return nil // it has the other's
	}
	hosts, err := hostsFile(cfg, net, linked)
	if err != nil {
		return err
	}
	resolv, err := resolvConf(cfg, usesNames(net.endpoints))
	if err != nil {
		return err
	}
	return writeIdentity(dir, hosts, resolv, cfg.Config.Hostname)
}

func writeIdentity(dir string, hosts, resolv []byte, hostname string) error {
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "hosts"), hosts, 0o644),
		os.WriteFile(filepath.Join(dir, "resolv.conf"), resolv, 0o644),
		os.WriteFile(filepath.Join(dir, "hostname"), []byte(hostname+"\n"), 0o644),
	)
}

// filesOf is where a container's hosts, hostname and resolv.conf are: its own
// directory, its sandbox's, or that of the container whose network it joined.
func (e *Engine) filesOf(cfg *config) string {
	if cfg.Sandbox != "" {
		return e.sandboxDir(cfg.Sandbox)
	}
	if mode := cfg.HostConfig.NetworkMode; mode.IsContainer() {
		if other, err := e.find(mode.ConnectedContainer()); err == nil && other.id != cfg.ID {
			return e.filesOf(other.config())
		}
	}
	return e.containerDir(cfg.ID)
}

func hostsFile(cfg *config, net connection, linked []network.HostEntry) ([]byte, error) {
	extra, err := extraHosts(cfg.HostConfig.ExtraHosts, net)
	if err != nil {
		return nil, err
	}
	extra = append(extra, linked...)
	if cfg.HostConfig.NetworkMode.IsHost() {
		data, err := os.ReadFile("/etc/hosts")
		if err != nil && !os.IsNotExist(err) {
			return nil, err
		}
		for _, entry := range extra {
			data = append(data, entry.Address.String()+"\t"+strings.Join(entry.Names, " ")+"\n"...)
		}
		return data, nil
	}
	for _, address := range addressesOf(net.endpoints) {
		extra = append(extra, network.HostEntry{Address: address, Names: hostnames(cfg)})
	}
	return network.HostsFile(extra), nil
}

// extraHosts parses NAME:ADDRESS; "host-gateway" is the host, as the container
// sees it.
func extraHosts(list []string, net connection) ([]network.HostEntry, error) {
	var entries []network.HostEntry
	for _, item := range list {
		at := strings.IndexAny(item, ":=")
		if at <= 0 {
			return nil, invalid("bad format for add-host: %q", item)
		}
		name, text := item[:at], strings.Trim(item[at+1:], "[]")
		if text == hostGateway {
			gateway := netip.MustParseAddr("127.0.0.1") // on the host's own network
			if len(net.endpoints) > 0 {
				gateway = hostAddress(net)
			}
			text = gateway.String()
		}
		address, err := netip.ParseAddr(text)
		if err != nil {
			return nil, invalid("invalid IP address in add-host: %q", text)
		}
		entries = append(entries, network.HostEntry{Address: address, Names: []string{name}})
	}
	return entries, nil
}

// resolvConf renders a container's resolv.conf. named says that it asks
// 127.0.0.11, which in turn asks the servers that would be here otherwise.
func resolvConf(cfg *config, named bool) ([]byte, error) {
	h := cfg.HostConfig
	if h.NetworkMode.IsHost() && len(h.DNS)+len(h.DNSSearch)+len(h.DNSOptions) == 0 {
		data, err := os.ReadFile("/etc/resolv.conf")
		if os.IsNotExist(err) {
			return nil, nil
		}
		return data, err
	}
	r, err := network.HostResolver()
	if err != nil {
		return nil, err
	}
	if len(h.DNS) > 0 {
		r.Servers = h.DNS
	}
	if len(h.DNSSearch) > 0 {
		r.Search = slices.DeleteFunc(slices.Clone(h.DNSSearch), func(s string) bool { return s == "." })
	}
	if len(h.DNSOptions) > 0 {
		r.Options = h.DNSOptions
	}
	if named {
		r.Servers = []netip.Addr{network.NameServer}
		if !slices.ContainsFunc(r.Options, isNdots) {
			r.Options = append(slices.Clone(r.Options), "ndots:0") // names of one label are found here
		}
	}
	return network.ResolvConf(r), nil
}

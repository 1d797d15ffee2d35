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
	first := string(mode)
	names := slices.Sorted(maps.Keys(cfg.Networks))
	// The one named by the mode gives eth0 and the default route.
	names = append([]string{first}, slices.DeleteFunc(names, func(n string) bool { return n == first })...)
	for _, name := range names {
		ep, err := e.cfg.Networks.Attach(ctx, attachRequest(cfg, name, net))
		if err != nil {
			return net, err
		}
		net.endpoints = append(net.endpoints, ep)
		e.Emit(devents.NetworkEventType, devents.ActionConnect, ep.Network, map[string]string{"container": cfg.ID, "name": ep.Name, "type": "bridge"})
	}
	wanted, err := bindings(cfg)
	if err != nil || len(wanted) == 0 {
		return net, err
	}
	p := network.Publication{
		Container: cfg.ID, Name: cfg.Name, Network: net.endpoints[0].Network,
		Address: net.endpoints[0].Address.Addr(), Ports: wanted,
	}
	if p.Ports, err = e.cfg.Networks.Publish(ctx, p); err != nil {
		return net, err
	}
	net.publications = []network.Publication{p}
	return net, nil
}

func attachRequest(cfg *config, name string, net connection) network.AttachRequest {
	req := network.AttachRequest{
		Namespace: net.namespace, Container: cfg.ID, Network: name,
		Aliases: []string{cfg.Name, cfg.ID[:12]}, Secondary: len(net.endpoints) > 0,
	}
	if s := cfg.Networks[name]; s != nil {
		req.MAC = s.MacAddress.String()
		req.Aliases = append(req.Aliases, s.Aliases...)
		if s.IPAMConfig != nil {
			req.Address = s.IPAMConfig.IPv4Address
		}
	}
	return req
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
		e.Emit(devents.NetworkEventType, devents.ActionDisconnect, ep.Network, map[string]string{"container": id, "name": ep.Name, "type": "bridge"})
	}
	if net.namespace != "" {
		errs = append(errs, e.cfg.Networks.RemoveNamespace(ctx, id))
	}
	return errors.Join(errs...)
}

// writeFiles writes hosts, hostname and resolv.conf. They are remade by each
// start, so nothing waits for the disk.
func (e *Engine) writeFiles(cfg *config, net connection) error {
	if cfg.Sandbox != "" {
		return nil
	}
	dir := e.containerDir(cfg.ID)
	if mode := cfg.HostConfig.NetworkMode; mode.IsContainer() {
		return e.copyFiles(mode.ConnectedContainer(), dir)
	}
	hosts, err := hostsFile(cfg, net)
	if err != nil {
		return err
	}
	resolv, err := resolvConf(cfg)
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

// copyFiles gives a container that joins another's network the other's files.
func (e *Engine) copyFiles(ref, dir string) error {
	other, err := e.find(ref)
	if err != nil {
		return err
	}
	for _, name := range []string{"hosts", "resolv.conf", "hostname"} {
		data, err := os.ReadFile(filepath.Join(other.dir, name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func hostsFile(cfg *config, net connection) ([]byte, error) {
	extra, err := extraHosts(cfg.HostConfig.ExtraHosts, net)
	if err != nil {
		return nil, err
	}
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
	names := []string{cfg.Config.Hostname}
	if cfg.Config.Domainname != "" {
		names = []string{cfg.Config.Hostname + "." + cfg.Config.Domainname, cfg.Config.Hostname}
	}
	for _, ep := range net.endpoints {
		extra = append(extra, network.HostEntry{Address: ep.Address.Addr(), Names: names})
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
		if text == "host-gateway" {
			gateway := netip.MustParseAddr("127.0.0.1") // on the host's own network
			if len(net.endpoints) > 0 {
				gateway = net.endpoints[0].Gateway
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

func resolvConf(cfg *config) ([]byte, error) {
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
	return network.ResolvConf(r), nil
}

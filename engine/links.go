package engine

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	dcontainer "github.com/moby/moby/api/types/container"

	"gantry/engine/network"
)

// link is a legacy link of the default bridge: another container under a name
// of this one's own.
type link struct {
	ID    string // of the other, so that its renaming does not matter
	Alias string
}

// resolveLinks takes the links of the default bridge out of the host
// configuration. On other networks the name service knows them, by endpoint.
func (e *Engine) resolveLinks(cfg *config) error {
	h := cfg.HostConfig
	switch mode := h.NetworkMode; {
	case len(h.Links) == 0 || cfg.Sandbox != "":
		return nil
	case mode.IsHost():
		return invalid("conflicting options: host type networking can't be used with links. This would result in undefined behavior")
	case mode.IsContainer():
		return invalid("conflicting options: container type network can't be used with links. This would result in undefined behavior")
	case string(mode) != network.Bridge:
		return nil
	}
	for _, item := range h.Links {
		name, alias, named := strings.Cut(item, ":")
		if name == "" || named && alias == "" || strings.Contains(alias, ":") {
			return invalid("bad format for links: %s", item)
		}
		if !named {
			alias = name
		}
		// Inspect shows /db:/web/alias, and clients send that again.
		alias = alias[strings.LastIndexByte(alias, '/')+1:]
		other, err := e.find(name)
		if err != nil {
			return invalid("could not get container for %s: %v", name, err)
		}
		cfg.Links = append(cfg.Links, link{other.id, alias})
	}
	h.Links = nil
	return nil
}

// shownLinks is the host configuration as inspect shows it, with the links by
// their present names.
func (e *Engine) shownLinks(cfg *config) *dcontainer.HostConfig {
	if len(cfg.Links) == 0 {
		return cfg.HostConfig
	}
	shown := *cfg.HostConfig
	for _, l := range cfg.Links {
		if other, err := e.find(l.ID); err == nil {
			shown.Links = append(shown.Links, "/"+other.config().Name+":/"+cfg.Name+"/"+l.Alias)
		}
	}
	return &shown
}

// linked is what a container that starts gets of its links.
func (e *Engine) linked(cfg *config) (env []string, hosts []network.HostEntry, err error) {
	for _, l := range cfg.Links {
		other, err := e.find(l.ID)
		if err != nil {
			continue // removed: the reference forgets the link then
		}
		theirs, st := other.view()
		address := addressOn(network.Bridge, st.Endpoints)
		if other.running() == nil || !address.IsValid() {
			return nil, nil, invalid("Cannot link to a non running container: /%s AS /%s/%s", theirs.Name, cfg.Name, l.Alias)
		}
		env = append(env, linkEnvironment(cfg.Name, l.Alias, address, theirs)...)
		hosts = append(hosts, linkEntry(l.Alias, address, theirs))
	}
	return env, hosts, nil
}

func addressOn(name string, endpoints []network.Endpoint) netip.Addr {
	for _, ep := range endpoints {
		if ep.Name == name {
			return ep.Address.Addr()
		}
	}
	return netip.Addr{}
}

func linkEntry(alias string, address netip.Addr, theirs *config) network.HostEntry {
	names := []string{alias, theirs.Config.Hostname}
	if alias != theirs.Name {
		names = append(names, theirs.Name)
	}
	return network.HostEntry{Address: address, Names: names}
}

// linkEnvironment is the variables of a link, in the reference's form.
func linkEnvironment(parent, alias string, address netip.Addr, theirs *config) []string {
	prefix := strings.ReplaceAll(strings.ToUpper(alias), "-", "_")
	var env []string
	for i, port := range sortedPorts(theirs.Config.ExposedPorts) {
		number, protocol := strconv.Itoa(int(port.Num())), string(port.Proto())
		url := protocol + "://" + address.String() + ":" + number
		if i == 0 {
			env = append(env, prefix+"_PORT="+url)
		}
		one := prefix + "_PORT_" + number + "_" + strings.ToUpper(protocol)
		env = append(env, one+"="+url, one+"_ADDR="+address.String(), one+"_PORT="+number, one+"_PROTO="+protocol)
	}
	env = append(env, prefix+"_NAME=/"+parent+"/"+alias)
	for _, entry := range theirs.Config.Env {
		name, value, ok := strings.Cut(entry, "=")
		if ok && name != "HOME" && name != "PATH" {
			env = append(env, prefix+"_ENV_"+name+"="+value)
		}
	}
	return env
}

// relink tells running containers with a link to the one of cfg its new address.
func (e *Engine) relink(cfg *config, net connection) {
	address := addressOn(network.Bridge, net.endpoints)
	if !address.IsValid() {
		return
	}
	for _, r := range e.all() {
		mine := r.config()
		at := slices.IndexFunc(mine.Links, func(l link) bool { return l.ID == cfg.ID })
		if at < 0 || r.running() == nil {
			continue
		}
		if err := relinkFile(filepath.Join(e.filesOf(mine), "hosts"), linkEntry(mine.Links[at].Alias, address, cfg)); err != nil {
			e.log.Warn("a link has the old address", "container", r.id, "err", err)
		}
	}
}

// relinkFile replaces the line of a link in a hosts file, which is bind mounted.
func relinkFile(path string, entry network.HostEntry) error {
	hosts, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	line := entry.Address.String() + "\t" + strings.Join(entry.Names, " ") + "\n"
	var out strings.Builder
	for old := range strings.Lines(string(hosts)) {
		if fields := strings.Fields(old); len(fields) > 1 && fields[0][0] != '#' && fields[1] == entry.Names[0] {
			old = line
		}
		out.WriteString(old)
	}
	if out.String() == string(hosts) {
		return nil
	}
	return os.WriteFile(path, []byte(out.String()), 0o644)
}

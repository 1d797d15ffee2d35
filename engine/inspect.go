package engine

import (
	"context"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	dcontainer "github.com/moby/moby/api/types/container"
	dnetwork "github.com/moby/moby/api/types/network"
	dstorage "github.com/moby/moby/api/types/storage"

	"gantry/engine/network"
)

// StorageDriver is the name under which inspect and info show the store.
const StorageDriver = "overlay2"

// Container returns what is known about a container.
func (e *Engine) Container(ctx context.Context, ref string) (Container, error) {
	r, err := e.find(ref)
	if err != nil {
		return Container{}, err
	}
	return r.snapshot(), nil
}

// Containers returns what is known about every container, newest first. Before
// Ready it returns none.
func (e *Engine) Containers(ctx context.Context) []Container {
	if e.checkReady() != nil {
		return nil
	}
	records := e.all()
	list := make([]Container, len(records))
	for i, r := range records {
		list[i] = r.snapshot()
	}
	return list
}

func (r *record) snapshot() Container {
	cfg, st := r.view()
	c := Container{
		ID: cfg.ID, Name: cfg.Name, Created: cfg.Created, Image: cfg.Image, Sandbox: cfg.Sandbox,
		LogPath: cfg.LogPath, Annotations: cfg.Annotations, Config: cfg.Config, HostConfig: cfg.HostConfig,
		Mounts: mountPoints(cfg), Status: st.Status, ExitCode: st.ExitCode, OOMKilled: st.OOMKilled, Error: st.Error,
		StartedAt: st.StartedAt, FinishedAt: st.FinishedAt, RestartCount: st.RestartCount,
	}
	if this := r.running(); this != nil {
		c.Pid = this.proc.Pid()
	}
	return c
}

func mountPoints(cfg *config) []dcontainer.MountPoint {
	points := make([]dcontainer.MountPoint, 0, len(cfg.Mounts))
	for _, p := range cfg.Mounts {
		points = append(points, p.MountPoint)
	}
	return points
}

// Inspect is Container in Docker's form. With size, SizeRw and SizeRootFs are
// filled, which walks the container's files.
func (e *Engine) Inspect(ctx context.Context, ref string, size Sizes) (dcontainer.InspectResponse, error) {
	r, err := e.find(ref)
	if err != nil {
		return dcontainer.InspectResponse{}, err
	}
	cfg, st := r.view()
	files := e.filesOf(cfg)
	answer := dcontainer.InspectResponse{
		ID: cfg.ID, Created: cfg.Created.Format(time.RFC3339Nano), Path: cfg.Path, Args: nonNil(cfg.Args),
		State: r.dockerState(st), Image: cfg.Image.String(), Name: "/" + cfg.Name, RestartCount: st.RestartCount,
		ResolvConfPath: filepath.Join(files, "resolv.conf"), HostnamePath: filepath.Join(files, "hostname"),
		HostsPath: filepath.Join(files, "hosts"), LogPath: cfg.LogPath,
		Driver: StorageDriver, Platform: "linux", ExecIDs: r.execIDs(),
		HostConfig: e.shownLinks(cfg), Mounts: mountPoints(cfg), Config: cfg.Config,
		AppArmorProfile: e.appArmorProfile(cfg.HostConfig),
		GraphDriver:     e.graphDriver(cfg),
		NetworkSettings: e.networkSettings(cfg, st),
	}
	if size == WithSizes {
		rw, root, err := e.sizes(ctx, cfg)
		if err != nil {
			return answer, err
		}
		answer.SizeRw, answer.SizeRootFs = &rw, &root
	}
	return answer, nil
}

// Sizes says whether the disk usage of a container is wanted.
type Sizes bool

// The values of Sizes.
const (
	WithoutSizes Sizes = false
	WithSizes    Sizes = true
)

func nonNil(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// dockerState is st in Docker's form.
func (r *record) dockerState(st state) *dcontainer.State {
	out := &dcontainer.State{
		Status: st.Status, Paused: st.Status == dcontainer.StatePaused, Restarting: st.Status == dcontainer.StateRestarting,
		OOMKilled: st.OOMKilled, ExitCode: st.ExitCode, Error: st.Error,
		StartedAt: formatTime(st.StartedAt), FinishedAt: formatTime(st.FinishedAt),
	}
	out.Running = st.Status == dcontainer.StateRunning || out.Paused || out.Restarting
	if this := r.running(); this != nil {
		out.Pid = this.proc.Pid()
	}
	if st.Health != nil {
		status := *st.Health
		if status.Log == nil {
			status.Log = []*dcontainer.HealthcheckResult{}
		}
		out.Health = &status
	}
	return out
}

// formatTime is the reference's form; the zero time is shown as such.
func formatTime(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func (r *record) execIDs() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ids []string
	for id, x := range r.execs {
		if x.started && !x.over {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

func (e *Engine) graphDriver(cfg *config) *dstorage.DriverData {
	dir := e.containerDir(cfg.ID)
	data := map[string]string{"ID": cfg.ID, "UpperDir": filepath.Join(dir, "upper"), "WorkDir": filepath.Join(dir, "work")}
	if lower, err := e.lowerDirs(cfg); err == nil {
		data["LowerDir"] = strings.Join(lower, ":")
	}
	return &dstorage.DriverData{Name: StorageDriver, Data: data}
}

func (e *Engine) networkSettings(cfg *config, st state) *dcontainer.NetworkSettings {
	out := &dcontainer.NetworkSettings{
		Ports: portMap(cfg, st), Networks: e.endpointSettings(cfg, st),
	}
	if st.Namespace != "" {
		out.SandboxID, out.SandboxKey = cfg.ID, st.Namespace
	}
	return out
}

// endpointSettings shows what was wished for, and while the container runs,
// what it got.
func (e *Engine) endpointSettings(cfg *config, st state) map[string]*dnetwork.EndpointSettings {
	all := map[string]*dnetwork.EndpointSettings{}
	for name, wish := range cfg.Networks {
		settings := wish.Copy()
		if settings == nil {
			settings = &dnetwork.EndpointSettings{}
		}
		if n, err := e.cfg.Networks.Inspect(name); err == nil {
			settings.NetworkID = n.ID
			name = n.Name
		}
		if name != network.Bridge && name != network.HostMode && name != network.None {
			settings.DNSNames = namesOf(cfg, wish)
		}
		all[name] = settings
	}
	for _, ep := range st.Endpoints {
		settings := all[ep.Name]
		if settings == nil {
			settings = &dnetwork.EndpointSettings{}
			all[ep.Name] = settings
		}
		settings.NetworkID, settings.EndpointID = ep.Network, ep.ID
		settings.Gateway, settings.IPAddress, settings.IPPrefixLen = ep.Gateway, ep.Address.Addr(), ep.Address.Bits()
		settings.IPv6Gateway, settings.GlobalIPv6Address, settings.GlobalIPv6PrefixLen = ep.Gateway6, ep.Address6.Addr(), max(ep.Address6.Bits(), 0)
		if mac, err := net.ParseMAC(ep.MAC); err == nil {
			settings.MacAddress = dnetwork.HardwareAddr(mac)
		}
	}
	return all
}

// portMap lists the exposed ports, with those of the host they are published on.
func portMap(cfg *config, st state) dnetwork.PortMap {
	ports := dnetwork.PortMap{}
	if st.Namespace == "" {
		return ports
	}
	for port := range cfg.Config.ExposedPorts {
		ports[port] = nil
	}
	for _, p := range st.Publications {
		for _, b := range p.Ports {
			port, ok := dnetwork.PortFrom(b.ContainerPort, dnetwork.IPProtocol(b.Protocol))
			if !ok {
				continue
			}
			ports[port] = append(ports[port], dnetwork.PortBinding{HostIP: anyAddress(b.HostIP), HostPort: decimal(b.HostPort)})
		}
	}
	return ports
}

// sizes returns the bytes of a container's writable layer, and with its image's.
func (e *Engine) sizes(ctx context.Context, cfg *config) (rw, root int64, err error) {
	err = filepath.WalkDir(filepath.Join(e.containerDir(cfg.ID), "upper"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			if os.IsNotExist(err) {
				return nil // removed while we walked
			}
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return nil // removed while we walked
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && info.Mode().IsRegular() {
			rw += st.Size
		}
		return ctx.Err()
	})
	if err != nil {
		return 0, 0, err
	}
	root = rw
	for _, diffID := range cfg.Layers {
		if layer, err := e.cfg.Images.Layer(ctx, diffID); err == nil {
			root += layer.Bytes
		}
	}
	return rw, root, nil
}

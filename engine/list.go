package engine

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	dcontainer "github.com/moby/moby/api/types/container"
	dmount "github.com/moby/moby/api/types/mount"
	dnetwork "github.com/moby/moby/api/types/network"
)

// listFilters are the filters that List knows.
var listFilters = []string{
	"ancestor", "annotation", "before", "exited", "expose", "health", "id", "is-task", "isolation", "label", "name",
	"network", "publish", "since", "status", "volume",
}

// List is Containers in Docker's form. Errors: Invalid (a filter), NotFound (a
// filter's container).
func (e *Engine) List(ctx context.Context, opts ListOptions) ([]dcontainer.Summary, error) {
	if err := e.checkReady(); err != nil {
		return nil, err
	}
	keep, err := e.listFilter(ctx, opts.Filters)
	if err != nil {
		return nil, err
	}
	_, byStatus := opts.Filters["status"]
	all := opts.All || opts.Limit > 0 || byStatus
	list := []dcontainer.Summary{}
	for _, r := range e.all() {
		cfg, st := r.view()
		if !all && st.Status != dcontainer.StateRunning && st.Status != dcontainer.StatePaused && st.Status != dcontainer.StateRestarting {
			continue
		}
		if !keep(r, cfg, st) {
			continue
		}
		summary, err := e.summary(ctx, r, cfg, st, opts)
		if err != nil {
			return nil, err
		}
		if list = append(list, summary); len(list) == opts.Limit {
			break
		}
	}
	return list, nil
}

// listFilter returns what tells whether a container passes the filters.
func (e *Engine) listFilter(ctx context.Context, f Filters) (func(*record, *config, state) bool, error) {
	if err := f.Check(listFilters...); err != nil {
		return nil, err
	}
	if err := checkListValues(f); err != nil {
		return nil, err
	}
	after, before, err := e.listBounds(f)
	if err != nil {
		return nil, err
	}
	var ancestors []string
	for _, ref := range f["ancestor"] {
		img, err := e.cfg.Images.Resolve(ctx, ref)
		if err != nil {
			ancestors = append(ancestors, "") // an unknown image has no containers
			continue
		}
		ancestors = append(ancestors, img.ID.String())
	}
	return func(r *record, cfg *config, st state) bool {
		return f.any("id", func(want string) bool { return strings.HasPrefix(cfg.ID, want) }) &&
			f.any("name", func(want string) bool { return matchesName(cfg.Name, want) }) &&
			f.Labels("label", cfg.Config.Labels) && f.Labels("annotation", cfg.HostConfig.Annotations) &&
			f.exact("status", string(st.Status)) &&
			(len(f["exited"]) == 0 || st.Status == dcontainer.StateExited && f.exact("exited", strconv.Itoa(st.ExitCode))) &&
			f.exact("health", string(r.healthStatus())) &&
			(len(ancestors) == 0 || slices.Contains(ancestors, cfg.Image.String())) &&
			f.any("network", func(want string) bool { return e.onNetwork(cfg, want) }) &&
			f.any("volume", func(want string) bool { return hasMount(cfg, want) }) &&
			f.any("publish", func(want string) bool { return matchesPort(portMap(cfg, st), want, true) }) &&
			f.any("expose", func(want string) bool { return matchesPort(portMap(cfg, st), want, false) }) &&
			f.any("is-task", func(want string) bool { return want == "false" || want == "0" }) &&
			f.any("isolation", func(want string) bool { return want == "default" || want == "" }) &&
			(after.IsZero() || cfg.Created.After(after)) && (before.IsZero() || cfg.Created.Before(before))
	}, nil
}

// checkListValues refuses values that a filter cannot have.
func checkListValues(f Filters) error {
	for _, status := range f["status"] {
		if err := dcontainer.ValidateContainerState(dcontainer.ContainerState(status)); err != nil {
			return invalid("%w", err)
		}
	}
	for _, code := range f["exited"] {
		if _, err := strconv.Atoi(code); err != nil {
			return invalid("invalid filter 'exited=%s'", code)
		}
	}
	for _, health := range f["health"] {
		if err := dcontainer.ValidateHealthStatus(dcontainer.HealthStatus(health)); err != nil {
			return invalid("%w", err)
		}
	}
	for _, name := range []string{"publish", "expose"} {
		for _, port := range f[name] {
			if _, err := dnetwork.ParsePortRange(port); err != nil {
				return invalid("error while looking up for %s %s: %w", name, port, err)
			}
		}
	}
	_, _, err := f.Bool("is-task")
	return err
}

// listBounds resolves the filters since and before, which name containers.
func (e *Engine) listBounds(f Filters) (after, before time.Time, err error) {
	for name, at := range map[string]*time.Time{"since": &after, "before": &before} {
		for _, ref := range f[name] {
			r, err := e.find(ref)
			if err != nil {
				return after, before, err
			}
			*at = r.config().Created
		}
	}
	return after, before, nil
}

func (r *record) healthStatus() dcontainer.HealthStatus {
	if _, st := r.view(); st.Health != nil {
		return st.Health.Status
	}
	return dcontainer.NoHealthcheck
}

func (e *Engine) onNetwork(cfg *config, want string) bool {
	if cfg.Networks[want] != nil {
		return true
	}
	n, err := e.cfg.Networks.Inspect(want)
	return err == nil && cfg.Networks[n.Name] != nil
}

func hasMount(cfg *config, want string) bool {
	return slices.ContainsFunc(cfg.Mounts, func(p mountPoint) bool {
		return p.Destination == want || p.Type == dmount.TypeVolume && p.Name == want || p.Type == dmount.TypeBind && p.Source == want
	})
}

// matchesPort tells whether the map has a port of the wanted range; published
// looks at the host's side.
func matchesPort(ports dnetwork.PortMap, want string, published bool) bool {
	wanted, err := dnetwork.ParsePortRange(want)
	if err != nil {
		return false
	}
	for port, bindings := range ports {
		if port.Proto() != wanted.Proto() {
			continue
		}
		if !published && wanted.Start() <= port.Num() && port.Num() <= wanted.End() {
			return true
		}
		for _, b := range bindings {
			n, err := strconv.ParseUint(b.HostPort, 10, 16)
			if published && err == nil && uint64(wanted.Start()) <= n && n <= uint64(wanted.End()) {
				return true
			}
		}
	}
	return false
}

// summary is one line of a list.
func (e *Engine) summary(ctx context.Context, r *record, cfg *config, st state, opts ListOptions) (dcontainer.Summary, error) {
	settings := e.endpointSettings(cfg, st)
	for _, s := range settings {
		s.DNSNames = nil
	}
	out := dcontainer.Summary{
		ID: cfg.ID, Names: []string{"/" + cfg.Name}, Image: cfg.Config.Image, ImageID: cfg.Image.String(),
		Command: commandLine(cfg), Created: cfg.Created.Unix(), Ports: portSummary(cfg, st),
		Labels: cfg.Config.Labels, State: st.Status, Status: r.status(st, time.Now()),
		NetworkSettings: &dcontainer.NetworkSettingsSummary{Networks: settings},
		Mounts:          mountPoints(cfg),
		Health:          &dcontainer.HealthSummary{Status: r.healthStatus()},
	}
	out.HostConfig.NetworkMode = string(cfg.HostConfig.NetworkMode)
	out.HostConfig.Annotations = cfg.HostConfig.Annotations
	if img, err := e.cfg.Images.Resolve(ctx, cfg.Config.Image); err != nil || img.ID != cfg.Image {
		// The name means another image by now, or none.
		out.Image = cfg.Image.String()
	}
	if st.Health != nil {
		out.Health.FailingStreak = st.Health.FailingStreak
	}
	if !opts.Size {
		return out, nil
	}
	var err error
	out.SizeRw, out.SizeRootFs, err = e.sizes(ctx, cfg)
	return out, err
}

func commandLine(cfg *config) string {
	if len(cfg.Args) == 0 {
		return cfg.Path
	}
	quoted := make([]string, len(cfg.Args))
	for i, arg := range cfg.Args {
		quoted[i] = arg
		if strings.Contains(arg, " ") {
			quoted[i] = "'" + arg + "'"
		}
	}
	return cfg.Path + " " + strings.Join(quoted, " ")
}

func portSummary(cfg *config, st state) []dcontainer.PortSummary {
	list := []dcontainer.PortSummary{}
	ports := portMap(cfg, st)
	for _, port := range sortedPorts(ports) {
		if len(ports[port]) == 0 {
			list = append(list, dcontainer.PortSummary{PrivatePort: port.Num(), Type: string(port.Proto())})
		}
		for _, b := range ports[port] {
			n, err := strconv.ParseUint(b.HostPort, 10, 16)
			if err != nil {
				continue // we have written it ourselves
			}
			list = append(list, dcontainer.PortSummary{IP: b.HostIP, PrivatePort: port.Num(), PublicPort: uint16(n), Type: string(port.Proto())})
		}
	}
	return list
}

// status is the line that the client prints: "Up 5 minutes (healthy)".
func (r *record) status(st state, now time.Time) string {
	since := func(t time.Time) string { return units.HumanDuration(now.Sub(t)) }
	switch st.Status {
	case dcontainer.StateRunning:
		up := "Up " + since(st.StartedAt)
		switch health := r.healthStatus(); health {
		case dcontainer.NoHealthcheck:
		case dcontainer.Starting:
			up += " (health: starting)"
		default:
			up += fmt.Sprintf(" (%s)", health)
		}
		return up
	case dcontainer.StatePaused:
		return fmt.Sprintf("Up %s (Paused)", since(st.StartedAt))
	case dcontainer.StateRestarting:
		return fmt.Sprintf("Restarting (%d) %s ago", st.ExitCode, since(st.FinishedAt))
	case dcontainer.StateExited:
		return fmt.Sprintf("Exited (%d) %s ago", st.ExitCode, since(st.FinishedAt))
	case dcontainer.StateCreated:
		return "Created"
	}
	return string(st.Status)
}

func anyAddress(a netip.Addr) netip.Addr {
	if !a.IsValid() {
		return netip.IPv4Unspecified()
	}
	return a
}

func decimal(n uint16) string { return strconv.FormatUint(uint64(n), 10) }

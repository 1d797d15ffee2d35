package engine

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	dcontainer "github.com/moby/moby/api/types/container"
)

// validateRequest refuses options that contradict one another. It looks at what
// was asked for, before the image's configuration is added.
func validateRequest(c *dcontainer.Config, h *dcontainer.HostConfig) error {
	network := h.NetworkMode
	joins := network.IsContainer()
	for _, conflict := range []struct {
		is   bool
		text string
	}{
		{joins && c.Hostname != "", "hostname and the network mode"},
		{h.UTSMode.IsHost() && c.Hostname != "", "hostname and the UTS mode"},
		{network.IsHost() && len(h.Links) > 0, "host type networking can't be used with links. This would result in undefined behavior"},
		{joins && len(h.Links) > 0, "container type network can't be used with links. This would result in undefined behavior"},
		{joins && len(h.DNS) > 0, "dns and the network mode"},
		{joins && len(h.ExtraHosts) > 0, "custom host-to-IP mapping and the network mode"},
		{joins && (len(h.PortBindings) > 0 || h.PublishAllPorts), "port publishing and the container type network mode"},
		{joins && len(c.ExposedPorts) > 0, "port exposing and the container type network mode"},
	} {
		if conflict.is {
			return invalid("conflicting options: %s", conflict.text)
		}
	}
	return validateExtraHosts(h)
}

func validateExtraHosts(h *dcontainer.HostConfig) error {
	for _, item := range h.ExtraHosts {
		at := strings.IndexAny(item, ":=")
		if at <= 0 {
			return invalid("bad format for add-host: %q", item)
		}
		text := strings.Trim(item[at+1:], "[]")
		if text == hostGateway {
			continue
		}
		if _, err := netip.ParseAddr(text); err != nil {
			return invalid("invalid IP address in add-host: %q", text)
		}
	}
	return nil
}

// hostGateway stands for the host, as the container sees it.
const hostGateway = "host-gateway"

// joinable finds the container whose namespace is to be joined, and returns the
// mode with its ID: a later rename of the other does not matter.
//
// That there is none is not a NotFound: at that, clients pull the image.
func (e *Engine) joinable(ref string) (string, error) {
	r, err := e.find(ref)
	if err != nil {
		return "", invalid("%v", err)
	}
	return "container:" + r.id, nil
}

// resolveModes replaces the names of containers whose PID and IPC namespaces
// are to be joined by their IDs.
func (e *Engine) resolveModes(h *dcontainer.HostConfig) error {
	if h.PidMode.IsContainer() {
		mode, err := e.joinable(h.PidMode.Container())
		if err != nil {
			return err
		}
		h.PidMode = dcontainer.PidMode(mode)
	}
	if !h.IpcMode.IsContainer() {
		return nil
	}
	mode, err := e.joinable(h.IpcMode.Container())
	if err != nil {
		return err
	}
	other, err := e.find(h.IpcMode.Container())
	if err != nil {
		return err
	}
	if theirs := other.config().HostConfig.IpcMode; !theirs.IsShareable() {
		return invalid("cannot join IPC of container %s: non-shareable IPC (hint: use IpcMode:shareable for the donor container)", other.id)
	}
	h.IpcMode = dcontainer.IpcMode(mode)
	return nil
}

// noLabels says, as the reference does, that a container which shares
// namespaces with the host gets no labels of SELinux.
func noLabels(h *dcontainer.HostConfig) {
	named := slices.ContainsFunc(h.SecurityOpt, func(opt string) bool { return strings.HasPrefix(opt, "label") })
	if !named && (h.Privileged || h.IpcMode.IsHost() || h.PidMode.IsHost()) {
		h.SecurityOpt = append(slices.Clone(h.SecurityOpt), "label=disable")
	}
}

// refuseDevices refuses devices that are asked for by a driver's name or by
// capabilities: there is no driver. As in the reference, the start fails.
func refuseDevices(h *dcontainer.HostConfig) error {
	for _, r := range h.DeviceRequests {
		return fmt.Errorf("could not select device driver %q with capabilities: %v", r.Driver, r.Capabilities)
	}
	return nil
}

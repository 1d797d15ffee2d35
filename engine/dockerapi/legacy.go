package dockerapi

import (
	"encoding/json"
	"slices"
	"strings"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	dbuild "github.com/moby/moby/api/types/build"
	dcontainer "github.com/moby/moby/api/types/container"
	dimage "github.com/moby/moby/api/types/image"
	dsystem "github.com/moby/moby/api/types/system"
	dvolume "github.com/moby/moby/api/types/volume"
)

// legacySettings adds the fields that inspect had before 1.52, which repeat
// those of the default network.
type legacySettings struct {
	*dcontainer.NetworkSettings
	Bridge                 string
	HairpinMode            bool
	LinkLocalIPv6Address   string
	LinkLocalIPv6PrefixLen int
	SecondaryIPAddresses   []string
	SecondaryIPv6Addresses []string
	EndpointID             string
	Gateway                string
	GlobalIPv6Address      string
	GlobalIPv6PrefixLen    int
	IPAddress              string
	IPPrefixLen            int
	IPv6Gateway            string
	MacAddress             string
}

// legacyConfig has OnBuild, which was always shown, and the address that moved
// to the endpoints in 1.44.
type legacyConfig struct {
	*dcontainer.Config
	OnBuild    []string
	MacAddress string `json:",omitempty"`
}

type legacyInspect struct {
	dcontainer.InspectResponse
	Config          *legacyConfig
	NetworkSettings *legacySettings
}

// legacyContainer is found in the form before 1.52.
func legacyContainer(v version, found dcontainer.InspectResponse) legacyInspect {
	out := legacyInspect{found, &legacyConfig{Config: found.Config}, &legacySettings{NetworkSettings: found.NetworkSettings}}
	if found.Config != nil {
		out.Config.OnBuild = found.Config.OnBuild
	}
	networks := found.NetworkSettings.Networks
	if ep := networks["bridge"]; ep != nil && ep.IPAddress.IsValid() {
		s := out.NetworkSettings
		s.EndpointID, s.Gateway = ep.EndpointID, ep.Gateway.String()
		s.IPAddress, s.IPPrefixLen, s.MacAddress = ep.IPAddress.String(), ep.IPPrefixLen, ep.MacAddress.String()
	}
	if v.less(1, 45) {
		legacyAliases(found)
	}
	if found.HostConfig != nil && v.less(1, 44) && found.State != nil && found.State.Pid == 0 {
		// Without a process, what is shown is what was asked for.
		if ep := networks[string(found.HostConfig.NetworkMode)]; ep != nil && len(ep.MacAddress) > 0 {
			out.Config.MacAddress = ep.MacAddress.String()
			withoutAddress := *ep
			withoutAddress.MacAddress = nil
			networks[string(found.HostConfig.NetworkMode)] = &withoutAddress
		}
	}
	return out
}

// legacyAliases puts the names by which a container is found on user-defined
// networks where they were before 1.45 brought DNSNames.
func legacyAliases(found dcontainer.InspectResponse) {
	for name, ep := range found.NetworkSettings.Networks {
		if ep == nil || !dcontainer.NetworkMode(name).IsUserDefined() {
			continue
		}
		with := *ep
		with.Aliases = slices.Clone(ep.Aliases)
		for _, alias := range []string{shortID(found.ID), found.Config.Hostname} {
			if alias != "" && !slices.Contains(with.Aliases, alias) {
				with.Aliases = append(with.Aliases, alias)
			}
		}
		found.NetworkSettings.Networks[name] = &with
	}
}

// legacySummary has ports without an address for those which are not published.
type legacySummary struct {
	dcontainer.Summary
	Ports []legacyPort
}

type legacyPort struct {
	IP          string `json:",omitempty"`
	PrivatePort uint16
	PublicPort  uint16 `json:",omitempty"`
	Type        string
}

// legacyList is a list of containers in the form before 1.52.
func legacyList(v version, list []dcontainer.Summary) []legacySummary {
	out := make([]legacySummary, len(list))
	for i, item := range list {
		item.Health = nil
		if v.less(1, 46) {
			item.HostConfig.Annotations = nil
		}
		out[i] = legacySummary{item, []legacyPort{}}
		for _, p := range item.Ports {
			port := legacyPort{PrivatePort: p.PrivatePort, PublicPort: p.PublicPort, Type: p.Type}
			if p.IP.IsValid() {
				port.IP = p.IP.String()
			}
			out[i].Ports = append(out[i].Ports, port)
		}
	}
	return out
}

// legacyImage adds the fields that inspect of an image had before 1.52.
type legacyImage struct {
	dimage.InspectResponse
	Config          map[string]any
	Author          string
	Parent          string
	DockerVersion   string
	VirtualSize     int64          `json:",omitempty"`
	Container       *string        `json:",omitempty"`
	ContainerConfig map[string]any `json:",omitempty"`
}

// oldImageConfig are the fields which were always there before 1.50: an image's
// configuration was that of a container. Those from "Cmd" on stayed until 1.52.
var oldImageConfig = []struct {
	name  string
	value any
	until int // minor version of the API
}{
	{"AttachStderr", false, 50}, {"AttachStdin", false, 50}, {"AttachStdout", false, 50}, {"Domainname", "", 50},
	{"Hostname", "", 50}, {"Image", "", 50}, {"OpenStdin", false, 50}, {"StdinOnce", false, 50}, {"Tty", false, 50},
	{"Cmd", nil, 52}, {"Entrypoint", nil, 52}, {"Env", nil, 52}, {"Labels", nil, 52}, {"OnBuild", nil, 52},
	{"User", "", 52}, {"Volumes", nil, 52}, {"WorkingDir", "", 52},
}

func legacyImageConfig(v version, config *dockerspec.DockerOCIImageConfig) (map[string]any, error) {
	data, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	fields := map[string]any{}
	if err := json.Unmarshal(data, &fields); err != nil {
		return nil, err
	}
	for _, old := range oldImageConfig {
		if _, there := fields[old.name]; !there && v.less(1, old.until) {
			fields[old.name] = old.value
		}
	}
	return fields, nil
}

// legacyImageInspect is out in the form before 1.52.
func legacyImageInspect(v version, out dimage.InspectResponse, parent string) (legacyImage, error) {
	legacy := legacyImage{InspectResponse: out, Author: out.Author, Parent: parent}
	var err error
	if legacy.Config, err = legacyImageConfig(v, out.Config); err != nil {
		return legacy, err
	}
	if v.less(1, 45) {
		// The container that a classic build made the image of; nobody knows it any more.
		legacy.Container = new(string)
		legacy.ContainerConfig, err = legacyImageConfig(v, &dockerspec.DockerOCIImageConfig{})
	}
	if v.less(1, 44) {
		legacy.VirtualSize = out.Size
	}
	return legacy, err
}

// legacyImageSummary has the size twice, as before 1.44.
type legacyImageSummary struct {
	dimage.Summary
	VirtualSize int64
}

// legacyImages is a list of images in the form before 1.44.
func legacyImages(v version, list []dimage.Summary) []legacyImageSummary {
	out := make([]legacyImageSummary, len(list))
	for i, item := range list {
		if v.less(1, 43) && len(item.RepoTags) == 0 && len(item.RepoDigests) == 0 {
			item.RepoTags, item.RepoDigests = []string{"<none>:<none>"}, []string{"<none>@<none>"}
		}
		out[i] = legacyImageSummary{item, item.Size}
	}
	return out
}

// legacyUsage is the form of system df before 1.52.
type legacyUsage struct {
	LayersSize  int64
	Images      any // as they are listed in the same version
	Containers  []legacySummary
	Volumes     []dvolume.Volume
	BuildCache  []dbuild.CacheRecord
	BuilderSize int64
}

func oldUsage(v version, usage dsystem.DiskUsage) legacyUsage {
	old := legacyUsage{Images: []dimage.Summary{}, Containers: []legacySummary{}, Volumes: []dvolume.Volume{}, BuildCache: []dbuild.CacheRecord{}}
	if u := usage.ImageUsage; u != nil {
		old.LayersSize, old.Images = u.TotalSize, u.Items
		if v.less(1, 44) {
			old.Images = legacyImages(v, u.Items)
		}
	}
	if u := usage.ContainerUsage; u != nil {
		old.Containers = legacyList(v, u.Items)
	}
	if u := usage.VolumeUsage; u != nil {
		old.Volumes = u.Items
	}
	if u := usage.BuildCacheUsage; u != nil {
		old.BuilderSize, old.BuildCache = u.TotalSize, u.Items
	}
	return old
}

// legacyInfo is info in the form before 1.25.
type legacyInfo struct {
	dsystem.Info
	ExecutionDriver string
	SecurityOptions []string
}

// oldInfo says of security options their names alone.
func oldInfo(info dsystem.Info) legacyInfo {
	out := legacyInfo{info, "<not supported>", []string{}}
	for _, option := range info.SecurityOptions {
		name, _, _ := strings.Cut(strings.TrimPrefix(option, "name="), ",")
		out.SecurityOptions = append(out.SecurityOptions, name)
	}
	return out
}

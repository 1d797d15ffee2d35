package dockerapi

import (
	"fmt"
	"net/http"

	dcontainer "github.com/moby/moby/api/types/container"
	dnetwork "github.com/moby/moby/api/types/network"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/engine"
	"gantry/engine/image"
)

// createRequest is the body of a creation: the present form, and the fields
// which older clients send.
type createRequest struct {
	*dcontainer.Config
	HostConfig       *dcontainer.HostConfig     `json:"HostConfig,omitempty"`
	NetworkingConfig *dnetwork.NetworkingConfig `json:"NetworkingConfig,omitempty"`

	MacAddress dnetwork.HardwareAddr // before 1.44; later of an endpoint
}

func (c *call) createContainer() error {
	var req createRequest
	unknown, err := c.decodeNaming(&req)
	if err != nil {
		return err
	}
	platform, err := c.platform()
	if err != nil {
		return err
	}
	create, err := engineRequest(req)
	if err != nil {
		return err
	}
	create.Name, create.Platform = c.query.Get("name"), platform
	made, err := c.cfg.Engine.Create(c.r.Context(), create)
	if err != nil {
		return err
	}
	if made.Warnings == nil {
		made.Warnings = []string{}
	}
	for _, name := range unknown {
		made.Warnings = append(made.Warnings, fmt.Sprintf("The field %q is unknown and was ignored.", name))
	}
	return c.answer(http.StatusCreated, made)
}

// engineRequest brings a request of any version into the present form.
func engineRequest(req createRequest) (engine.CreateRequest, error) {
	if req.Config == nil {
		return engine.CreateRequest{}, invalid("Config cannot be empty in order to create a container")
	}
	out := engine.CreateRequest{Config: req.Config, HostConfig: req.HostConfig, Networking: req.NetworkingConfig}
	if len(req.MacAddress) == 0 {
		return out, nil
	}
	mode := dcontainer.NetworkMode("bridge")
	if req.HostConfig != nil && req.HostConfig.NetworkMode != "" && !req.HostConfig.NetworkMode.IsDefault() {
		mode = req.HostConfig.NetworkMode
	}
	if mode.IsHost() || mode.IsContainer() || mode.IsNone() {
		return out, invalid("conflicting options: mac-address and the network mode")
	}
	if out.Networking == nil {
		out.Networking = &dnetwork.NetworkingConfig{}
	}
	if out.Networking.EndpointsConfig == nil {
		out.Networking.EndpointsConfig = map[string]*dnetwork.EndpointSettings{}
	}
	settings := out.Networking.EndpointsConfig[string(mode)]
	if settings == nil {
		settings = &dnetwork.EndpointSettings{}
		out.Networking.EndpointsConfig[string(mode)] = settings
	}
	if len(settings.MacAddress) == 0 {
		settings.MacAddress = req.MacAddress
	}
	return out, nil
}

func (c *call) platform() (*ocispec.Platform, error) {
	text := c.query.Get("platform")
	if text == "" {
		return nil, nil
	}
	p, err := image.ParsePlatform(text)
	return &p, err
}

package dockerapi

import (
	"errors"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"

	devents "github.com/moby/moby/api/types/events"
	dnetwork "github.com/moby/moby/api/types/network"

	"gantry/engine/network"
	"gantry/internal/problem"
)

// visible tells whether a network is shown: the pods' is not.
func visible(n network.Network) bool { return n.Name != network.Pods }

func (c *call) listNetworks() error {
	filters, err := c.query.filters()
	if err != nil {
		return err
	}
	if err := filters.Check("dangling", "driver", "id", "label", "name", "scope", "type"); err != nil {
		return err
	}
	for _, kind := range filters["type"] {
		if kind != "custom" && kind != "builtin" {
			return invalid("invalid filter: 'type'='%s'", kind)
		}
	}
	dangling, only, err := filters.Bool("dangling")
	if err != nil {
		return err
	}
	list := []dnetwork.Summary{}
	full := []dnetwork.Inspect{} // before 1.28 the list had what is attached too
	for _, n := range c.cfg.Networks.List() {
		matches := func(name string, match func(string) bool) bool {
			return len(filters[name]) == 0 || slices.ContainsFunc(filters[name], match)
		}
		kind := "custom"
		if n.Predefined() {
			kind = "builtin"
		}
		unused := !n.Predefined() && len(c.cfg.Networks.Endpoints(n.ID)) == 0
		if !visible(n) || only && dangling != unused ||
			!matches("driver", func(w string) bool { return w == n.Driver }) ||
			!matches("id", func(w string) bool { return strings.HasPrefix(n.ID, w) }) ||
			!matches("name", func(w string) bool { return strings.Contains(n.Name, w) }) ||
			!matches("scope", func(w string) bool { return w == "local" }) ||
			!matches("type", func(w string) bool { return w == kind }) ||
			!filters.Labels("label", n.Labels) {
			continue
		}
		list = append(list, dnetwork.Summary{Network: dockerNetwork(n)})
		if c.version.less(1, 28) {
			full = append(full, c.networkDetails(n))
		}
	}
	if c.version.less(1, 28) {
		return c.answer(http.StatusOK, full)
	}
	return c.answer(http.StatusOK, list)
}

// dockerNetwork is n in Docker's form.
func dockerNetwork(n network.Network) dnetwork.Network {
	out := dnetwork.Network{
		Name: n.Name, ID: n.ID, Created: n.Created, Scope: "local", Driver: n.Driver, EnableIPv4: true,
		IPAM:       dnetwork.IPAM{Driver: "default", Config: []dnetwork.IPAMConfig{}},
		EnableIPv6: n.IPv6.Subnet.IsValid(), Internal: n.Internal, Attachable: n.Attachable,
		Options: n.Options, Labels: n.Labels,
	}
	if n.Name == network.Bridge {
		out.Options = defaultBridgeOptions(n)
	}
	if out.Options == nil {
		out.Options = map[string]string{}
	}
	if out.Labels == nil {
		out.Labels = map[string]string{}
	}
	if n.Subnet.IsValid() {
		out.IPAM.Config = append(out.IPAM.Config, dnetwork.IPAMConfig{Subnet: n.Subnet, IPRange: n.Range, Gateway: n.Gateway, AuxAddress: n.Reserved})
	}
	if six := n.IPv6; six.Subnet.IsValid() {
		out.IPAM.Config = append(out.IPAM.Config, dnetwork.IPAMConfig{Subnet: six.Subnet, IPRange: six.Range, Gateway: six.Gateway, AuxAddress: six.Reserved})
	}
	return out
}

// defaultBridgeOptions are those that the reference shows of the default bridge.
func defaultBridgeOptions(n network.Network) map[string]string {
	return map[string]string{
		"com.docker.network.bridge.default_bridge":       "true",
		"com.docker.network.bridge.enable_icc":           strconv.FormatBool(!n.Apart),
		"com.docker.network.bridge.enable_ip_masquerade": strconv.FormatBool(!n.Unmasked),
		"com.docker.network.bridge.host_binding_ipv4":    "0.0.0.0",
		"com.docker.network.bridge.name":                 n.Link,
		"com.docker.network.driver.mtu":                  "1500",
	}
}

func (c *call) findNetwork(ref string) (network.Network, error) {
	n, err := c.cfg.Networks.Inspect(ref)
	if err == nil && !visible(n) {
		err = problem.New(problem.NotFound, "network %s not found", ref)
	}
	return n, err
}

func (c *call) inspectNetwork() error {
	if verbose := c.query.Get("verbose"); verbose != "" {
		if _, err := strconv.ParseBool(verbose); err != nil {
			return invalid("invalid value for verbose: %s: %w", verbose, err)
		}
	}
	if scope := c.query.Get("scope"); scope != "" && scope != "local" {
		return problem.New(problem.NotFound, "network %s not found", c.vars[0])
	}
	n, err := c.findNetwork(c.vars[0])
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, c.networkDetails(n))
}

// networkDetails is a network with what is attached to it.
func (c *call) networkDetails(n network.Network) dnetwork.Inspect {
	out := dnetwork.Inspect{Network: dockerNetwork(n), Containers: map[string]dnetwork.EndpointResource{}}
	for _, ep := range c.cfg.Networks.Endpoints(n.ID) {
		resource := dnetwork.EndpointResource{EndpointID: ep.ID, IPv4Address: ep.Address, IPv6Address: ep.Address6}
		if mac, err := net.ParseMAC(ep.MAC); err == nil {
			resource.MacAddress = dnetwork.HardwareAddr(mac)
		}
		if found, err := c.cfg.Engine.Container(c.r.Context(), ep.Container); err == nil {
			resource.Name = found.Name
		}
		out.Containers[ep.Container] = resource
	}
	return out
}

// networkCreateRequest has what older clients send.
type networkCreateRequest struct {
	dnetwork.CreateRequest
	CheckDuplicate bool // always done
}

func (c *call) createNetwork() error {
	var req networkCreateRequest
	if err := c.decode(&req); err != nil {
		return err
	}
	create, err := networkRequest(req.CreateRequest)
	if err != nil {
		return err
	}
	n, err := c.cfg.Networks.Create(c.r.Context(), create)
	if err != nil {
		return err
	}
	c.cfg.Engine.Emit(devents.NetworkEventType, devents.ActionCreate, n.ID, map[string]string{"name": n.Name, "type": n.Driver})
	return c.answer(http.StatusCreated, dnetwork.CreateResponse{ID: n.ID})
}

// networkRequest translates a creation and refuses what is not supported.
func networkRequest(req dnetwork.CreateRequest) (network.CreateRequest, error) {
	out := network.CreateRequest{Name: req.Name, Driver: req.Driver, Labels: req.Labels, Options: req.Options,
		Internal: req.Internal, Attachable: req.Attachable}
	if req.Name == "" {
		return out, invalid("network name cannot be empty")
	}
	for _, f := range []struct {
		set  bool
		name string
	}{
		{req.EnableIPv4 != nil && !*req.EnableIPv4, "EnableIPv4=false"},
		{req.Ingress, "Ingress"},
		{req.ConfigOnly, "ConfigOnly"},
		{req.ConfigFrom != nil && req.ConfigFrom.Network != "", "ConfigFrom"},
		{req.Scope != "" && req.Scope != "local", "Scope"},
	} {
		if f.set {
			return out, problem.New(problem.Unsupported, "%s of a network is not supported by this version of Gantry", f.name)
		}
	}
	if req.EnableIPv6 != nil && *req.EnableIPv6 {
		out.IPv6 = &network.Stack{}
	}
	ipam := req.IPAM
	if ipam == nil {
		return out, nil
	}
	if ipam.Driver != "" && ipam.Driver != "default" || len(ipam.Options) > 0 {
		return out, problem.New(problem.Unsupported, "IPAM driver %q with options %v is not supported by this version of Gantry", ipam.Driver, ipam.Options)
	}
	four, six := 0, 0
	for _, config := range ipam.Config {
		switch {
		case !config.Subnet.IsValid():
			return out, invalid("invalid network config:\ninvalid subnet: subnet is empty")
		case config.Subnet.Addr().Is4():
			four++
			out.Subnet, out.Range, out.Gateway, out.Reserved = config.Subnet, config.IPRange, config.Gateway, config.AuxAddress
		case out.IPv6 != nil: // otherwise the subnet is not used, as in the reference
			six++
			*out.IPv6 = network.Stack{Subnet: config.Subnet, Range: config.IPRange, Gateway: config.Gateway, Reserved: config.AuxAddress}
		}
	}
	if four > 1 || six > 1 {
		return out, problem.New(problem.Denied, "bridge driver doesn't support multiple subnets")
	}
	return out, nil
}

func (c *call) removeNetwork() error {
	n, err := c.findNetwork(c.vars[0])
	if err != nil {
		return err
	}
	if err := c.cfg.Networks.Remove(c.r.Context(), n.ID); err != nil {
		return err
	}
	c.cfg.Engine.Emit(devents.NetworkEventType, devents.ActionDestroy, n.ID, map[string]string{"name": n.Name, "type": n.Driver})
	return c.noContent()
}

func (c *call) pruneNetworks() error {
	filters, err := c.query.filters()
	if err != nil {
		return err
	}
	report, err := c.cfg.Engine.PruneNetworks(c.r.Context(), filters)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, report)
}

func (c *call) connectNetwork() error {
	var req dnetwork.ConnectRequest
	if err := c.decode(&req); err != nil {
		return err
	}
	n, err := c.findNetwork(c.vars[0])
	if err != nil {
		return err
	}
	if err := c.cfg.Engine.ConnectNetwork(c.r.Context(), n.Name, req.Container, req.EndpointConfig); err != nil {
		return err
	}
	c.begun = true
	c.w.WriteHeader(http.StatusOK)
	return nil
}

func (c *call) disconnectNetwork() error {
	var req dnetwork.DisconnectRequest
	if err := c.decode(&req); err != nil {
		return err
	}
	n, err := c.findNetwork(c.vars[0])
	if err != nil {
		return err
	}
	err = c.cfg.Engine.DisconnectNetwork(c.r.Context(), n.Name, req.Container)
	if err != nil && !(req.Force && errors.Is(err, problem.NotFound)) {
		return err
	}
	c.begun = true
	c.w.WriteHeader(http.StatusOK)
	return nil
}

package network

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"gantry/internal/problem"
)

// Docker's options of networks that are honoured.
const (
	optionMTU        = "com.docker.network.driver.mtu"
	optionName       = "com.docker.network.bridge.name"
	optionICC        = "com.docker.network.bridge.enable_icc"
	optionMasquerade = "com.docker.network.bridge.enable_ip_masquerade"
	optionBinding    = "com.docker.network.bridge.host_binding_ipv4"
	optionDefault    = "com.docker.network.bridge.default_bridge"
	optionGateway4   = "com.docker.network.bridge.gateway_mode_ipv4"
	optionGateway6   = "com.docker.network.bridge.gateway_mode_ipv6"
	optionParent     = "parent"
	optionMode       = "macvlan_mode"
)

var linkName = regexp.MustCompile(`^[^\s/:]{1,15}$`)

// applyOptions reads the network's options. Those that are nobody's are kept
// for inspect, as the reference does; Docker's that are not known are refused.
func (n *Network) applyOptions() error {
	for key, value := range n.Options {
		var err error
		switch {
		case key == optionMTU:
			n.MTU, err = strconv.Atoi(value)
			if err != nil || n.MTU < 68 || n.MTU > 65535 {
				err = problem.New(problem.Invalid, "network option %s: %q is not an MTU", key, value)
			}
		case n.Driver == DriverBridge:
			err = n.applyBridgeOption(key, value)
		case key == optionParent:
			n.Link = value
		case key == optionMode:
			n.Mode = value
		case strings.HasPrefix(key, "com.docker.network."):
			err = unsupportedOption(key)
		}
		if err != nil {
			return err
		}
	}
	if n.Driver != DriverMacvlan {
		return nil
	}
	if n.Mode == "" {
		n.Mode = "bridge"
	}
	if _, known := macvlanModes[n.Mode]; !known {
		return problem.New(problem.Invalid, "requested macvlan mode '%s' is not valid, 'bridge' mode is the macvlan driver default", n.Mode)
	}
	if n.Link == "" {
		return problem.New(problem.Unsupported, "a macvlan network without a parent interface is not supported by this version of Gantry: give one by -o parent=NAME")
	}
	return nil
}

func unsupportedOption(key string) error {
	return problem.New(problem.Unsupported, "network option %q is not supported by this version of Gantry", key)
}

func (n *Network) applyBridgeOption(key, value string) (err error) {
	switch key {
	case optionName:
		if n.Link = value; !linkName.MatchString(value) || value == "." || value == ".." {
			return problem.New(problem.Invalid, "network option %s: %q is not an interface name", key, value)
		}
	case optionICC:
		n.Apart, err = isFalse(key, value)
	case optionMasquerade:
		n.Unmasked, err = isFalse(key, value)
	case optionBinding:
		if n.Binding, err = netip.ParseAddr(value); err != nil {
			return problem.New(problem.Invalid, "network option %s: %w", key, err)
		}
		if n.Binding.IsUnspecified() {
			n.Binding = netip.Addr{}
		}
	case optionDefault:
		if yes, err := isFalse(key, value); err != nil || !yes {
			return unsupportedOption(key)
		}
	case optionGateway4, optionGateway6:
		if value != "" && value != "nat" {
			return unsupportedOption(key + "=" + value)
		}
	default:
		if strings.HasPrefix(key, "com.docker.network.") {
			return unsupportedOption(key)
		}
	}
	return err
}

// isFalse reads a switch that is on by default.
func isFalse(key, value string) (bool, error) {
	on, err := strconv.ParseBool(value)
	if err != nil {
		return false, problem.New(problem.Invalid, "network option %s: %q is neither true nor false", key, value)
	}
	return !on, nil
}

package engine

import (
	"net/netip"
	"regexp"
	"strings"
)

// The options of an endpoint that are the reference's.
const (
	optionIfname  = "com.docker.network.endpoint.ifname"
	optionSysctls = "com.docker.network.endpoint.sysctls"
)

var (
	interfaceName   = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_.-]{0,14}$`)
	interfaceSysctl = regexp.MustCompile(`^net\.(ipv4|ipv6|mpls)\.[a-z_]+\.IFNAME\.[a-zA-Z0-9_]+$`)
)

// endpointOptions reads an endpoint's options: the interface's name, and its
// settings by their path below /proc/sys/net. Others are kept for inspect, as the
// reference does.
func endpointOptions(options map[string]string) (name string, sysctls map[string]string, err error) {
	for key, value := range options {
		switch key {
		case optionIfname:
			if !interfaceName.MatchString(value) || value == "lo" {
				return "", nil, invalid("invalid interface name %q", value)
			}
			name = value
		case optionSysctls:
			sysctls = map[string]string{}
			for item := range strings.SplitSeq(value, ",") {
				setting, to, ok := strings.Cut(strings.TrimSpace(item), "=")
				if !ok || !interfaceSysctl.MatchString(setting) {
					return "", nil, invalid("unrecognised network interface sysctl '%s'; represent 'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'", item)
				}
				sysctls[strings.ReplaceAll(strings.TrimPrefix(setting, "net."), ".", "/")] = to
			}
		}
	}
	return name, sysctls, nil
}

// hostAddress is the host's address as the container sees it.
func hostAddress(net connection) netip.Addr {
	for _, ep := range net.endpoints {
		if ep.Gateway.IsValid() {
			return ep.Gateway
		}
	}
	return net.endpoints[0].Address.Masked().Addr().Next() // an internal network's bridge
}

package podspec

import (
	"fmt"
	"net/netip"
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Cluster is what name resolution in pods derives from.
type Cluster struct {
	DNS      netip.Addr // the cluster's name service; invalid means none
	Domain   string     // cluster.local
	HostDNS  *runtimeapi.DNSConfig
	NodeName string
}

// Bounds of a resolv.conf (resolv.conf(5) and the reference's limits).
const (
	maxNameservers = 3
	maxSearches    = 32
	maxHostname    = 63
)

// Sandbox is the configuration of pod's sandbox. logDir is the pod's own.
func Sandbox(pod *v1.Pod, attempt uint32, logDir string, cluster Cluster) *runtimeapi.PodSandboxConfig {
	hostname, _ := Hostname(pod, cluster.Domain)
	if pod.Spec.HostNetwork {
		hostname = cluster.NodeName
	}
	c := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: pod.Name, Namespace: pod.Namespace, Uid: string(pod.UID), Attempt: attempt},
		Hostname:     hostname,
		LogDirectory: logDir,
		DnsConfig:    DNS(pod, cluster),
		Labels:       SandboxLabels(pod),
		Annotations:  pod.Annotations,
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: namespaces(pod),
				Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
			},
			Resources: PodResources(pod),
		},
	}
	if psc := pod.Spec.SecurityContext; psc != nil && len(psc.Sysctls) > 0 {
		c.Linux.Sysctls = map[string]string{}
		for _, s := range psc.Sysctls {
			c.Linux.Sysctls[s.Name] = s.Value
		}
	}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if sc := list[i].SecurityContext; sc != nil && deref(sc.Privileged) {
				c.Linux.SecurityContext.Privileged = true
			}
			if !pod.Spec.HostNetwork {
				c.PortMappings = append(c.PortMappings, hostPorts(&list[i])...)
			}
		}
	}
	return c
}

func hostPorts(c *v1.Container) []*runtimeapi.PortMapping {
	var out []*runtimeapi.PortMapping
	for _, p := range c.Ports {
		if p.HostPort == 0 {
			continue
		}
		m := &runtimeapi.PortMapping{ContainerPort: p.ContainerPort, HostPort: p.HostPort, HostIp: p.HostIP}
		switch p.Protocol {
		case v1.ProtocolUDP:
			m.Protocol = runtimeapi.Protocol_UDP
		case v1.ProtocolSCTP:
			m.Protocol = runtimeapi.Protocol_SCTP
		}
		out = append(out, m)
	}
	return out
}

// Hostname returns the pod's host name and its domain, "" without a subdomain.
func Hostname(pod *v1.Pod, clusterDomain string) (name, domain string) {
	name = pod.Name
	if o := pod.Spec.HostnameOverride; o != nil {
		return truncate(*o), ""
	}
	if pod.Spec.Hostname != "" {
		name = pod.Spec.Hostname
	}
	if pod.Spec.Subdomain != "" {
		domain = fmt.Sprintf("%s.%s.svc.%s", pod.Spec.Subdomain, pod.Namespace, clusterDomain)
	}
	return truncate(name), domain
}

func truncate(hostname string) string {
	if len(hostname) > maxHostname {
		hostname = strings.TrimRight(hostname[:maxHostname], "-.")
	}
	return hostname
}

// DNS is the resolver configuration of pod.
func DNS(pod *v1.Pod, cluster Cluster) *runtimeapi.DNSConfig {
	host := cluster.HostDNS
	if host == nil {
		host = &runtimeapi.DNSConfig{}
	}
	policy := pod.Spec.DNSPolicy
	if policy == v1.DNSClusterFirst && pod.Spec.HostNetwork || policy != v1.DNSNone && !cluster.DNS.IsValid() {
		policy = v1.DNSDefault
	}
	out := &runtimeapi.DNSConfig{}
	switch policy {
	case v1.DNSNone:
	case v1.DNSDefault:
		out.Servers = append(out.Servers, host.Servers...)
		out.Searches = append(out.Searches, host.Searches...)
		out.Options = append(out.Options, host.Options...)
	default: // ClusterFirst, ClusterFirstWithHostNet
		out.Servers = []string{cluster.DNS.String()}
		svc := "svc." + cluster.Domain
		out.Searches = unique([]string{pod.Namespace + "." + svc, svc, cluster.Domain}, host.Searches)
		out.Options = []string{"ndots:5"}
	}
	if c := pod.Spec.DNSConfig; c != nil {
		out.Servers = unique(out.Servers, c.Nameservers)
		out.Searches = unique(out.Searches, c.Searches)
		out.Options = mergeOptions(out.Options, c.Options)
	}
	out.Servers = out.Servers[:min(len(out.Servers), maxNameservers)]
	out.Searches = out.Searches[:min(len(out.Searches), maxSearches)]
	return out
}

func unique(lists ...[]string) []string {
	var out []string
	seen := map[string]bool{}
	for _, list := range lists {
		for _, s := range list {
			if !seen[s] {
				seen[s] = true
				out = append(out, s)
			}
		}
	}
	return out
}

// mergeOptions appends the pod's resolver options; one replaces its namesake.
func mergeOptions(base []string, more []v1.PodDNSConfigOption) []string {
	out := append([]string(nil), base...)
	for _, o := range more {
		text := o.Name
		if o.Value != nil && *o.Value != "" {
			text += ":" + *o.Value
		}
		replaced := false
		for i, have := range out {
			if name, _, _ := strings.Cut(have, ":"); name == o.Name {
				out[i], replaced = text, true
			}
		}
		if !replaced {
			out = append(out, text)
		}
	}
	return out
}

// ParseResolvConf reads the host's resolver configuration.
func ParseResolvConf(text string) *runtimeapi.DNSConfig {
	c := &runtimeapi.DNSConfig{}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			c.Servers = append(c.Servers, fields[1])
		case "search", "domain":
			c.Searches = fields[1:] // the last one counts
		case "options":
			c.Options = fields[1:]
		}
	}
	return c
}

// Hosts is the content of the pod's /etc/hosts. hostFile is the host's, used
// by pods on the host's network.
func Hosts(pod *v1.Pod, clusterDomain string, podIPs []string, hostFile []byte) []byte {
	var b strings.Builder
	if pod.Spec.HostNetwork {
		b.WriteString("# Kubernetes-managed hosts file (host network).\n")
		b.Write(hostFile)
	} else {
		b.WriteString("# Kubernetes-managed hosts file.\n" +
			"127.0.0.1\tlocalhost\n" +
			"::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
		name, domain := Hostname(pod, clusterDomain)
		for _, ip := range podIPs {
			if domain != "" {
				fmt.Fprintf(&b, "%s\t%s.%s\t%s\n", ip, name, domain, name)
			} else {
				fmt.Fprintf(&b, "%s\t%s\n", ip, name)
			}
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, a := range pod.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
		}
	}
	return []byte(b.String())
}

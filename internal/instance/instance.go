// Package instance derives from one server's settings every name that it shares
// with the host: directories, sockets, bridges, subnets, the nftables table and
// the cgroup. Two instances with different names never meet.
package instance

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"gantry/internal/problem"
)

// Default is the name of the instance that commands mean when none is named.
const Default = "gantry"

// Config is what a server is started with.
type Config struct {
	Name        string   `json:"instance,omitempty"`            // default "gantry"
	DataDir     string   `json:"data-dir,omitempty"`            // default /var/lib/NAME
	RunDir      string   `json:"run-dir,omitempty"`             // default /run/NAME
	APIListen   string   `json:"api-listen,omitempty"`          // default 127.0.0.1:6443
	HTTPListen  string   `json:"http-listen,omitempty"`         // default :80
	Disable     []string `json:"disable,omitempty"`             // parts that are off
	ICC         *bool    `json:"icc,omitempty"`                 // containers on Docker's default network reach each other; default true
	BypassInput bool     `json:"bypass-input-policy,omitempty"` // published ports are open to whom the host's input chains drop
	Init        bool     `json:"init,omitempty"`                // containers have an init unless they say otherwise
	LogLevel    string   `json:"log-level,omitempty"`           // debug, info, warn or error; default info

	// What images, the build cache and containers may take of the disk; see docs/disk.md.
	DiskBudget string `json:"disk-budget,omitempty"` // "80%" of the file system of DataDir
	DiskFloor  string `json:"disk-floor,omitempty"`  // "5GB", that stay free on it

	// Logs of containers that ask for no driver, or for no other.
	LogDriver  string   `json:"log-driver,omitempty"` // default json-file
	LogOptions []string `json:"log-opt,omitempty"`    // NAME=VALUE

	// The registry that is served.
	RegistryListen  string `json:"registry-listen,omitempty"`   // default DefaultRegistry, and off where its port is taken
	RegistryUsers   string `json:"registry-users,omitempty"`    // file; required beyond loopback
	RegistryTLSCert string `json:"registry-tls-cert,omitempty"` // file; required beyond loopback
	RegistryTLSKey  string `json:"registry-tls-key,omitempty"`  // file

	RegistryPullThrough []string `json:"registry-pull-through,omitempty"` // registries that it is a cache of

	// Registries that are reached, for docker pull, FROM and pods alike.
	RegistryCerts      []string `json:"registry-certs,omitempty"`    // directories with HOST[:PORT]/*.crt; default DefaultCerts
	RegistryMirrors    []string `json:"registry-mirror,omitempty"`   // [HOST=]URL; without HOST of docker.io
	InsecureRegistries []string `json:"insecure-registry,omitempty"` // HOST[:PORT] or CIDR
	SignaturePolicy    string   `json:"signature-policy,omitempty"`  // file; images need no signatures without it

	// Where the Docker Engine API is served beside DockerSocket, under dockerd's names.
	Hosts     []string `json:"hosts,omitempty"`     // unix://PATH or tcp://ADDRESS
	TLS       *bool    `json:"tls,omitempty"`       // on TCP; nil: if TLSVerify
	TLSVerify *bool    `json:"tlsverify,omitempty"` // clients show a certificate of TLSCACert
	TLSCACert string   `json:"tlscacert,omitempty"` // PEM files
	TLSCert   string   `json:"tlscert,omitempty"`
	TLSKey    string   `json:"tlskey,omitempty"`
}

// Parts are the names that Disable may hold. "cluster" is all of the cluster.
var Parts = []string{"cluster", "ingress", "proxy", "dns", "cri", "registry"}

// DefaultRegistry is where the registry listens when nothing else is said.
const DefaultRegistry = "127.0.0.1:5000"

// DefaultCerts are the trust directories: our own, and the one that Docker uses.
var DefaultCerts = []string{"/etc/gantry/certs.d", "/etc/docker/certs.d"}

// name is short enough that the longest derived interface name stays below
// IFNAMSIZ (15 bytes).
var name = regexp.MustCompile(`^[a-z][a-z0-9-]{0,19}$`)

// WithDefaults fills the empty fields and validates the name.
func (c Config) WithDefaults() (Config, error) {
	if c.Name == "" {
		c.Name = Default
	}
	if !name.MatchString(c.Name) {
		return c, problem.New(problem.Invalid, "instance name %q: want a lower-case letter, then up to 19 letters, digits and hyphens", c.Name)
	}
	if c.DataDir == "" {
		c.DataDir = "/var/lib/" + c.Name
	}
	if c.RunDir == "" {
		c.RunDir = "/run/" + c.Name
	}
	if c.APIListen == "" {
		c.APIListen = "127.0.0.1:6443"
	}
	if c.HTTPListen == "" {
		c.HTTPListen = ":80"
	}
	if c.LogLevel == "" {
		c.LogLevel = "info"
	}
	if len(c.RegistryCerts) == 0 {
		c.RegistryCerts = slices.Clone(DefaultCerts)
	}
	for _, part := range c.Disable {
		if !slices.Contains(Parts, part) {
			return c, problem.New(problem.Invalid, "disable %q: the parts that can be off are %s", part, strings.Join(Parts, ", "))
		}
	}
	for _, dir := range []string{c.DataDir, c.RunDir} {
		if !filepath.IsAbs(dir) {
			return c, problem.New(problem.Invalid, "directory %q: want an absolute path", dir)
		}
	}
	return c, nil
}

// Disabled reports whether part is off, by its own name or with the cluster.
func (c Config) Disabled(part string) bool {
	if slices.Contains(c.Disable, part) {
		return true
	}
	return part != "cri" && part != "registry" && slices.Contains(c.Disable, "cluster")
}

// DockerSocket is where the Docker Engine API is served.
func (c Config) DockerSocket() string { return filepath.Join(c.RunDir, "docker.sock") }

// CRISocket is where the Container Runtime Interface is served.
func (c Config) CRISocket() string { return filepath.Join(c.RunDir, "cri.sock") }

// ControlSocket is where the client asks the server about itself.
func (c Config) ControlSocket() string { return filepath.Join(c.RunDir, "gantry.sock") }

// LogFile is the server's own log when "gantry up" started it.
func (c Config) LogFile() string { return filepath.Join(c.DataDir, "gantryd.log") }

// Kubeconfig is the administrator's kubeconfig file.
func (c Config) Kubeconfig() string { return filepath.Join(c.DataDir, "kubeconfig") }

// Table is the name of the instance's own nftables table.
func (c Config) Table() string { return c.Name }

// Cgroup is the cgroup, relative to each hierarchy's root, above all containers.
func (c Config) Cgroup() string { return c.Name }

// Bridge is the bridge of Docker's default network.
func (c Config) Bridge() string { return c.link("0") }

// PodBridge is the bridge of the pods.
func (c Config) PodBridge() string { return c.link("-pods") }

// LinkPrefix begins the names of the instance's other interfaces.
func (c Config) LinkPrefix() string {
	if c.Name == Default {
		return "gt"
	}
	return fmt.Sprintf("gt%04x", c.hash()&0xffff)
}

// link returns an interface name; a name other than the default's is hashed,
// because interface names have no more than 15 bytes.
func (c Config) link(suffix string) string {
	if c.Name == Default {
		return Default + suffix
	}
	return fmt.Sprintf("gt%04x%s", c.hash()&0xffff, suffix)
}

// ServiceSubnet is the range of the cluster's Service addresses. They exist in
// the instance's nftables rules only, so two instances need different ranges.
func (c Config) ServiceSubnet() netip.Prefix {
	if c.Name == Default {
		return netip.MustParsePrefix("10.43.0.0/16")
	}
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(128 + c.hash()%120), 0, 0}), 16)
}

// PodSubnet is the range that pods of this node prefer for their addresses; the
// network picks the next free one when the host already routes it.
func (c Config) PodSubnet() netip.Prefix {
	if c.Name == Default {
		return netip.MustParsePrefix("10.42.0.0/24")
	}
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(8 + c.hash()%30), byte(c.hash() >> 8), 0}), 24)
}

func (c Config) hash() uint32 {
	h := fnv.New32a()
	h.Write([]byte(c.Name)) // never fails
	return h.Sum32()
}

// Package network gives containers their addresses: bridges, network
// namespaces, published ports, masquerade, and the resolv.conf and hosts files.
//
// Host owns everything of one instance: its bridges and virtual Ethernet pairs,
// the namespaces pinned under RUN/netns/ID, the addresses handed out, the held
// host ports, and one nftables table named after the instance. It knows nothing
// of containers beyond their IDs and names, and nothing of Services: those are
// rules of cluster/proxy in a table of its own.
//
// # On disk
//
// DATA/networks/ID.json holds one network each (name, subnet, bridge). Which
// container has which address is not recorded here: the engine keeps each
// Endpoint and Publication with its container and hands them to Restore, which
// rebuilds the allocation and removes what belongs to nobody.
//
// # Ways of a packet
//
// A network of driver bridge is one Linux bridge. Its containers reach each
// other through it, and the outside by masquerade. Networks do not reach each
// other, except that pods reach everything and everybody reaches a published
// port. Nobody outside reaches a container's address directly, only its
// published ports; pods are reachable, as Kubernetes wants it.
//
// Pods have no route to their own subnet: pod to pod traffic passes the host's
// routing, so that Service translation sees both directions and a pod's address
// stays visible to the pod it talks to.
//
// A published port is a DNAT rule. The port is also held by a bound socket
// whose filter drops everything, for as long as it is published: another
// process that wants the port gets "address already in use" instead of silence,
// ss shows who has it, and a client that meets the moment after a foreign
// "nft flush ruleset" retries its SYN instead of being refused.
//
// # Goroutines
//
// Run owns the watchers that heal the tables after a foreign change and that
// say when a route collides with a network, the name server (package names) and
// the remover that lets namespaces go off the hot path. All methods may be
// called concurrently once Restore has returned.
package network

import (
	"net/netip"
	"time"
)

// Names of the networks that always exist.
const (
	Bridge   = "bridge" // Docker's default network
	HostMode = "host"   // the host's own namespace; the engine handles it
	None     = "none"   // a namespace with lo alone; the engine handles it
	Pods     = "pods"   // the pods of the cluster; not listed by the Docker API
)

// Drivers.
const (
	DriverBridge  = "bridge"
	DriverMacvlan = "macvlan" // interfaces of their own on one of the host's
	DriverHost    = "host"
	DriverNull    = "null"
)

// Network is one network, as persisted.
type Network struct {
	ID         string                `json:"id"` // 64 hexadecimal digits
	Name       string                `json:"name"`
	Driver     string                `json:"driver"`
	Link       string                `json:"link,omitempty"` // the bridge's interface name; of macvlan, the parent's
	Subnet     netip.Prefix          `json:"subnet,omitzero"`
	Gateway    netip.Addr            `json:"gateway,omitzero"`     // the bridge's own address
	Range      netip.Prefix          `json:"range,omitzero"`       // addresses come from here; zero: from Subnet
	Reserved   map[string]netip.Addr `json:"reserved,omitempty"`   // auxiliary addresses, not handed out
	IPv6       Stack                 `json:"ipv6,omitzero"`        // zero: IPv4 alone
	Internal   bool                  `json:"internal,omitempty"`   // leads nowhere else
	Apart      bool                  `json:"apart,omitempty"`      // its containers do not reach each other
	Unmasked   bool                  `json:"unmasked,omitempty"`   // containers keep their address on the way out
	Binding    netip.Addr            `json:"binding,omitzero"`     // where ports are published by default; zero: everywhere
	Mode       string                `json:"mode,omitempty"`       // of macvlan
	SubLink    bool                  `json:"subLink,omitempty"`    // the parent is a VLAN's interface that we made
	Attachable bool                  `json:"attachable,omitempty"` // for inspect
	MTU        int                   `json:"mtu,omitempty"`        // 0: the kernel's 1500
	Labels     map[string]string     `json:"labels,omitempty"`
	Options    map[string]string     `json:"options,omitempty"` // as given; for inspect
	Created    time.Time             `json:"created"`
	Chosen     bool                  `json:"chosen,omitempty"` // the subnet is ours, not the user's: it may move

	wants6 bool // being created, with an IPv6 subnet that may be missing
}

// Stack is the IPv6 half of a network.
type Stack struct {
	Subnet   netip.Prefix          `json:"subnet"`
	Gateway  netip.Addr            `json:"gateway"`
	Range    netip.Prefix          `json:"range,omitzero"`
	Reserved map[string]netip.Addr `json:"reserved,omitempty"`
	Given    bool                  `json:"given,omitempty"` // the subnet is the user's
}

// Predefined tells whether n always exists and cannot be removed.
func (n Network) Predefined() bool {
	return n.Name == Bridge || n.Name == HostMode || n.Name == None || n.Name == Pods
}

// CreateRequest asks for a user-defined network.
type CreateRequest struct {
	Name       string
	Driver     string       // "" (bridge), "bridge" and "macvlan"
	Subnet     netip.Prefix // zero: the next free one
	Gateway    netip.Addr   // zero: the subnet's first address
	Range      netip.Prefix // zero: the whole subnet
	Reserved   map[string]netip.Addr
	IPv6       *Stack // nil: none; its zero fields are chosen likewise
	Internal   bool
	Attachable bool
	Labels     map[string]string
	Options    map[string]string // those of options.go are honoured; others of Docker's are refused by name
}

// AttachRequest asks for one interface in a namespace.
type AttachRequest struct {
	Namespace string            // path, as NewNamespace returned it
	Container string            // container or sandbox ID
	Network   string            // name or ID
	Interface string            // "" means eth0, or the next free ethN
	Address   netip.Addr        // wish; zero: the next free one
	Address6  netip.Addr        // likewise
	LinkLocal []netip.Addr      // further addresses, as given
	Sysctls   map[string]string // of the interface, below net/; IFNAME stands for its name
	MAC       string            // wish; "": derived from the address
	Aliases   []string          // names of the container on this network, its own first
	Links     map[string]string // names that only this container knows -> names of others, in lower case
	Secondary bool              // another network already gave the default route
}

// Endpoint is an attached interface. The engine persists it with its container
// and gives it back to Restore.
type Endpoint struct {
	ID        string            `json:"id"`      // 64 hexadecimal digits
	Network   string            `json:"network"` // the network's ID
	Name      string            `json:"name"`    // the network's name
	Driver    string            `json:"driver"`  // the network's driver
	Container string            `json:"container"`
	Namespace string            `json:"namespace"`
	Interface string            `json:"interface"` // in the namespace
	HostLink  string            `json:"hostLink"`  // the other end, on the bridge
	Address   netip.Prefix      `json:"address"`
	Gateway   netip.Addr        `json:"gateway,omitzero"` // zero: it leads nowhere else
	Address6  netip.Prefix      `json:"address6,omitzero"`
	Gateway6  netip.Addr        `json:"gateway6,omitzero"`
	MAC       string            `json:"mac"`
	Aliases   []string          `json:"aliases,omitempty"`
	Links     map[string]string `json:"links,omitempty"`
}

// Addresses are those of the interface, IPv4 first.
func (ep Endpoint) Addresses() []netip.Addr {
	list := []netip.Addr{ep.Address.Addr()}
	if ep.Address6.IsValid() {
		list = append(list, ep.Address6.Addr())
	}
	return list
}

// Protocols of published ports.
const (
	TCP  = "tcp"
	UDP  = "udp"
	SCTP = "sctp"
)

// PortBinding publishes one container port on one host port.
type PortBinding struct {
	ContainerPort uint16     `json:"containerPort"`
	Protocol      string     `json:"protocol"`           // TCP, UDP, SCTP; "" means TCP
	HostIP        netip.Addr `json:"hostIP,omitzero"`    // zero: every address; 0.0.0.0 or [::]: every one of its family
	HostPort      uint16     `json:"hostPort,omitempty"` // 0: a free one is chosen
	HostPortEnd   uint16     `json:"hostPortEnd,omitempty"`
	// HostPortEnd, when not 0, ends a range that starts at HostPort and of which
	// the first free port is taken. In results it is 0.
}

// Publication is what one container has published. The engine persists it with
// its container and gives it back to Restore.
type Publication struct {
	Container string        `json:"container"` // ID
	Name      string        `json:"name"`      // for messages: who has the port
	Network   string        `json:"network"`   // ID or name of the network that Address is on
	Address   netip.Addr    `json:"address"`   // the container's
	Address6  netip.Addr    `json:"address6,omitzero"`
	Ports     []PortBinding `json:"ports"`
}

// Live is what outlived the previous daemon, for Restore.
type Live struct {
	Namespaces   []string // IDs of the namespaces still in use
	Endpoints    []Endpoint
	Publications []Publication
	Names        []NameClient // containers on user-defined networks
}

// Finding is one thing that Diagnose has to say.
type Finding struct {
	Problem string // what is wrong, with the names and values seen
	Fix     string // one imperative sentence
	Fatal   bool   // containers cannot have a network like this
}

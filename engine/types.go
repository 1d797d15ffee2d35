package engine

import (
	"io"
	"net/netip"
	"time"

	dcontainer "github.com/moby/moby/api/types/container"
	devents "github.com/moby/moby/api/types/events"
	dnetwork "github.com/moby/moby/api/types/network"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// CreateRequest is what a container is made from. Config and HostConfig are
// Docker's; a field which is not supported is refused by name, never dropped.
type CreateRequest struct {
	Name       string // empty: a random one
	Config     *dcontainer.Config
	HostConfig *dcontainer.HostConfig     // nil: Docker's defaults
	Networking *dnetwork.NetworkingConfig // nil: what HostConfig.NetworkMode says
	Platform   *ocispec.Platform          // nil: the host's

	// Pod containers. The container joins the sandbox's network, IPC and UTS
	// namespaces and its cgroup, and gets its hosts, hostname and resolv.conf.
	Sandbox     string
	LogPath     string // absolute; empty: DIR/containers/ID/log
	LogFormat   string // "json-file" (default), "cri" or "none"
	Annotations map[string]string
}

// Container is what is known about a container at one moment.
type Container struct {
	ID           string
	Name         string // without the leading slash
	Created      time.Time
	Image        digest.Digest // the image's ID
	Sandbox      string
	LogPath      string
	Annotations  map[string]string
	Config       *dcontainer.Config     // shared: do not change
	HostConfig   *dcontainer.HostConfig // shared: do not change
	Mounts       []dcontainer.MountPoint
	Status       dcontainer.ContainerState
	Pid          int // 0 unless running or paused
	ExitCode     int
	OOMKilled    bool
	Error        string // why the last start failed
	StartedAt    time.Time
	FinishedAt   time.Time
	RestartCount int
}

// Filters are a list request's filters: name -> wanted values, as on Docker's
// wire.
type Filters map[string][]string

// ListOptions selects containers.
type ListOptions struct {
	All     bool // also those which do not run
	Limit   int  // the newest n, in any state; 0: no limit
	Size    bool // fill SizeRw and SizeRootFs
	Filters Filters
}

// StopOptions says how a container is stopped.
type StopOptions struct {
	Signal  string         // empty: the container's own
	Timeout *time.Duration // nil: the container's own; negative: wait for ever
}

// RemoveOptions says how a container is removed.
type RemoveOptions struct {
	Force   bool // kill it first if it runs
	Volumes bool // and its anonymous volumes
}

// Streams are the caller's ends of a container's standard streams. A nil one is
// not connected.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	DetachKeys     []byte // nil: none; read from Stdin, they end the attachment and not the process
}

// LogsOptions selects lines of a container's log.
type LogsOptions struct {
	Stdout, Stderr bool
	Follow         bool
	Since, Until   time.Time // zero: no bound
	Tail           int       // last n lines; negative: all
}

// LogLine is one line, or part of an overlong one, of a container's output.
type LogLine struct {
	Time   time.Time
	Stderr bool
	Text   []byte            // with its newline, if it had one; valid until the callback returns
	Attrs  map[string]string // what the log's options tag it with
}

// EventsOptions selects events.
type EventsOptions struct {
	Since, Until time.Time // zero: from now on, without end
	Filters      Filters
}

// Event is one thing that happened, in Docker's form.
type Event = devents.Message

// PortMapping makes a port of a pod reachable at a port of the host.
type PortMapping struct {
	Protocol      dnetwork.IPProtocol // tcp, udp, sctp
	ContainerPort uint16
	HostPort      uint16
	HostIP        netip.Addr // zero: every address
}

// DNS is the content of a resolv.conf.
type DNS struct {
	Servers  []string
	Searches []string
	Options  []string
}

// SandboxSpec is what a pod's sandbox is made from.
type SandboxSpec struct {
	Name, Namespace, UID string
	Attempt              uint32
	Hostname             string
	Labels               map[string]string
	Annotations          map[string]string
	CgroupParent         string               // relative to the instance's cgroup; empty: "pods/ID"
	Resources            dcontainer.Resources // limits of all its containers together
	DNS                  DNS                  // all empty: the host's
	HostAliases          []string
	HostNetwork          bool
	HostIPC              bool
	HostPID              bool
	Ports                []PortMapping
	Sysctls              map[string]string
	LogDirectory         string
}

// SandboxState is whether containers can be started in a sandbox.
type SandboxState string

// The states of a sandbox.
const (
	SandboxReady    SandboxState = "ready"
	SandboxNotReady SandboxState = "not-ready" // stopped, or lost with a reboot
)

// Sandbox is what is known about a pod's sandbox at one moment.
type Sandbox struct {
	SandboxSpec
	ID               string
	Created          time.Time
	State            SandboxState
	IPs              []netip.Addr // none for HostNetwork
	NetworkNamespace string       // path; empty for HostNetwork
}

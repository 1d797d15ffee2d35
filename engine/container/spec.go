package container

import (
	"io"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"gantry/engine/container/plan"
	"gantry/internal/problem"
)

// Spec is all that Create needs.
type Spec struct {
	ID  string // unique in the Runtime; letters, digits, '-', '_', '.'
	Dir string // the container's directory, which exists; the exit record goes here

	// OCI is the runtime-spec configuration. Linux.CgroupsPath is relative to
	// Config.Cgroup unless it begins with a slash; empty means ID. A field that is not supported is refused
	// by name. Process.Terminal asks for a terminal.
	OCI *specs.Spec

	// Overlay is mounted as the root in the container's own mount namespace, so
	// that it goes away with it. Nil: OCI.Root.Path is the root.
	Overlay *Overlay

	Log       Log
	OpenStdin bool // otherwise stdin is /dev/null
	StdinOnce bool // stdin is closed when the first attached client's input ends
}

// Overlay names the directories of an overlay mount.
type Overlay = plan.Overlay

// The formats of a container's log.
const (
	LogJSON = "json-file" // Docker's: one JSON object a line
	LogCRI  = "cri"       // Kubernetes': TIME STREAM F|P LINE
	LogNone = "none"
)

// Log says where and how the shim writes what the container prints.
type Log struct {
	Format   string // LogJSON, LogCRI or LogNone; empty means LogNone
	Path     string
	MaxBytes int64  // of one file; 0 means 20 MiB, -1 no bound
	MaxFiles int    // the current one included; 0 means 5
	Attrs    string // JSON object that each LogJSON entry carries; empty: none
	Buffer   int64  // bytes of output that may wait for the log before more is dropped; 0: output waits
}

// Exit is how a container or an exec ended.
type Exit struct {
	Code      int // 128 + signal number where a signal ended it
	OOMKilled bool
	At        time.Time
	Error     string // why the code is not the process's own, when the shim was lost
}

// Streams is one client's end of a container's or an exec's stdio. Nil members
// are not connected. With a terminal everything arrives on Stdout.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer

	// DetachKeys ends Attach with ErrDetached when they are read from Stdin.
	// Empty: none.
	DetachKeys []byte
}

// ErrDetached is what Attach returns after the detach keys.
const ErrDetached = problem.Kind("detached from container")

// ExecSpec is a further process in a running container.
type ExecSpec struct {
	ID      string // unique in the container
	Process specs.Process
	Stdin   bool // otherwise stdin is /dev/null

	// Note is kept with the exec while its container lives, for Container.Execs.
	// Empty: the exec is not listed there.
	Note []byte
}

// Stats is what a container's cgroup says about its use of the host. What the
// host's cgroups cannot tell is 0.
type Stats struct {
	At            time.Time
	CPUNanos      uint64
	CPUUserNanos  uint64
	CPUSysNanos   uint64
	CPUNanosEach  []uint64 // of each CPU; nil on cgroup2, which does not count them
	Throttled     Throttling
	MemoryBytes   uint64            // usage, page cache included
	MemoryMax     uint64            // highest usage seen; 0 where unknown
	MemoryFails   uint64            // how often the limit was reached; 0 where unknown
	MemoryLimit   uint64            // 0: none
	WorkingSet    uint64            // usage less inactive page cache
	MemoryDetails map[string]uint64 // memory.stat
	Pids          uint64
	PidsLimit     uint64 // 0: none
	IO            []IOStat
}

// Throttling counts the periods of the cpu quota.
type Throttling struct {
	Periods, Throttled, Nanos uint64
}

// IOStat is the traffic with one block device.
type IOStat struct {
	Major, Minor                             uint64
	ReadBytes, WriteBytes, ReadOps, WriteOps uint64
}

package builder

import (
	"context"
	"io"
)

// Runner runs one command in a root file system and waits for it.
// Package engine implements it.
type Runner interface {
	// Run returns the command's exit code; an error means that it could not be
	// run at all. When ctx ends the command is killed, and Run returns ctx's
	// error after nothing of it is left. Afterwards nothing is mounted on or
	// from spec's directories, and Upper holds what the command wrote, complete in
	// itself: the overlay is mounted with redirect_dir=off and metacopy=off.
	Run(ctx context.Context, spec RunSpec) (int, error)
}

// RunSpec is what a RUN instruction runs.
type RunSpec struct {
	ID      string   // container ID to use, 64 hexadecimal digits
	Lower   []string // read-only layers, topmost first; never empty
	Upper   string   // receives what the command changes
	Work    string   // overlayfs's work directory, beside Upper
	Args    []string
	Env     []string // PATH included; HOME is set from User unless it is there
	Dir     string   // working directory, absolute; made if missing
	User    string   // "", "name", "uid", "name:group", "uid:gid": as in the image's configuration
	Network string   // "", "default", "none", "host", or a network's name
	Hosts   []string // "name:address", for /etc/hosts
	Mounts  []Mount
	Stdout  io.Writer
	Stderr  io.Writer
	Limits  Limits
}

// Mount is a directory or file of the host, an overlay of directories, or a
// fresh tmpfs, to put into the root file system while the command runs.
type Mount struct {
	Source   string   // path on the host
	Lower    []string // of an overlay, topmost first; empty, as Source: a tmpfs
	Upper    string   // of the overlay; empty: nothing can be written
	Work     string   // overlayfs's work directory, beside Upper
	Target   string   // absolute, in the root file system
	ReadOnly bool
	Bytes    int64 // of a tmpfs; 0: the kernel's default
}

// Limits are the resources that one RUN may use; zero values mean no limit.
type Limits struct {
	Cgroup     string // parent, as HostConfig.CgroupParent
	Memory     int64  // bytes
	MemorySwap int64  // bytes, memory and swap together; -1: no limit
	CPUShares  int64
	CPUPeriod  int64 // microseconds
	CPUQuota   int64 // microseconds
	CPUSet     string
	CPUSetMems string
	ShmSize    int64 // bytes
	Ulimits    []Ulimit
}

// Ulimit is one resource limit, named as Docker names it ("nofile").
type Ulimit struct {
	Name       string
	Soft, Hard int64
}

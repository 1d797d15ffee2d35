// Package control is what a server tells its own command line over its control
// socket: how far its start has come, what it uses, and where it listens; and
// the requests that only the command line makes: to stop, to look at a
// container's listening ports, and to check its stores.
//
// The protocol is HTTP with JSON on a Unix socket, RUN/gantry.sock:
//
//	GET  /status                 Status
//	GET  /usage                  Usage
//	GET  /ports?container=ID     []Port
//	GET  /check                  []Violation
//	GET  /disk                   Disk
//	POST /stop?containers=FATE   204 when the server has begun to stop
//
// It is private to one release: client and server are installed together.
package control

import (
	"slices"
	"sync"
	"time"

	"gantry/internal/instance"
)

// Phase is where a server is in its life.
type Phase string

// The phases, in order.
const (
	Starting Phase = "starting"
	Running  Phase = "running"
	Stopping Phase = "stopping"
	Failed   Phase = "failed"
)

// Status describes a running server.
type Status struct {
	Instance instance.Config `json:"instance"`
	Version  string          `json:"version"`
	PID      int             `json:"pid"`
	Phase    Phase           `json:"phase"`
	Since    time.Time       `json:"since"` // when the process began
	Steps    []Step          `json:"steps"`
	Error    string          `json:"error,omitempty"` // why Phase is Failed
	Try      string          `json:"try,omitempty"`   // what to do about it
	Node     string          `json:"node,omitempty"`
	API      string          `json:"api,omitempty"`  // host:port of the Kubernetes API; empty when it is off
	HTTP     string          `json:"http,omitempty"` // host:port at which the ingress listens
	Notes    []string        `json:"notes,omitempty"`
}

// Usage is what a server takes from its host.
type Usage struct {
	PSSBytes      int64 `json:"pssBytes"`      // memory of the server's process, its share of shared pages included
	DiskBytes     int64 `json:"diskBytes"`     // blocks under the data directory
	DiskPartial   bool  `json:"diskPartial"`   // there are too many files to count all in a second
	DiskFreeBytes int64 `json:"diskFreeBytes"` // what the file system has left
}

// Fate is what becomes of the containers when a server stops.
type Fate string

// The fates.
const (
	Keep Fate = "keep" // they go on running
	Stop Fate = "stop" // they get their signal and their grace period
	Kill Fate = "kill" // they end at once
	// Reboot is Stop because the host goes down: what has a restart policy runs
	// again when it is up. Nobody asks for it.
	Reboot Fate = "reboot"
)

// Step is one step of a server's start.
type Step struct {
	Name  string        `json:"name"`
	Begun time.Time     `json:"begun"`
	Took  time.Duration `json:"took,omitempty"` // 0 while it runs
	Error string        `json:"error,omitempty"`
}

// Done reports whether the step has ended well.
func (s Step) Done() bool { return s.Took > 0 && s.Error == "" }

// Port is a port on which a container's network namespace is listening.
type Port struct {
	Port     uint16 `json:"port"`
	Protocol string `json:"protocol"` // tcp or udp
	Loopback bool   `json:"loopback"` // reachable from inside only
}

// Violation is one thing that a check of the stores has found wrong.
type Violation struct {
	Part    string `json:"part"` // images, containers, volumes, build cache
	Problem string `json:"problem"`
}

// Disk is what the server stores, and what it may store.
type Disk struct {
	TotalBytes int64       `json:"totalBytes"` // of the file system
	FreeBytes  int64       `json:"freeBytes"`
	FloorBytes int64       `json:"floorBytes"` // that have to be free
	LimitBytes int64       `json:"limitBytes"` // that all rows together may take
	TakenBytes int64       `json:"takenBytes"`
	Kinds      []DiskKind  `json:"kinds"`
	Images     []DiskImage `json:"images"`
}

// DiskKind is how much one kind of things takes.
type DiskKind struct {
	Kind      string `json:"kind"`
	Count     int    `json:"count"`
	Bytes     int64  `json:"bytes"`     // what they share among themselves counts once
	OwnBytes  int64  `json:"ownBytes"`  // that no other kind has too
	FreeBytes int64  `json:"freeBytes"` // that may go when the room is needed
}

// DiskImage is how much one image takes.
type DiskImage struct {
	ID          string   `json:"id"`
	Names       []string `json:"names,omitempty"`
	Bytes       int64    `json:"bytes"`
	UniqueBytes int64    `json:"uniqueBytes"`     // that nothing else has
	Needs       string   `json:"needs,omitempty"` // why it never goes
}

// Progress collects the steps of a start. It is safe for concurrent use.
type Progress struct {
	// Changed, if not nil, is called after each beginning and end of a step,
	// without a lock held.
	Changed func()

	mu    sync.Mutex
	steps []Step
}

// Step runs f as the step called name and returns f's error.
func (p *Progress) Step(name string, f func() error) error {
	begun := time.Now()
	p.mu.Lock()
	at := len(p.steps)
	p.steps = append(p.steps, Step{Name: name, Begun: begun})
	p.mu.Unlock()
	p.changed()
	err := f()
	p.mu.Lock()
	p.steps[at].Took = max(time.Since(begun), 1)
	if err != nil {
		p.steps[at].Error = err.Error()
	}
	p.mu.Unlock()
	p.changed()
	return err
}

func (p *Progress) changed() {
	if p.Changed != nil {
		p.Changed()
	}
}

// Steps returns a copy of the steps so far, in the order of their beginning.
func (p *Progress) Steps() []Step {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.steps)
}

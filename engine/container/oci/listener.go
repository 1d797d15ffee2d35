package oci

import (
	"encoding/json"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// sendListener passes the descriptor on which a seccomp filter notifies to who
// answers, with the state of the process that has the filter.
//
// Spec: runtime-spec config-linux.md, "The Container Process State".
func (c *Container) sendListener(profile *specs.LinuxSeccomp, pid, fd int) error {
	defer unix.Close(fd)
	// The container's first process is not recorded yet while it is created.
	status, first := specs.StateCreating, pid
	if c.rec.Pid != 0 {
		status, first = c.Status(), c.rec.Pid
	}
	message, err := json.Marshal(&specs.ContainerProcessState{
		Version: specs.Version, Fds: []string{specs.SeccompFdName}, Pid: pid, Metadata: profile.ListenerMetadata,
		State: specs.State{Version: specs.Version, ID: c.rec.ID, Status: status, Pid: first, Bundle: c.rec.Bundle, Annotations: c.rec.Annotations},
	})
	if err != nil {
		return err
	}
	return sendFd(profile.ListenerPath, message, fd)
}

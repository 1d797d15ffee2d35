package cgroup

import (
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/opencontainers/cgroups"
)

// Stats is what the library reads of a group.
type Stats = cgroups.Stats

// Limits is what the library takes for a group's limits.
type Limits = cgroups.Resources

// Stats reads the group's use of the host.
func (g *Group) Stats() (*Stats, error) {
	m, err := g.manager(nil)
	if err != nil {
		return nil, err
	}
	s, err := m.GetStats()
	if err != nil {
		return nil, fmt.Errorf("read statistics of cgroup %s: %w", g.name, err)
	}
	if g.host.Pure() {
		// The library leaves this out. What v1 counts as failures are oom events here, as with the reference.
		s.MemoryStats.Usage.Failcnt = counter(text(path.Join(g.unified(), "memory.events")), "oom")
	}
	return s, nil
}

// counter is the value of a line "NAME VALUE" of the kernel's; 0 if there is none.
func counter(lines, name string) uint64 {
	for line := range strings.Lines(lines) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if key != name {
			continue
		}
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			return 0
		}
		return n
	}
	return 0
}

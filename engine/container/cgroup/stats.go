package cgroup

import (
	"fmt"

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
	return s, nil
}

package oci

import (
	"github.com/opencontainers/cgroups"
)

// makeGroup makes the container's cgroup. One that has processes is another's:
// it would be killed with the container.
func (c *Container) makeGroup(limits *cgroups.Resources) error {
	if c.group.Exists() {
		pids, err := c.group.Pids()
		if err != nil {
			return err
		}
		if len(pids) > 0 {
			return invalid("container's cgroup is not empty: %d process(es) found", len(pids))
		}
	}
	return c.group.Create(limits)
}

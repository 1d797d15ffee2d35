package main

import (
	"encoding/json"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"

	"gantry/engine/container/plan"
	"gantry/engine/container/seccomp"
)

func showFeatures(c *call) (int, error) {
	if _, err := c.parse(0, 0); err != nil {
		return 1, err
	}
	data, err := json.MarshalIndent(allFeatures(), "", "    ")
	if err != nil {
		return 1, err
	}
	_, err = os.Stdout.Write(append(data, '\n'))
	return 0, err
}

func allFeatures() *features.Features {
	yes, no := true, false
	modes, flags := plan.MemoryPolicies()
	return &features.Features{
		OCIVersionMin: "1.0.0", OCIVersionMax: specs.Version,
		Hooks:        []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"},
		MountOptions: plan.MountOptions(),
		Linux: &features.Linux{
			Namespaces:      plan.NamespaceNames(),
			Capabilities:    plan.AllCapabilities(),
			Cgroup:          &features.Cgroup{V1: &yes, V2: &yes, Systemd: &no, SystemdUser: &no, Rdma: &yes},
			Apparmor:        &features.Apparmor{Enabled: &yes},
			Selinux:         &features.Selinux{Enabled: &yes},
			IntelRdt:        &features.IntelRdt{Enabled: &no},
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: &yes}},
			NetDevices:      &features.NetDevices{Enabled: &yes},
			MemoryPolicy:    &features.MemoryPolicy{Modes: modes, Flags: flags},
			Seccomp:         seccomp.Features(),
		},
		Annotations: map[string]string{"org.opencontainers.runc.checkpoint.enabled": "false"},
	}
}

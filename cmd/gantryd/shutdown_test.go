package main

import (
	"testing"

	dcontainer "github.com/moby/moby/api/types/container"

	"gantry/engine"
	"gantry/internal/control"
)

func TestContainersOutliveTheDaemonButNotTheHost(t *testing.T) {
	for system, want := range map[string]control.Fate{
		"stopping\n": control.Reboot,
		"running\n":  control.Keep, "degraded\n": control.Keep, "maintenance\n": control.Keep, "offline\n": control.Keep,
		"": control.Keep, // no answer, or no systemctl
	} {
		if got := fateIn(system); got != want {
			t.Errorf("%q: got %s, want %s", system, got, want)
		}
	}
	t.Setenv("NOTIFY_SOCKET", "")
	if got := fateAtSignal(); got != control.Keep {
		t.Errorf("not as a service: got %s", got)
	}
}

func TestWhatStartsWithTheHost(t *testing.T) {
	for policy, want := range map[dcontainer.RestartPolicyMode]bool{
		"": false, dcontainer.RestartPolicyDisabled: false, dcontainer.RestartPolicyAlways: true,
		dcontainer.RestartPolicyUnlessStopped: true, dcontainer.RestartPolicyOnFailure: true,
	} {
		c := engine.Container{HostConfig: &dcontainer.HostConfig{RestartPolicy: dcontainer.RestartPolicy{Name: policy}}}
		if got := startsWithHost(c); got != want {
			t.Errorf("%q: got %v, want %v", policy, got, want)
		}
	}
}

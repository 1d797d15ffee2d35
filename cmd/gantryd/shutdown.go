package main

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"time"

	"gantry/engine"
	"gantry/internal/control"
)

// systemctlLimit bounds how long systemd may take to say what it is doing.
const systemctlLimit = 5 * time.Second

// fateAtSignal is what a signal means for the containers. They outlive the
// daemon, but not the host: when that goes down they are stopped while there is
// a network and time for it. Left alone, they would be killed by systemd's last
// step, which gives what does not end of itself a minute and a half.
func fateAtSignal() control.Fate {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return control.Keep // not a service of systemd's
	}
	ctx, cancel := context.WithTimeout(context.Background(), systemctlLimit)
	defer cancel()
	// Its exit status tells of degraded units; the word is what counts.
	out, _ := exec.CommandContext(ctx, "systemctl", "is-system-running").Output()
	return fateIn(string(out))
}

// fateIn is the containers' fate by what systemctl says of the host.
func fateIn(system string) control.Fate {
	if strings.TrimSpace(system) == "stopping" {
		return control.Reboot
	}
	return control.Keep
}

// startsWithHost says whether a container that a reboot ends is to run again
// after it: as with the reference, one with a restart policy is.
func startsWithHost(c engine.Container) bool { return !c.HostConfig.RestartPolicy.IsNone() }

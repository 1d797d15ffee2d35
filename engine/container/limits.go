package container

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// hostLimits is what this process may pass on to containers.
type hostLimits struct {
	resource       bool // CAP_SYS_RESOURCE
	rlimits        [16]uint64
	oomScoreAdj    int // the lowest that may be set without it
	capabilities   uint64
	lastCapability int
}

func readLimits() (hostLimits, error) {
	h := hostLimits{lastCapability: len(capabilityNames) - 1}
	for n := range h.rlimits {
		var r unix.Rlimit
		if err := unix.Getrlimit(n, &r); err != nil {
			return h, err
		}
		h.rlimits[n] = r.Max
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return h, err
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "CapPrm:"); ok {
			if h.capabilities, err = strconv.ParseUint(strings.TrimSpace(value), 16, 64); err != nil {
				return h, err
			}
		}
	}
	h.resource = h.capabilities&(1<<unix.CAP_SYS_RESOURCE) != 0
	if h.oomScoreAdj, err = readNumber("/proc/self/oom_score_adj"); err != nil {
		return h, err
	}
	h.lastCapability, err = readNumber("/proc/sys/kernel/cap_last_cap")
	return h, err
}

func readNumber(path string) (int, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(data)))
}

package plan

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Limits is what this process may pass on to containers.
type Limits struct {
	Resource       bool // CAP_SYS_RESOURCE
	Rlimits        [16]uint64
	OOMScoreAdj    int // the lowest that may be set without it
	capabilities   uint64
	lastCapability int
}

// ReadLimits asks the kernel.
func ReadLimits() (Limits, error) {
	h := Limits{lastCapability: len(capabilityNames) - 1}
	for n := range h.Rlimits {
		var r unix.Rlimit
		if err := unix.Getrlimit(n, &r); err != nil {
			return h, err
		}
		h.Rlimits[n] = r.Max
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
	h.Resource = h.capabilities&(1<<unix.CAP_SYS_RESOURCE) != 0
	if h.OOMScoreAdj, err = readNumber("/proc/self/oom_score_adj"); err != nil {
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

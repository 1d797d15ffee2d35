package main

import (
	"encoding/json"
	"io"
	"os"
	"strconv"

	"github.com/docker/go-units"
	"github.com/opencontainers/runtime-spec/specs-go"

	"gantry/internal/problem"
)

func update(c *call) (int, error) {
	file := c.textFlag("file with the limits, as linux.resources has them; - is stdin", "", "resources", "r")
	res := &specs.LinuxResources{}
	given := c.limitFlags(res)
	ctn, _, err := c.container(1, 1)
	if err != nil {
		return 1, err
	}
	if *file != "" {
		if *given {
			return 1, problem.New(problem.Invalid, "--resources does not go together with other limits")
		}
		if res, err = readLimits(*file); err != nil {
			return 1, err
		}
	}
	return 0, ctn.Update(res)
}

func readLimits(file string) (*specs.LinuxResources, error) {
	in := io.Reader(os.Stdin)
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	var res specs.LinuxResources
	if err := json.NewDecoder(in).Decode(&res); err != nil {
		return nil, problem.New(problem.Invalid, "limits in %s: %w", file, err)
	}
	return &res, nil
}

// limitFlags declares a flag for each limit; one that is given sets it in res.
func (c *call) limitFlags(res *specs.LinuxResources) (given *bool) {
	given = new(bool)
	var memory specs.LinuxMemory
	var cpu specs.LinuxCPU
	useMemory := func() { *given, res.Memory = true, &memory }
	useCPU := func() { *given, res.CPU = true, &cpu }
	bytes := func(name, usage string, to **int64) { number(c, name, usage, parseBytes, to, useMemory) }
	bytes("memory", "memory limit", &memory.Limit)
	bytes("memory-reservation", "memory reservation, or soft limit", &memory.Reservation)
	bytes("memory-swap", "memory and swap together; -1 is no limit", &memory.Swap)
	number(c, "cpu-share", "weight among other containers", parseUnsigned, &cpu.Shares, useCPU)
	number(c, "cpu-period", "CFS period in microseconds", parseUnsigned, &cpu.Period, useCPU)
	number(c, "cpu-quota", "CFS quota in microseconds", parseSigned, &cpu.Quota, useCPU)
	number(c, "cpu-burst", "CFS burst in microseconds", parseUnsigned, &cpu.Burst, useCPU)
	number(c, "cpu-rt-period", "realtime period in microseconds", parseUnsigned, &cpu.RealtimePeriod, useCPU)
	number(c, "cpu-rt-runtime", "realtime runtime in microseconds", parseSigned, &cpu.RealtimeRuntime, useCPU)
	number(c, "cpu-idle", "1: SCHED_IDLE", parseSigned, &cpu.Idle, useCPU)
	c.flags.Func("cpuset-cpus", "processors", func(s string) error { cpu.Cpus = s; useCPU(); return nil })
	c.flags.Func("cpuset-mems", "memory nodes", func(s string) error { cpu.Mems = s; useCPU(); return nil })
	var pids specs.LinuxPids
	number(c, "pids-limit", "number of processes; -1 is no limit", parseSigned, &pids.Limit, func() { *given, res.Pids = true, &pids })
	var block specs.LinuxBlockIO
	number(c, "blkio-weight", "block I/O weight, 10 to 1000", parseWeight, &block.Weight, func() { *given, res.BlockIO = true, &block })
	for _, name := range []string{"l3-cache-schema", "mem-bw-schema"} {
		c.flags.Func(name, "not supported", func(string) error { return problem.New(problem.Unsupported, "--%s is not supported", name) })
	}
	return given
}

// number declares a flag with a number, which is stored in to.
func number[T any](c *call, name, usage string, parse func(string) (T, error), to **T, used func()) {
	c.flags.Func(name, usage, func(s string) error {
		n, err := parse(s)
		if err != nil {
			return err
		}
		*to = &n
		used()
		return nil
	})
}

func parseSigned(s string) (int64, error)    { return strconv.ParseInt(s, 10, 64) }
func parseUnsigned(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) }

func parseWeight(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err
}

func parseBytes(s string) (int64, error) {
	if s == "-1" {
		return -1, nil
	}
	return units.RAMInBytes(s)
}

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/moby/sys/signal"

	"gantry/engine/container/oci"
	"gantry/internal/problem"
)

func start(c *call) (int, error) {
	ctn, _, err := c.container(1, 1)
	if err != nil {
		return 1, err
	}
	return 0, ctn.Start()
}

func kill(c *call) (int, error) {
	all := c.boolFlag("send it to all processes of the container", "all", "a")
	ctn, rest, err := c.container(1, 2)
	if err != nil {
		return 1, err
	}
	name := "SIGTERM"
	if len(rest) > 0 {
		name = rest[0]
	}
	sig, err := signal.ParseSignal(name)
	if err != nil {
		return 1, err
	}
	return 0, ctn.Kill(sig, *all)
}

func remove(c *call) (int, error) {
	force := c.boolFlag("kill it if it runs", "force", "f")
	ctn, _, err := c.container(1, 1)
	if *force && errors.Is(err, problem.NotFound) {
		return 0, nil
	}
	if err != nil {
		return 1, err
	}
	return 0, ctn.Delete(oci.Force(*force))
}

func pause(c *call) (int, error) {
	ctn, _, err := c.container(1, 1)
	if err != nil {
		return 1, err
	}
	return 0, ctn.Pause()
}

func resume(c *call) (int, error) {
	ctn, _, err := c.container(1, 1)
	if err != nil {
		return 1, err
	}
	return 0, ctn.Resume()
}

func state(c *call) (int, error) {
	ctn, _, err := c.container(1, 1)
	if err != nil {
		return 1, err
	}
	data, err := json.MarshalIndent(ctn.State(), "", "  ")
	if err != nil {
		return 1, err
	}
	_, err = os.Stdout.Write(data)
	return 0, err
}

func list(c *call) (int, error) {
	format := c.textFlag("table or json", "table", "format", "f")
	quiet := c.boolFlag("only ids", "quiet", "q")
	if _, err := c.parse(0, 0); err != nil {
		return 1, err
	}
	r, err := c.runtime()
	if err != nil {
		return 1, err
	}
	containers, err := r.List()
	if err != nil {
		return 1, err
	}
	states := []oci.State{}
	for _, ctn := range containers {
		states = append(states, ctn.State())
	}
	switch {
	case *quiet:
		for _, s := range states {
			fmt.Println(s.ID)
		}
		return 0, nil
	case *format == "json":
		return 0, json.NewEncoder(os.Stdout).Encode(states)
	case *format != "table":
		return 1, problem.New(problem.Invalid, "invalid format option")
	}
	w := tabwriter.NewWriter(os.Stdout, 12, 1, 3, ' ', 0)
	fmt.Fprint(w, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER\n")
	for _, s := range states {
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", s.ID, s.Pid, s.Status, s.Bundle, s.Created.Format(time.RFC3339Nano), s.Owner)
	}
	return 0, w.Flush()
}

func ps(c *call) (int, error) {
	format := c.textFlag("table or json", "table", "format", "f")
	ctn, rest, err := c.container(1, -1)
	if err != nil {
		return 1, err
	}
	pids, err := ctn.Pids()
	if err != nil {
		return 1, err
	}
	switch *format {
	case "json":
		if pids == nil {
			pids = []int{}
		}
		return 0, json.NewEncoder(os.Stdout).Encode(pids)
	case "table":
	default:
		return 1, problem.New(problem.Invalid, "invalid format option")
	}
	if len(rest) == 0 {
		rest = []string{"-ef"}
	}
	out, err := osexec.Command("ps", rest...).CombinedOutput()
	if err != nil {
		return 1, fmt.Errorf("ps %s: %w: %s", strings.Join(rest, " "), err, out)
	}
	return 0, filterProcesses(string(out), pids)
}

// filterProcesses prints the lines of ps's output that are about pids.
func filterProcesses(out string, pids []int) error {
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	column := slices.Index(strings.Fields(lines[0]), "PID")
	if column < 0 {
		return problem.New(problem.Invalid, "couldn't find PID field in ps output")
	}
	fmt.Println(lines[0])
	for _, line := range lines[1:] {
		fields := strings.Fields(line)
		if column >= len(fields) {
			continue
		}
		if pid, err := strconv.Atoi(fields[column]); err == nil && slices.Contains(pids, pid) {
			fmt.Println(line)
		}
	}
	return nil
}

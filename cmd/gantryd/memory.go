package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// gcPercent is how much the heap may grow between collections. A server idles
// with tens of megabytes that live long: half of Go's usual growth costs little
// CPU and keeps the process small.
const gcPercent = 50

const (
	// settle is how long after the start memory is given back first: the work
	// that the start has caused is over then.
	settle = 3 * time.Second
	// slimEvery is how often it is given back again: often enough that a burst
	// of work is forgotten soon, seldom enough that the page faults, some
	// milliseconds in all, do not count.
	slimEvery = time.Minute
)

// slim gives back what only the start has needed: garbage, and the pages of the
// program's text and tables. Three quarters of them are read once, by
// initialisers, or were mapped by the kernel because a neighbour was read. The
// kernel maps a page again, from its cache, when it is needed.
func slim(ctx context.Context) error {
	timer := time.NewTimer(settle)
	defer timer.Stop()
	for first := true; ; first = false {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		if first {
			debug.FreeOSMemory()
		}
		if err := dropProgram(); err != nil {
			return err
		}
		timer.Reset(slimEvery)
	}
}

func dropProgram() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return err
	}
	defer f.Close()
	areas, err := cleanAreas(f, self)
	if err != nil {
		return err
	}
	for _, a := range areas {
		// Straight to the kernel: the addresses are not a Go object's.
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, a.from, a.to-a.from, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("give the program's pages back: %w", errno)
		}
	}
	return nil
}

// area is a range of addresses.
type area struct{ from, to uintptr }

// cleanAreas returns the read-only mappings of the file at path that hold no
// page of our own, such as a relocation would make: dropping one loses nothing.
// smaps has the form of proc_pid_smaps(5).
func cleanAreas(smaps io.Reader, path string) ([]area, error) {
	var areas []area
	var now area
	candidate := false
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		line := lines.Text()
		fields := strings.Fields(line)
		if len(fields) >= 5 && strings.Contains(fields[0], "-") {
			candidate = len(fields) == 6 && fields[5] == path && fields[1][0] == 'r' && fields[1][1] == '-'
			if candidate {
				if _, err := fmt.Sscanf(fields[0], "%x-%x", &now.from, &now.to); err != nil {
					return nil, fmt.Errorf("malformed mapping %q: %w", line, err)
				}
			}
			continue
		}
		if candidate && len(fields) == 3 && fields[0] == "Anonymous:" && fields[1] == "0" {
			areas = append(areas, now)
		}
	}
	return areas, lines.Err()
}

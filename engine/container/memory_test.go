package container

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestShimsTakeNoHugePages looks at what Debian's kernels do by themselves: the
// first byte of a range that can hold a huge page gets one, 2 MiB for each part
// of the runtime's heap.
func TestShimsTakeNoHugePages(t *testing.T) {
	if _, err := os.Stat("/sys/kernel/mm/transparent_hugepage/enabled"); err != nil {
		return // the kernel has none
	}
	r := testRuntime(t)
	c := create(t, r, testSpec(t, busybox(t), "sleep", "1000"))
	if err := c.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", c.shim))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range hugeMappings(t, string(maps)) {
		t.Errorf("a huge page may be put into\n%s", m)
	}
}

// hugeMappings lists the mappings of a smaps file that hold memory of the
// process's own, have room for a huge page, and do not exclude one.
func hugeMappings(t *testing.T, smaps string) []string {
	t.Helper()
	const hugePage = 2 << 20
	var found []string
	var heading string
	var room, own bool
	for line := range strings.Lines(smaps) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch from, to, isRange := strings.Cut(name, "-"); {
		case isRange:
			begin, err := strconv.ParseUint(from, 16, 64)
			if err != nil {
				t.Fatal(err)
			}
			end, err := strconv.ParseUint(to, 16, 64)
			if err != nil {
				t.Fatal(err)
			}
			first := (begin + hugePage - 1) &^ (hugePage - 1)
			heading, room = line, first+hugePage <= end
		case name == "Anonymous:":
			own = strings.TrimSpace(value) != "0 kB"
		case name == "VmFlags:" && room && own && !strings.Contains(value+" ", " nh "):
			found = append(found, heading)
		}
	}
	return found
}

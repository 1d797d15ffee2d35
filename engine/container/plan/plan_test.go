package plan

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/internal/problem"
)

func TestMountOptions(t *testing.T) {
	cases := map[string]struct {
		in   []string
		want mountOptions
	}{
		"nothing":                      {nil, mountOptions{}},
		"attributes":                   {[]string{"ro", "nosuid", "noexec"}, mountOptions{set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC}},
		"the last of two wins":         {[]string{"ro", "rw"}, mountOptions{clear: unix.MOUNT_ATTR_RDONLY}},
		"and the other way":            {[]string{"rw", "ro"}, mountOptions{set: unix.MOUNT_ATTR_RDONLY}},
		"a bind with propagation":      {[]string{"rbind", "rslave"}, mountOptions{bind: true, recursive: true, propagation: unix.MS_SLAVE | unix.MS_REC}},
		"recursively read-only":        {[]string{"bind", "rro"}, mountOptions{bind: true, deepSet: unix.MOUNT_ATTR_RDONLY}},
		"the file system's own":        {[]string{"size=64m", "mode=755", "newinstance"}, mountOptions{data: []string{"size=64m", "mode=755", "newinstance"}}},
		"access times replace another": {[]string{"strictatime", "noatime"}, mountOptions{set: unix.MOUNT_ATTR_NOATIME, clear: unix.MOUNT_ATTR__ATIME}},
	}
	for name, c := range cases {
		got, err := parseOptions(c.in)
		if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(mountOptions{})); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got)\n%s", name, err, diff)
		}
	}
	for option, want := range map[string]problem.Kind{"copy-symlink": problem.Unsupported, "x=" + strings.Repeat("y", 300): problem.Invalid} {
		if _, err := parseOptions([]string{option}); !errors.Is(err, want) {
			t.Errorf("option %.20s: %v, want %v", option, err, want)
		}
	}
}

func TestOverlayOptionsFitManyLayers(t *testing.T) {
	var lower []string
	for i := range 125 {
		lower = append(lower, fmt.Sprintf("/var/lib/gantry/image/layers/%012x", i))
	}
	o := Overlay{Lower: lower, Upper: "/var/lib/gantry/containers/" + strings.Repeat("a", 64) + "/upper", Work: "/var/lib/gantry/containers/" + strings.Repeat("a", 64) + "/work"}
	base, data, err := o.options(false)
	if err != nil || base != "/var/lib/gantry/image/layers" {
		t.Fatalf("base %q, %v", base, err)
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(data, "lowerdir="), ":")
	if path.Join(base, first) != lower[0] {
		t.Errorf("the first layer is %s below %s", first, base)
	}
	for range 5 {
		lower = append(lower, lower...)
	}
	o.Lower = lower
	if _, _, err := o.options(false); !errors.Is(err, problem.Invalid) {
		t.Errorf("%d layers: %v", len(lower), err)
	}
	for _, bad := range []string{"/a:b", "/a,b", `/a\b`} {
		if _, _, err := (&Overlay{Lower: []string{bad}}).options(false); !errors.Is(err, problem.Invalid) {
			t.Errorf("layer %s: %v", bad, err)
		}
	}
	base, data, err = (&Overlay{Lower: []string{"/a/b/c", "/a/d"}}).options(false)
	if err != nil || base != "/a/b" || !strings.HasPrefix(data, "lowerdir=c:/a/d,") || strings.Contains(data, "upperdir") {
		t.Errorf("two places, read-only: base %q, %q, %v", base, data, err)
	}
}

func TestCgroupMountsComeLastUnlessCovered(t *testing.T) {
	m := func(kind, at string) specs.Mount { return specs.Mount{Type: kind, Destination: at} }
	mounts := []specs.Mount{m("proc", "/proc"), m("cgroup", "/sys/fs/cgroup"), m("tmpfs", "/run")}
	if now, last := split(mounts); len(now) != 2 || len(last) != 1 {
		t.Errorf("split %v into %v and %v", mounts, now, last)
	}
	for _, later := range []string{"/sys", "/sys/fs/cgroup", "/sys/fs/cgroup/pids"} {
		if now, last := split([]specs.Mount{mounts[1], m("tmpfs", later)}); len(now) != 2 || len(last) != 0 {
			t.Errorf("with a later mount at %s: %v and %v", later, now, last)
		}
	}
}

package instance

import (
	"errors"
	"testing"

	"gantry/internal/problem"
)

func TestNamesDeriveFromTheInstance(t *testing.T) {
	a, err := Config{}.WithDefaults()
	if err != nil {
		t.Fatal(err)
	}
	b, err := Config{Name: "a-second-instance"}.WithDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if a.Bridge() != "gantry0" || a.DataDir != "/var/lib/gantry" || a.DockerSocket() != "/run/gantry/docker.sock" {
		t.Errorf("default instance: %+v, bridge %s", a, a.Bridge())
	}
	pairs := map[string][2]string{
		"bridge":   {a.Bridge(), b.Bridge()},
		"pods":     {a.PodBridge(), b.PodBridge()},
		"table":    {a.Table(), b.Table()},
		"cgroup":   {a.Cgroup(), b.Cgroup()},
		"socket":   {a.DockerSocket(), b.DockerSocket()},
		"services": {a.ServiceSubnet().String(), b.ServiceSubnet().String()},
		"podrange": {a.PodSubnet().String(), b.PodSubnet().String()},
	}
	for what, p := range pairs {
		if p[0] == p[1] {
			t.Errorf("both instances have %s %s", what, p[0])
		}
	}
	for _, link := range []string{b.Bridge(), b.PodBridge()} {
		if len(link) > 15 {
			t.Errorf("interface name %s is longer than the kernel's 15 bytes", link)
		}
	}
}

func TestBadNamesAreRefused(t *testing.T) {
	for _, name := range []string{"Gantry", "-x", "a/b", "1st", "a-name-that-is-much-too-long"} {
		if _, err := (Config{Name: name}).WithDefaults(); !errors.Is(err, problem.Invalid) {
			t.Errorf("%q: %v, want Invalid", name, err)
		}
	}
}

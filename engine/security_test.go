package engine

import (
	"testing"

	dcontainer "github.com/moby/moby/api/types/container"

	"gantry/engine/internal/apparmor"
)

// What SecurityOpt and Privileged say reaches the process. Which profile is
// chosen is apparmor's to test.
func TestAppArmorOptions(t *testing.T) {
	confining := &Engine{apparmor: &apparmor.Host{Support: apparmor.Support{Enabled: true, Default: true}}}
	without := &Engine{apparmor: &apparmor.Host{}}
	for name, c := range map[string]struct {
		host dcontainer.HostConfig
		want string
	}{
		"nothing said":         {dcontainer.HostConfig{}, apparmor.Default},
		"a profile":            {dcontainer.HostConfig{SecurityOpt: []string{"label=disable", "apparmor=mine"}}, "mine"},
		"the old form":         {dcontainer.HostConfig{SecurityOpt: []string{"apparmor:mine"}}, "mine"},
		"the last one counts":  {dcontainer.HostConfig{SecurityOpt: []string{"apparmor=a", "apparmor=b"}}, "b"},
		"an empty one":         {dcontainer.HostConfig{SecurityOpt: []string{"apparmor="}}, apparmor.Default},
		"unconfined":           {dcontainer.HostConfig{SecurityOpt: []string{"apparmor=unconfined"}}, apparmor.Unconfined},
		"privileged":           {dcontainer.HostConfig{Privileged: true}, apparmor.Unconfined},
		"options of seccomp":   {dcontainer.HostConfig{SecurityOpt: []string{"seccomp=unconfined"}}, apparmor.Default},
		"no-new-privileges":    {dcontainer.HostConfig{SecurityOpt: []string{"no-new-privileges"}}, apparmor.Default},
		"capabilities, though": {dcontainer.HostConfig{CapAdd: []string{"ALL"}}, apparmor.Default},
	} {
		got := confining.appArmorProfile(&c.host)
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		if got := without.appArmorProfile(&c.host); got != "" {
			t.Errorf("%s, on a host without AppArmor: %q", name, got)
		}
		spec, err := buildSpec(&config{Config: &dcontainer.Config{}, HostConfig: &c.host}, surroundings{apparmor: got})
		if err != nil || spec.Process.ApparmorProfile != got {
			t.Errorf("%s: specification %+v, %v", name, spec, err)
		}
	}
}
